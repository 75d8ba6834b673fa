"""Ratings that exist already, of people or of earlier runs, as a judge: they enter the same reports."""

import csv
import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from dsd.judges.base import RATING_STATUSES, Case, Judge, Rating
from dsd.parquet import column_names, read_rows

_COLUMNS = ("key", "value", "rubric", "run", "judge", "status", "reason")
_MAX_ROWS = 10_000_000
_MAX_CELL_CHARS = 100_000
_EMPTY = ("", "nan", "none", "null", "na", "n/a")


class RecordedJudge(Judge):
    """Looks ratings up in a file.

    The file has a row for each rating: `key` of the case, `value`, and where there are several of them `run`
    (from 0; 0 where there is no such column), `rubric` and `judge` (who rated). A row may have `status` and
    `reason` too; one without a value is "unparsable" if its status does not say otherwise. A case that is not
    in the file is "failed". Other columns are left alone.

    Args:
        path: a .csv file with names in its first line, a .parquet, or a .jsonl file with an object a line.
        rubric: whose ratings to take; needed if the file has those of several.
        judge: whose ratings to take; needed if several rated. Raters can also be numbered as runs.
        low: lowest rating of the scale.
        high: highest rating of the scale.

    Attributes:
        runs: as many as the file has.

    Raises:
        FileNotFoundError: if there is no such file.
        LookupError: if the file has no ratings of that rubric or judge.
        ValueError: if it is damaged, lacks a column, has ratings of several rubrics or judges and none is
            chosen, two ratings for one key and run, or a rating outside the scale.
    """

    free = True

    def __init__(
        self,
        path: str | PathLike[str],
        rubric: str | None = None,
        judge: str | None = None,
        low: float = 0,
        high: float = 4,
    ) -> None:
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise ValueError(f"A scale goes from `low` up to `high`; got {low} and {high}.")
        self.low, self.high = float(low), float(high)
        self._path = Path(path).expanduser()
        if not self._path.is_file():
            raise FileNotFoundError(f"There is no file of ratings at {path}.")
        rows = list(_rows(self._path))
        rows, self.rubric_name = _chosen(rows, "rubric", rubric, self._path)
        rows, self._judge = _chosen(rows, "judge", judge, self._path)
        self._ratings: dict[tuple[str, int], Rating] = {}
        for number, row in rows:
            rating = self._rating(row, f"Row {number} of {self._path}")
            if (place := (rating.key, rating.run)) in self._ratings:
                raise ValueError(
                    f"{self._path} has two ratings for the key {rating.key!r} and run {rating.run}. Name "
                    "whose to take by `judge` or `rubric`, or number them in a column `run`."
                )
            self._ratings[place] = rating
        self.runs = 1 + max((run for _, run in self._ratings), default=0)
        said = sorted((*place, r.value, r.status, r.reason) for place, r in self._ratings.items())
        self.fingerprint = hashlib.sha256(json.dumps(said, default=str).encode()).hexdigest()[:16]

    def rate(self, case: Case, run: int = 0) -> Rating:
        """What the file says of the case."""
        found = self._ratings.get((case.key, run))
        if found is not None:
            return found
        return Rating(
            key=case.key,
            rubric=self.rubric_name,
            judge=self._judge,
            run=run,
            status="failed",
            reason=f"{self._path.name} has no rating of this case in run {run}.",
            cost_usd=0.0,
        )

    def _rating(self, row: Mapping[str, Any], where: str) -> Rating:
        key = _cell(row, "key")
        if not key:
            raise ValueError(f"{where} has no key.")
        value = _number(row, "value", where)
        status = _cell(row, "status") or ("unparsable" if value is None else "rated")
        if status not in RATING_STATUSES:
            raise ValueError(f"{where} has the status {status!r}. Allowed: {', '.join(RATING_STATUSES)}.")
        if value is not None and not self.low <= value <= self.high:
            raise ValueError(
                f"{where} rates {key!r} {value:g}, outside the scale from {self.low:g} to {self.high:g}. "
                "Give `low` and `high` as they are."
            )
        run = _number(row, "run", where) or 0
        if run != int(run) or not 0 <= run < 10_000:
            raise ValueError(f"{where}: `run` is a whole number from 0 to 9999; got {run:g}.")
        if (value is None) == (status == "rated"):
            raise ValueError(f"{where} has a value, or none, against its status {status!r}.")
        return Rating(
            key=key,
            rubric=self.rubric_name,
            judge=self._judge,
            run=int(run),
            value=value,
            status=status,  # type: ignore[arg-type]  # checked above
            reason=_cell(row, "reason"),
            cost_usd=0.0,
        )


