"""One stage over one run: what is missing is done, batch by batch, and written as it comes."""

import itertools
import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, TypeVar

from tqdm import tqdm

from dsd.data.atomic import discard_folder
from dsd.data.rows import Failure
from dsd.data.store import Run
from dsd.data.table import Table
from dsd.data.writer import TableWriter
from dsd.engines import local

logger = logging.getLogger(__name__)
T = TypeVar("T")

MAX_FAILURES_AT_FIRST = 16


@dataclass(frozen=True, kw_only=True)
class StageSummary:
    """What a call of a stage did.

    Attributes:
        stage: its name.
        rows: how many rows it has now.
        added: how many of them are new.
        failed: how many rows of the earlier stage it could not do, in all calls so far.
        seconds: how long this call took.
        counts: what else there is to tell, such as the number of accepted pairs.
    """

    stage: str
    rows: int
    added: int
    failed: int = 0
    seconds: float
    counts: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        counts = "".join(f", {name} {value}" for name, value in self.counts.items())
        failed = f", {self.failed} failed" if self.failed else ""
        return f"{self.stage}: {self.rows} rows, {self.added} new{failed}{counts} ({self.seconds:.1f} s)"


def fill(
    run: Run,
    table: Table[T],
    spec: Mapping[str, Any],
    work: Callable[[list[tuple[str, Any]]], list[list[T] | Failure]],
    *,
    batch_size: int,
    overwrite: bool,
    retry_failed: bool,
    progress: bool,
    limit: int | None = None,
    name_hint: str = "",
    counts: Callable[[Table[T]], dict[str, Any]] = lambda table: {},
    shown: Callable[[Sequence[T]], dict[str, int]] = lambda records: {},
) -> StageSummary:
    """Do what is missing of a stage, write it as it comes, and tell what was done.

    Args:
        run: the run.
        table: the stage's table.
        spec: what its rows are made with.
        work: turns a batch of `(id, record)` of the earlier stage into, for each, rows or a failure.
        batch_size: of those batches.
        overwrite: discard the rows there are.
        retry_failed: try those again that failed before.
        progress: show a progress bar on stderr.
        limit: take the first so many rows of the earlier stage only.
        name_hint: for the message that another spec gets; see `TableWriter`.
        counts: what the finished table has to tell.
        shown: what new rows add to the shares that the progress bar shows.
    """
    stage, started, added = table.kind.stage, time.monotonic(), 0
    earlier = run.earlier(stage)
    assert earlier is not None, "prompts have a loop of their own"
    made_from = _state(earlier)  # before the lock: a run that does not exist is not created for this
    with run.lock(stage), ExitStack() as stack:
        made_from = _state(earlier)
        run.check(earlier.kind.stage if overwrite else stage)
        output = stack.enter_context(
            TableWriter(table, spec, made_from, overwrite=overwrite, name_hint=name_hint)
        )
        failed = run.failed(stage)
        if overwrite or retry_failed:
            discard_folder(failed.folder)
        if retry_failed:
            output.remove(lambda row: row.get("status") == "failed")
        failures = _Failures(failed, made_from, stack, proven=len(table) > 0)
        wanted = earlier.ids()[:limit]
        done = table.keys() | failures.known
        missing = [source for source in wanted if source not in done]
        bar = stack.enter_context(progress_bar(stage, len(wanted), progress, len(wanted) - len(missing)))
        tally: dict[str, int] = {}
        for batch, results in local.run(work, _batches(earlier.items(missing), batch_size)):
            for (source, _), result in zip(batch, results, strict=True):
                if isinstance(result, Failure):
                    failures.add(result)
                    continue
                assert result, f"{stage} made nothing of {source}, so it would be done again and again"
                failures.prove()
                output.add(result)
                added += len(result)
                for key, value in shown(result).items():
                    tally[key] = tally.get(key, 0) + value
            bar.update(len(batch))
            shares = {key: f"{value / max(added, 1):.0%}" for key, value in tally.items()}
            bar.set_postfix(shares | ({"failed": failures.count} if failures.count else {}), refresh=False)
        failures.finish()
        output.flush()
        told = counts(table)
        num_failed = failures.count + told.pop("failed", 0)
        output.finish(**told, failed=num_failed)
        run.save_manifest()
    if num_failed:
        logger.warning(
            "%s: %d of %d failed; %s says why. Call the stage with retry_failed=True to try them again.",
            stage, num_failed, len(wanted), failed.folder if failures.count else table.folder,
        )  # fmt: skip
    return StageSummary(
        stage=stage,
        rows=len(table),
        added=added,
        failed=num_failed,
        seconds=time.monotonic() - started,
        counts=told,
    )


class _Failures:
    """Records failures as they come, but stops a stage that has never done anything else.

    Args:
        table: where to record them.
        made_from: the state of the earlier stage.
        stack: what closes the table.
        proven: whether the stage has succeeded before, so that failures are the rows' own.
    """

    def __init__(
        self, table: Table[Failure], made_from: Mapping[str, Any], stack: ExitStack, *, proven: bool
    ) -> None:
        self._table, self._made_from, self._stack, self._proven = table, made_from, stack, proven
        self._writer: TableWriter[Failure] | None = None
        self._waiting: list[Failure] = []
        self.known = table.keys() if table.exists else set()
        self.count = len(self.known)

    def add(self, failure: Failure) -> None:
        self._waiting.append(failure)
        if self._proven:
            self._record()
        elif len(self._waiting) >= MAX_FAILURES_AT_FIRST:
            self.finish()

    def prove(self) -> None:
        """Something succeeded, so the failures before it were their own."""
        self._proven = True
        self._record()

    def finish(self) -> None:
        """Raise if nothing but failures came."""
        if self._waiting:
            stage = self._table.kind.stage.partition("/")[2]
            raise RuntimeError(
                f"The first {len(self._waiting)} of {stage!r} all failed, at last with: "
                f"{self._waiting[-1].reason} They are not recorded. Mend the cause and call the stage again."
            )

    def _record(self) -> None:
        if self._waiting:
            if self._writer is None:
                self._writer = self._stack.enter_context(TableWriter(self._table, {}, self._made_from))
            self._writer.add(self._waiting)
            self.count, self._waiting = self.count + len(self._waiting), []


def _state(table: Table[Any]) -> dict[str, Any]:
    manifest = table.manifest
    return {"stage": manifest.stage, "rows": manifest.rows, "ids": manifest.ids}


def _batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while batch := list(itertools.islice(iterator, size)):
        yield batch


def progress_bar(name: str, total: int, progress: bool, done: int = 0) -> "tqdm[Any]":
    """A bar on stderr that begins at what is done already."""
    return tqdm(
        total=total,
        initial=done,
        desc=name,
        unit="row",
        file=sys.stderr,
        disable=not progress,
        mininterval=0.5,
    )
