"""Putting the parts of a run together, or several runs into one."""

import logging
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import groupby
from os import PathLike
from typing import Any

from dsd.data.manifest import ManifestError, SpecError, check_spec
from dsd.data.part import folder_of_parts, found_parts, read_part
from dsd.data.rows import Row
from dsd.data.store import Run
from dsd.data.table import Table
from dsd.data.writer import TableWriter
from dsd.types import STATUSES

logger = logging.getLogger(__name__)
RunLike = Run | str | PathLike[str]


@dataclass(frozen=True, kw_only=True)
class MergeSummary:
    """What a merge did.

    Attributes:
        sources: how many runs or parts were put together.
        rows: of each stage, how many there are now.
        added: of each stage, how many of them are new.
        missing: parts that are not there, by number; only with `partial`.
        seconds: how long it took.
    """

    sources: int
    rows: Mapping[str, int] = field(default_factory=dict)
    added: Mapping[str, int] = field(default_factory=dict)
    missing: Sequence[int] = ()
    seconds: float = 0.0

    def __str__(self) -> str:
        told = ", ".join(f"{stage} {rows} ({self.added[stage]} new)" for stage, rows in self.rows.items())
        missing = f"; parts {_listed(self.missing)} are missing" if self.missing else ""
        return f"merged {self.sources}: {told or 'nothing'}{missing} ({self.seconds:.1f} s)"


def merge(run: RunLike, sources: Sequence[str] = (), *, partial: bool = False) -> MergeSummary:
    """Put the parts of a run together, which jobs with `shard` have made; or other runs into this one.

    All is checked before a row is written. Stopped in the midst of it, call it again. The rows come in the
    order of the parts, which is that of a run without parts. The parts stay; remove them when you like.

    Args:
        run: the run that the rows go to.
        sources: runs or parts to put together, in that order; the run's own parts by default.
        partial: take what there is, though parts are missing or not complete. Later ones can be merged then.

    Raises:
        FileNotFoundError: if there is nothing to merge.
        ManifestError: if parts are missing, not complete, damaged, or of different divisions.
        SpecError: if they were made with different specs.
        ValueError: if a row is in two of them, or the run has another one in its place.
        LockedError: if another process writes to the run.
    """
    started = time.monotonic()
    whole = run if isinstance(run, Run) else Run(run)
    parts, missing = _sources(whole, [Run(path) for path in sources])
    if missing and not partial:
        raise ManifestError(
            f"Parts {_listed(missing)} of {len(parts) + len(missing)} are missing in "
            f"{parts[0].path.parent}. Run "
            "their jobs, or take what there is with partial=True."
        )
    with whole.lock("merge"):
        stages = _stages(parts)
        for stage in stages:
            _check(whole, parts, stage, partial=partial)
        added = {stage: _add(whole, parts, stage) for stage in stages}
        for part in parts:
            _add_answers(whole, part)
        for stage in stages:
            whole.check(stage)
        whole.save_manifest()
    return MergeSummary(
        sources=len(parts),
        rows={stage: len(whole.table(stage)) for stage in stages},
        added=added,
        missing=missing,
        seconds=time.monotonic() - started,
    )


