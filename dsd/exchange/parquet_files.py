"""Rows of Parquet files that others have written, a few at a time."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from dsd.parquet import column_names, open_parquet

_BATCH_ROWS = 4  # large pictures: a few rows hold hundreds of megabytes


def find(source: Path, ending: str) -> list[Path]:
    """The files of that ending in a folder, in the order of their paths; or the one file.

    Raises:
        FileNotFoundError: if there is none.
    """
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise FileNotFoundError(f"There is no folder or file {source}. Check the path.")
    found = sorted(path for path in source.rglob(f"*{ending}") if path.is_file())
    found = [path for path in found if not any(p.startswith(".") for p in path.relative_to(source).parts)]
    if not found:
        raise FileNotFoundError(f"{source} has no {ending} files. Check the path and the layout.")
    return found


def rows(
    files: Sequence[Path], columns: Sequence[str], root: Path
) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """Each row of some files with its place, such as "train-00000.parquet, row 12"; calling it gives its
    values, or raises a `ValueError` that is about this row alone.

    Args:
        files: in order.
        columns: those that are needed, as far as a file has them.
        root: the folder that the files are in, for their names.

    Raises:
        ValueError: if a file is damaged or claims more than is read; it says which, and how far it was read.
    """
    for path in files:
        name = path.relative_to(root).as_posix() if path != root else path.name
        number = 0
        with open_parquet(path) as file:
            there = [column for column in columns if column in file.schema_arrow.names]
            try:
                for batch in file.iter_batches(_BATCH_ROWS, columns=there, use_threads=False):
                    for i in range(len(batch)):
                        yield f"{name}, row {number}", partial(_values, batch.slice(i, 1))
                        number += 1
            except (pa.ArrowException, OSError) as error:
                why = str(error).splitlines()[0]
                raise ValueError(
                    f"{path} is damaged after row {number}: {why}. The pairs before it are kept. Get the "
                    "file again and repeat the import, which goes on from there."
                ) from error


def _values(row: pa.RecordBatch) -> dict[str, Any]:
    try:
        found: dict[str, Any] = row.to_pylist()[0]
    except UnicodeDecodeError as error:
        raise ValueError(f"A text is not UTF-8: {error}.") from error
    return found


def names(path: Path) -> list[str]:
    """The columns of a file."""
    return column_names(path)
