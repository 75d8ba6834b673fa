"""Pairs of a data set that others have made, as a run."""

import importlib
import logging
import sys
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any, Literal, cast

from tqdm import tqdm

from dsd.data.rows import Failure, Judged
from dsd.data.store import Run
from dsd.data.writer import TableWriter
from dsd.engines.specs import file_name
from dsd.exchange import LAYOUTS
from dsd.exchange.foreign import MAX_CURATORS, Found, Options, Reader, Refused
from dsd.exchange.output import RunLike, as_run
from dsd.types import Pair, Verdict

logger = logging.getLogger(__name__)

_MAX_REFUSED_AT_FIRST = 16


@dataclass(frozen=True, kw_only=True)
class Imported:
    """What an import did.

    Attributes:
        run: the run's folder.
        layout: of the source.
        pairs: how many pairs the run has.
        added: how many of them are new.
        twice: rows of the source that were equal to others, or in the run already.
        refused: rows that are no pairs; `Run.failed("pairs")` says why.
        changed: pairs whose content is not what their id in the source was made of, as after JPEG.
        verdicts: new verdicts, by curator.
        seconds: how long it took.
    """

    run: str
    layout: str
    pairs: int
    added: int
    twice: int
    refused: int
    changed: int
    verdicts: Mapping[str, int] = field(default_factory=dict)
    seconds: float

    def __str__(self) -> str:
        parts = [f"{self.added} new", f"{self.twice} there already", f"{self.refused} refused"]
        parts += [f"{self.changed} other than their ids say"] if self.changed else []
        parts += [f"{count} verdicts of {name}" for name, count in self.verdicts.items()]
        return f"pairs: {self.pairs} rows ({', '.join(parts)}) in {self.run} ({self.seconds:.1f} s)"