def _sources(whole: Run, given: list[Run]) -> tuple[list[Run], list[int]]:
    """What to merge, in order, and which parts are missing."""
    parts = given or [Run(path) for path in found_parts(whole)]
    if not parts:
        raise FileNotFoundError(
            f"{whole.path} has no parts to merge: {folder_of_parts(whole)} holds none. Make them by calling "
            "stages "
            "with shard=(i, n), or name the runs to merge."
        )
    if empty := [part.path for part in parts if not part.stages()]:
        raise FileNotFoundError(f"There are no rows in {empty[0]}. Check the path.")
    if same := [part.path for part in parts if part.path.resolve() == whole.path.resolve()]:
        raise ValueError(f"{same[0]} cannot be merged into itself.")
    told = [read_part(part) for part in parts]
    known = [part for part in told if part is not None]
    if not known:
        return parts, []
    if len(known) < len(parts) or len({part["of"] for part in known}) > 1:
        which = sorted({f"{part['of']}" for part in known}) + ["no"] * (len(known) < len(parts))
        raise ManifestError(
            f"These are parts of different divisions: of {' and of '.join(which)} parts. Remove those that "
            "do not "
            "belong together."
        )
    for part in known:
        for stage, taken in part["from"].items():
            table = whole.table(stage)
            now = {"rows": table.manifest.rows, "ids": table.manifest.ids}
            if now != taken:
                raise ManifestError(
                    f"Part {part['shard']} of {part['of']} was made from {taken['rows']} rows of {stage!r}; "
                    f"{whole.path} has {now['rows']}, or others. Merge it into the run that it is a part of."
                )
    by_number = {part["shard"]: run for part, run in zip(known, parts, strict=True)}
    if len(by_number) < len(parts):
        raise ValueError("A part is named twice.")
    missing = [number for number in range(known[0]["of"]) if number not in by_number]
    return [by_number[number] for number in sorted(by_number)], missing


def _stages(parts: Sequence[Run]) -> list[str]:
    """All stages of some runs, each after those whose rows it refers to."""
    found = dict.fromkeys(stage for part in parts for stage in part.stages())
    order = ["prompts", "grids", "pairs", "verdicts", "captions", "encoded", "failed"]
    return sorted(
        found, key=lambda stage: (order.index(stage.partition("/")[0]), stage.endswith("/pairs"), stage)
    )


def _shared(stage: str) -> bool:
    """Whether equal rows of several parts stand for one: captions and references that many pairs have."""
    return stage.startswith("encoded/") and not stage.endswith("/pairs")


def _check(whole: Run, parts: Sequence[Run], stage: str, *, partial: bool) -> None:
    tables = [(part.path, part.table(stage)) for part in parts]
    without = [path for path, table in tables if not table.exists]
    optional = stage.startswith("failed/")
    if without and not optional and not partial:
        raise ManifestError(
            f"{_listed(without)} has no rows of {stage!r}, and others have. Call the stage there, or take "
            "what there "
            "is with partial=True."
        )
    there = [(path, table) for path, table in tables if table.exists]
    open_ = [path for path, table in there if not (table.manifest.complete or optional)]
    if open_ and not partial:
        raise ManifestError(
            f"{_listed(open_)} is not complete in {stage!r}. Call the stage there again, or take what there "
            "is with "
            "partial=True."
        )
    into = whole.table(stage)
    spec = into.manifest.spec if into.exists else there[0][1].manifest.spec
    place = whole.path if into.exists else there[0][0]
    for path, table in there:
        try:
            check_spec(stage, spec, table.manifest.spec)
        except SpecError as error:
            raise SpecError(f"{path} and {place} were not made alike. {error}") from error
    if _shared(stage):
        return
    found: dict[str, tuple[str, str]] = {}
    for path, table in there:
        mine: dict[str, str] = {}
        for key, row_id in _names(table):
            if key in found and found[key][0] != str(path):
                raise ValueError(
                    f"Both {found[key][0]} and {path} have rows of {stage!r} made from {key}. Leave one of "
                    "them out."
                )
            mine[key] = mine.get(key, "") + row_id
        found |= {key: (str(path), ids) for key, ids in mine.items()}
    if into.exists:
        old: dict[str, str] = {}
        for key, row_id in _names(into):
            old[key] = old.get(key, "") + row_id
        other = [key for key, ids in old.items() if key in found and found[key][1] != ids]
        if other:
            raise ValueError(
                f"{whole.path} has other rows of {stage!r} than {found[other[0]][0]} for {len(other)} rows "
                "of the "
                f"stage before, such as {other[0]}. Merge into another run."
            )


