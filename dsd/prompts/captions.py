"""Reference captions, which give a language model something to be inspired by: from files or the Hub."""

import csv
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from dsd.parquet import open_parquet, read_rows
from dsd.texts import one_line

MAX_CHARS = 1000
_COLUMNS = ("caption", "text", "prompt", "description")
_MAX_LINE_CHARS = 2**16
_MAX_JSON_BYTES = 2**28
_SUFFIXES = (".txt", ".csv", ".json", ".jsonl", ".parquet")


def read_captions(
    source: str, column: str | None = None, *, split: str = "train", limit: int = 100_000
) -> list[str]:
    """The first captions of a source, each once, on one line of at most 1,000 characters.

    Args:
        source: a .txt file with one caption a line; a .csv, .json, .jsonl or .parquet file; a folder of
            Parquet files; or the id of a data set on the Hugging Face Hub, of which only the rows up to
            `limit` are read.
        column: where the captions stand. By default "caption", "text", "prompt" or "description", or the only
            column there is.
        split: of a data set on the Hub.
        limit: how many rows are read. They are not mixed: of a sorted source give a mixed part.

    Raises:
        FileNotFoundError: if there is no such file or data set.
        ValueError: if the source is damaged or of another kind, has no such column, or no captions.
    """
    if limit < 1:
        raise ValueError(f"The limit of captions must be at least 1; got {limit}.")
    path = Path(source).expanduser()
    rows: Iterable[Any]
    if path.is_dir():
        files = sorted(file for file in path.rglob("*.parquet") if not file.name.startswith("."))
        if not files:
            raise FileNotFoundError(f"The folder {source} holds no Parquet files.")
        rows = itertools.chain.from_iterable(_parquet(file, column) for file in files)
    elif path.is_file():
        rows = _file(path, column)
    elif path.suffix in _SUFFIXES or source.count("/") > 1 or source.startswith((".", "~", "/")):
        raise FileNotFoundError(f"There is no file of captions at {source}. Check the path.")
    else:
        rows = _hub(source, column, split)
    found: dict[str, str] = {}
    for row in itertools.islice(rows, limit):
        if isinstance(row, str) and (caption := one_line(row, MAX_CHARS)):
            found.setdefault(caption.casefold(), caption)
    if not found:
        raise ValueError(f"{source} holds no captions{f' in its column {column!r}' if column else ''}.")
    return list(found.values())


def _file(path: Path, column: str | None) -> Iterator[Any]:
    readers = {".csv": _csv, ".json": _json, ".jsonl": _jsonl, ".parquet": _parquet, ".txt": _text}
    if path.suffix not in readers:
        raise ValueError(f"Captions are read from {', '.join(_SUFFIXES)} files; got {path}.")
    try:
        yield from readers[path.suffix](path, column)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: {error}. Save it as UTF-8.") from error


def _text(path: Path, column: str | None) -> Iterator[str]:
    _no_column(path, column)
    with path.open(encoding="utf-8") as file:
        yield from _lines(file)


def _lines(file: TextIO) -> Iterator[str]:
    """Its lines; what a line has beyond 64 ki characters is passed over, so that none fills the memory."""
    whole = True
    while line := file.readline(_MAX_LINE_CHARS):
        if whole:
            yield line
        whole = line.endswith("\n")


def _csv(path: Path, column: str | None) -> Iterator[Any]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.DictReader(file)
        try:
            name = _chosen(path, rows.fieldnames or (), column)
            for row in rows:
                yield row[name]
        except csv.Error as error:
            raise ValueError(f"{path}, line {rows.line_num} is not CSV: {error}.") from error


def _jsonl(path: Path, column: str | None) -> Iterator[Any]:
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(_lines(file), start=1):
            if line.strip():
                yield _cell(path, _parsed(f"{path}, row {number}", line), column)


def _json(path: Path, column: str | None) -> Iterator[Any]:
    if (size := path.stat().st_size) > _MAX_JSON_BYTES:
        raise ValueError(f"{path} has {size} bytes, too many for one JSON document. Write it as .jsonl.")
    rows = _parsed(str(path), path.read_text(encoding="utf-8"))
    if not isinstance(rows, list):
        raise ValueError(f"{path} must hold a list of captions or of objects; got {type(rows).__name__}.")
    for row in rows:
        yield _cell(path, row, column)


def _parsed(where: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{where} is not JSON: {error}.") from error


def _cell(path: Path, row: Any, column: str | None) -> Any:
    if isinstance(row, str):
        return row
    if not isinstance(row, Mapping):
        raise ValueError(f"{path}: a row must be a text or an object; got {type(row).__name__}.")
    return row[_chosen(path, list(row), column)]


def _parquet(path: Path, column: str | None) -> Iterator[Any]:
    with open_parquet(path) as file:
        texts = [field.name for field in file.schema_arrow if _is_text(field.type)]
    name = _chosen(path, texts, column)
    for row in read_rows(path, [name]):
        yield row[name]


def _is_text(kind: Any) -> bool:
    import pyarrow

    return bool(pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind))


def _hub(source: str, column: str | None, split: str) -> Iterator[Any]:
    import datasets

    rows = datasets.load_dataset(source, split=split, streaming=True)
    name = None
    if rows.column_names is not None:
        name = _chosen(source, rows.column_names, column)
        rows = rows.select_columns([name])  # pictures beside the captions are not even read
    for row in rows:
        name = name or _chosen(source, list(row), column)
        yield row[name]


def _chosen(source: object, names: Sequence[str], column: str | None) -> str:
    """The column with the captions."""
    if column is not None:
        if column in names:
            return column
        raise ValueError(f"{source} has no column {column!r} of text; it has {', '.join(names) or 'none'}.")
    known = {name.casefold(): name for name in reversed(names)}
    for name in _COLUMNS:
        if name in known:
            return known[name]
    if len(names) == 1:
        return names[0]
    raise ValueError(
        f"{source} has the columns {', '.join(names) or 'none'}. Say which one holds the captions: column=..."
    )


def _no_column(path: Path, column: str | None) -> None:
    if column is not None:
        raise ValueError(f"{path} is a text file without columns; got column={column!r}. Leave it out.")
