"""A folder of pictures with captions, as `datasets` reads it: `metadata.jsonl`, a line a pair.

    metadata.jsonl      {"reference_file_name": "images/a.png", "target_file_name": ..., "caption": ...}
    images/...

Further fields of a line are the pair's (`subject`, `kind`, `grid_id`, ...) and its `verdicts`. `metadata.csv`
with a line of names at its top is read as well.
"""

import csv
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dsd.exchange.foreign import Found, Options, Refused, claimed, fields, picture, verdicts
from dsd.opening import MAX_FILE_BYTES, is_inside
from dsd.types import Pair

COLUMNS = {"reference": "reference_file_name", "target": "target_file_name", "caption": "caption"}
METADATA = ("metadata.jsonl", "metadata.csv")
_MAX_LINE = 4 * 2**20


def read(source: Path, options: Options) -> Iterator[Found | Refused]:
    """See `Reader`. `options.columns` names other fields.

    Raises:
        FileNotFoundError: if there is no metadata file.
    """
    columns = {**COLUMNS, **(options.columns or {})}
    for path in find(source):
        name = path.relative_to(source).as_posix() if path != source else path.name
        lines = _json_lines(path) if path.suffix == ".jsonl" else _csv_lines(path)
        for number, line in lines:
            where = f"{name}, line {number}"
            try:
                yield _found(where, _parsed(line), path.parent, columns, options)
            except (ValueError, OSError, RecursionError) as error:
                yield Refused(where=where, reason=str(error))


def find(source: Path) -> list[Path]:
    """The metadata files of a folder and of those in it.

    Raises:
        FileNotFoundError: if there is none.
    """
    if source.is_file() and source.name in METADATA:
        return [source]
    found = sorted(path for name in METADATA for path in source.rglob(name) if path.is_file())
    if not found:
        raise FileNotFoundError(f"{source} has no {' or '.join(METADATA)}. Check the path and the layout.")
    return found


def _parsed(line: Any) -> Mapping[str, Any]:
    row = json.loads(line) if isinstance(line, bytes) else line
    if isinstance(row, Exception):
        raise row
    if not isinstance(row, Mapping):
        raise ValueError("The line is no object.")
    return row


def _found(
    where: str, row: Mapping[str, Any], folder: Path, columns: Mapping[str, str], options: Options
) -> Found:
    pictures = {role: _content(row.get(columns[role]), folder, role) for role in ("reference", "target")}
    about = {**row, "caption": row.get(columns["caption"])}
    for name in ("reference_panel", "target_panel"):  # CSV has texts alone
        if isinstance(about.get(name), str):
            about[name] = int(about[name]) if about[name].isdecimal() else None
    pair = Pair(
        reference=picture(pictures["reference"], "reference"),
        target=picture(pictures["target"], "target"),
        **fields(about, options),
    )
    return Found(where=where, pair=pair, verdicts=verdicts(row.get("verdicts")), claimed_id=claimed(row))


def _content(name: Any, folder: Path, what: str) -> bytes:
    if not isinstance(name, str) or not name or "\0" in name:
        raise ValueError(f"The {what} is missing: the line names no file.")
    if not is_inside(folder, name) or "\\" in name or name.startswith("/"):
        raise ValueError(f"The {what} {name[:200]!r} is outside of the folder, and not read.")
    path = folder / name
    if not path.is_file():
        raise ValueError(f"The {what} {name[:200]!r} is no file.")
    if (size := path.stat().st_size) > MAX_FILE_BYTES:
        raise ValueError(
            f"The {what} {name[:200]!r} has {size:,} bytes; at most {MAX_FILE_BYTES:,} are read."
        )
    return path.read_bytes()


def _json_lines(path: Path) -> Iterator[tuple[int, Any]]:
    with path.open("rb") as file:
        number = 0
        while line := file.readline(_MAX_LINE + 1):
            number += 1
            if len(line) > _MAX_LINE:
                while line and not line.endswith(b"\n"):
                    line = file.readline(_MAX_LINE)
                yield number, ValueError(f"The line has more than {_MAX_LINE:,} bytes.")
            elif line.strip():
                yield number, line


def _csv_lines(path: Path) -> Iterator[tuple[int, Any]]:
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        try:
            for row in reader:
                yield reader.line_num, {name: value for name, value in row.items() if name and value}
        except (csv.Error, UnicodeDecodeError) as error:
            raise ValueError(f"{path} is damaged at line {reader.line_num}: {error}.") from error