def import_pairs(
    source: str | PathLike[str],
    run: RunLike,
    layout: Literal["release", "subjects200k", "webdataset", "imagefolder"] = "release",
    columns: Mapping[str, str] | None = None,
    name: str | None = None,
    padding: int | None = None,
    min_quality: int = 5,
    limit: int | None = None,
    strict: bool = False,
    progress: bool = True,
) -> Imported:
    """Take the pairs of a data set in another layout into a run. Calling it again goes on.

    What comes in is bounded and checked; a row that is no pair is recorded in `Run.failed("pairs")` with its
    place and the reason, and the others go on. Rows that are equal are taken once. Verdicts come along where
    the layout has them, as those of a curator.

    Args:
        source: a folder or a file of this machine.
        run: the run or its folder; it must have no pairs of another origin.
        layout: "release", Parquet as primecai/dsd_data; "subjects200k"; "webdataset", tar archives;
            "imagefolder", pictures and metadata.jsonl.
        columns: where "reference", "target" and "caption" stand, if not in the layout's own places: columns,
            endings of an archive's files, or fields of metadata.jsonl.
        name: what pairs say of their origin if the source does not; the source's own name by default.
        padding: of "subjects200k": pixels around and between the two pictures; found out by default.
        min_quality: of "subjects200k": the lowest rating, 0 to 5, at which its verdict accepts.
        limit: take the first so many rows only.
        strict: stop at the first row that is no pair.
        progress: show a progress bar on stderr.

    Raises:
        FileNotFoundError: if the source is not there, or has no such files.
        ValueError: if the source is damaged, the first 16 rows are all refused, or, if `strict`, one is.
        SpecError: if the run has pairs of another origin.
        LockedError: if another process writes to the run.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"Unknown layout {layout!r}. Allowed: {', '.join(LAYOUTS)}.")
    if limit is not None and limit < 1:
        raise ValueError(f"`limit` must be at least 1; got {limit}.")
    if unknown := set(columns or {}) - {"reference", "target", "caption"}:
        raise ValueError(f"Unknown column {sorted(unknown)[0]!r}. Allowed: reference, target, caption.")
    started, place = time.monotonic(), Path(source).expanduser()
    if not place.exists():
        raise FileNotFoundError(f"There is no folder or file {place}. Check the path.")
    options = Options(
        name=name or place.absolute().name, columns=columns, padding=padding, min_quality=min_quality
    )
    read = cast(Reader, importlib.import_module(f"dsd.exchange.{layout}").read)
    target = as_run(run)
    rows = read(place, options)
    first = next(rows, None)  # a source that cannot be read is told of before a run is made
    if first is None:
        raise ValueError(f"{place} has no rows.")
    spec: dict[str, Any] = {"layout": layout, "name": options.name, "columns": dict(columns or {})}
    if layout == "subjects200k":
        spec |= {"padding": padding, "min_quality": min_quality}
    with target.lock("import"), ExitStack() as stack:
        intake = _Intake(target, {"imported": spec}, stack, strict=strict)
        with tqdm(desc="import", unit="row", file=sys.stderr, disable=not progress) as bar:
            taken = 0
            found: Found | Refused | None = first
            while found is not None and (limit is None or taken < limit):
                intake.take(found)
                taken += 1
                bar.update()
                found = next(rows, None)
        intake.finish()
        target.save_manifest()
    if intake.refused:
        logger.warning("%d rows were refused; %s says why", intake.refused, target.failed("pairs").folder)
    return Imported(
        run=str(target.path),
        layout=layout,
        pairs=len(target.pairs),
        added=intake.added,
        twice=intake.twice,
        refused=intake.refused,
        changed=intake.changed,
        verdicts=intake.judged,
        seconds=time.monotonic() - started,
    )


class _Intake:
    """Writes what comes: pairs, their verdicts, and why rows are refused.

    Args:
        run: where to; the caller holds its lock.
        spec: of the pairs.
        stack: what closes the tables.
        strict: whether a refused row ends the import.
    """

    def __init__(self, run: Run, spec: dict[str, Any], stack: ExitStack, *, strict: bool) -> None:
        self._run, self._spec, self._stack, self._strict = run, spec, stack, strict
        self._pairs: TableWriter[Pair] = stack.enter_context(TableWriter(run.pairs, spec))
        self._known = set(run.pairs.ids())
        self._proven = bool(self._known)
        self._held: list[Refused] = []
        failed = run.failed("pairs")
        self._failed = failed.keys() if failed.exists else set()
        self._mended: set[str] = set()
        self._failures: TableWriter[Failure] | None = None
        self._verdicts: dict[str, tuple[TableWriter[Judged], set[str]]] = {}
        self._statuses: dict[str, Counter[str]] = {}
        self.added = self.twice = self.refused = self.changed = 0
        self.judged: Counter[str] = Counter()

    def take(self, found: Found | Refused) -> None:
        """One row.

        Raises:
            ValueError: if it is refused and that must not be, or too many are at first.
        """
        if isinstance(found, Refused):
            self._refuse(found)
            return
        self._proven = True
        self._release()
        pair = found.pair
        if found.where in self._failed:  # the source was mended since
            self._failed.discard(found.where)
            self._mended.add(found.where)
        self.changed += found.claimed_id not in (None, pair.id)
        if pair.id in self._known:
            self.twice += 1
        else:
            self._known.add(pair.id)
            self._pairs.add([pair])
            self.added += 1
        for name, verdict in found.verdicts.items():
            self._judge(file_name(name), pair.id, verdict)

    def finish(self) -> None:
        """Write everything, and mark the stages as complete.

        Raises:
            ValueError: if nothing but refused rows came.
        """
        if self._held:
            self._give_up()
        self._pairs.finish(failed=len(self._failed))
        for name, (writer, _) in self._verdicts.items():
            column = self._run.verdicts(name).columns("status")["status"].to_pylist()
            writer.flush()
            writer.finish(**Counter(column))
        if self._failures is not None or self._mended:
            failures = self._failure_writer()
            failures.flush()
            failures.remove(lambda row: row["source"] in self._mended)
            failures.finish()

    def _failure_writer(self) -> TableWriter[Failure]:
        if self._failures is None:
            self._failures = self._stack.enter_context(TableWriter(self._run.failed("pairs"), {}))
        return self._failures

    def _judge(self, name: str, pair_id: str, verdict: Verdict) -> None:
        if name not in self._verdicts:
            if len(self._verdicts) >= MAX_CURATORS:
                raise ValueError(f"The source has verdicts of more than {MAX_CURATORS} curators.")
            table = self._run.verdicts(name)
            # Pairs come to the disk first: no verdict is on one that is not there.
            writer: TableWriter[Judged] = TableWriter(table, self._spec, first=(self._pairs,))
            self._stack.enter_context(writer)
            self._verdicts[name] = (writer, table.keys())
        writer, known = self._verdicts[name]
        if pair_id not in known:
            known.add(pair_id)
            writer.add([Judged(pair_id=pair_id, verdict=verdict)])
            self.judged[name] += 1

    def _refuse(self, row: Refused) -> None:
        if self._strict:
            raise ValueError(f"{row.where}: {row.reason} Leave `strict` out to pass over such rows.")
        self._held.append(row)
        if self._proven:
            self._release()
        elif len(self._held) >= _MAX_REFUSED_AT_FIRST:
            self._give_up()

    def _release(self) -> None:
        """Record refused rows, now that it is known that not all are."""
        for row in self._held:
            self.refused += 1
            if row.where not in self._failed:
                self._failure_writer().add([Failure(source=row.where, reason=row.reason)])
                self._failed.add(row.where)
        self._held = []

    def _give_up(self) -> None:
        last = self._held[-1]
        raise ValueError(
            f"The first {len(self._held)} rows were all refused, at last {last.where}: {last.reason} Check "
            "the layout and the columns."
        )