def _names(table: Table[Any]) -> Iterator[tuple[str, str]]:
    """What each row was made from, and its id."""
    key, name = table.kind.key_column, table.kind.id_column
    columns = table.columns(*dict.fromkeys((key, name)))
    return zip(columns[key].to_pylist(), columns[name].to_pylist(), strict=True)


def _add(whole: Run, parts: Sequence[Run], stage: str) -> int:
    into, tables = whole.table(stage), [part.table(stage) for part in parts]
    tables = [table for table in tables if table.exists]
    earlier = whole.earlier(stage.removeprefix("failed/"))
    manifest = None if earlier is None else earlier.manifest
    made_from = (
        {} if manifest is None else {"stage": manifest.stage, "rows": manifest.rows, "ids": manifest.ids}
    )
    spent = sum(table.manifest.seconds for table in tables)
    added = 0
    with TableWriter(into, tables[0].manifest.spec, made_from) as output:
        known = into.keys()  # with rows that a stopped merge had written and not listed
        if not known:
            output.manifest = replace(output.manifest, seconds=round(spent, 3))
        for table in tables:
            for key, rows in _groups(table):
                if key not in known:
                    known.add(key)
                    output.add_rows(rows)
                    added += len(rows)
        output.flush()
        counts = _counts(whole, stage, [table.manifest.counts for table in tables])
        if all(table.manifest.complete for table in tables):
            output.finish(**counts)
    return added


def _groups(table: Table[Any]) -> Iterator[tuple[str, list[Row]]]:
    """Rows that were made from one row of the stage before, which stand together."""
    key = table.kind.key_column
    for shard in table.manifest.shards:
        content = table.whole(shard)
        rows = (content.slice(i, 1).to_pylist()[0] for i in range(len(content)))
        for name, group in groupby(rows, key=lambda row: row[key]):
            yield str(name), list(group)


def _counts(whole: Run, stage: str, counts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the stage tells of itself, counted anew where rows say it."""
    if stage.startswith("failed/") or not any(counts):
        return {}
    failed = whole.failed(stage)
    # Those of this stage are merged after it, so the parts say how many there are.
    told: dict[str, Any] = {}
    if stage.startswith("verdicts/"):
        paid = any("cost_usd" in count for count in counts)
        told = verdict_counts(whole.table(stage), paid=paid)
        told.pop("failed", None)
    known = len(failed) if failed.exists else 0
    return told | {"failed": max(known, sum(int(count.get("failed", 0)) for count in counts))}


def verdict_counts(table: Table[Any], *, paid: bool) -> dict[str, Any]:
    """How many verdicts of each status there are, the share of accepted ones among those that are accepted or
    rejected, and what all cost: None if that is unknown, nothing if they are free.
    """
    columns = table.columns("status", "cost_usd")
    status = columns["status"].to_pylist()
    costs = [cost for cost in columns["cost_usd"].to_pylist() if cost is not None]
    counts: dict[str, Any] = {name: status.count(name) for name in STATUSES if name in status}
    judged = counts.get("accepted", 0) + counts.get("rejected", 0)
    counts["yield"] = round(counts.get("accepted", 0) / judged, 4) if judged else None
    if costs:
        return counts | {"cost_usd": round(sum(costs), 6), "cost_known": len(costs)}
    return counts | ({"cost_usd": None} if paid and status else {})


def _add_answers(whole: Run, part: Run) -> None:
    """Answers that were paid for, so that none is paid for again in the whole run."""
    if not part.answers.exists():
        return
    from dsd.llm.cache import RequestCache

    RequestCache(whole.answers).close()
    with closing(sqlite3.connect(whole.answers, timeout=60)) as connection:
        connection.execute("ATTACH DATABASE ? AS part", (str(part.answers),))
        with connection:
            connection.execute("INSERT OR IGNORE INTO main.answers SELECT key, answer FROM part.answers")


def _listed(items: Sequence[Any]) -> str:
    shown = ", ".join(str(item) for item in items[:12])
    return shown + (f" and {len(items) - 12} more" if len(items) > 12 else "")