Row = tuple[int, Mapping[str, Any]]


def _chosen(rows: list[Row], column: str, wanted: str | None, path: Path) -> tuple[list[Row], str]:
    """The rows of one rubric or judge, and its name."""
    found = sorted({_cell(row, column) for _, row in rows})
    told = ", ".join(map(repr, found[:20])) or "none"
    if wanted is None:
        if len(found) > 1:
            raise ValueError(f"{path} has ratings of more than one {column}: {told}. Name one by `{column}`.")
        return rows, (found[0] if found else "") or path.stem
    if found in ([], [""]):
        return rows, wanted  # the file does not say
    if wanted not in found:
        raise LookupError(f"{path} has no ratings of the {column} {wanted!r}. It has: {told}.")
    return [(number, row) for number, row in rows if _cell(row, column) == wanted], wanted


def _rows(path: Path) -> Iterator[Row]:
    """Numbered rows, checked to have the columns that are needed."""
    readers = {".csv": _csv, ".parquet": _parquet, ".jsonl": _jsonl}
    if path.suffix not in readers:
        raise ValueError(f"Ratings are read from {', '.join(readers)} files; got {path.name!r}.")
    for number, row in enumerate(readers[path.suffix](path), start=1):
        if number > _MAX_ROWS:
            raise ValueError(f"{path} has more than {_MAX_ROWS} rows.")
        if missing := [name for name in ("key", "value") if name not in row]:
            known = ", ".join(map(str, list(row)[:20]))
            raise ValueError(f"{path} has no column {missing[0]!r} in row {number}; it has: {known}.")
        yield number, {name: row[name] for name in _COLUMNS if name in row}


def _csv(path: Path) -> Iterator[Mapping[str, Any]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        try:
            for row in csv.DictReader(file, strict=True):
                if None in row or None in row.values():
                    raise ValueError(f"{path} has a row that has not as many cells as its first line: {row}.")
                yield row
        except (csv.Error, UnicodeDecodeError) as error:
            raise ValueError(f"{path} is no CSV in UTF-8: {error}.") from error


def _jsonl(path: Path) -> Iterator[Mapping[str, Any]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise ValueError(f"Line {number} of {path} is no JSON: {error}.") from error
            if not isinstance(row, dict):
                raise ValueError(f"Line {number} of {path} must be an object; got {type(row).__name__}.")
            yield row


def _parquet(path: Path) -> Iterator[Mapping[str, Any]]:
    there = column_names(path)
    columns = [name for name in _COLUMNS if name in there]
    if not {"key", "value"} <= set(columns):
        raise ValueError(f"{path} has the columns {there}; `key` and `value` are needed.")
    yield from read_rows(path, columns)


def _cell(row: Mapping[str, Any], column: str) -> str:
    value = row.get(column)
    return "" if value is None else str(value).strip()[:_MAX_CELL_CHARS]


def _number(row: Mapping[str, Any], column: str, where: str) -> float | None:
    """A number, or None for an empty cell."""
    value = row.get(column)
    if value is None or (isinstance(value, str) and value.strip().lower() in _EMPTY):
        return None
    if isinstance(value, bool):
        raise ValueError(f"{where}: `{column}` must be a number; got {value!r}.")
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{where}: `{column}` must be a number; got {value!r}.") from error
    if math.isinf(number):
        raise ValueError(f"{where}: `{column}` must be finite; got {value!r}.")
    return None if math.isnan(number) else number
