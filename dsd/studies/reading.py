"""Tables and pictures that users bring."""

import csv
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from PIL import Image

from dsd import opening
from dsd.parquet import column_names, read_rows


def table_rows(path: Path, wanted: Iterable[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """(number, row) of a CSV file with a head, or of a Parquet file, from 1; what is missing is empty.

    Args:
        path: the file; one that is called .csv is read as such.
        wanted: the columns that it must have; a row of a Parquet file has no others.

    Raises:
        ValueError: if it has no such columns, or is neither.
    """
    names = list(dict.fromkeys(wanted))
    if path.suffix.lower() == ".csv":
        for line, row in csv_rows(path, names):
            yield line - 1, row
        return
    try:
        there = column_names(path)
    except ValueError as error:
        raise ValueError(f"{error} Give a table in Parquet, or one that is called .csv.") from error
    check_columns(path, there, names)
    for number, row in enumerate(read_rows(path, names), 1):
        yield number, {name: "" if row[name] is None else str(row[name]) for name in names}


def csv_rows(path: Path, wanted: Iterable[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """(number, row) of a CSV file with a head, from 2; cells that are missing are empty.

    Raises:
        ValueError: if it has no such columns, or is no CSV file in UTF-8.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            names = reader.fieldnames or ()
            check_columns(path, names, wanted)
            for line, row in enumerate(reader, 2):
                yield line, {name: row[name] or "" for name in names}
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no CSV file in UTF-8: {error}. Write it anew.") from error


def check_columns(path: Path, found: Collection[str], wanted: Iterable[str]) -> None:
    """Whether a table has the columns that are asked for.

    Raises:
        ValueError: if not, with those that it has.
    """
    if missing := [name for name in wanted if name not in found]:
        raise ValueError(
            f"{path} has no column {missing[0]!r}. It has: {', '.join(found) or 'none'}. Say which one to "
            "take with `columns`, such as {label: is_same}."
        )


def check_inside(folder: Path, name: str) -> None:
    """Refuse a file's name that leads out of a folder.

    Raises:
        ValueError: if it does.
    """
    if not opening.is_inside(folder, name):
        raise ValueError("leads out of the folder")


def open_picture(file: Path) -> Image.Image:
    """The whole picture.

    Raises:
        OSError, ValueError: if it cannot be read, or is too large to be one.
    """
    return opening.open_image(file)
