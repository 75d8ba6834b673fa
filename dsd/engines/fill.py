"""One stage over one run: what is missing is done, batch by batch, and written as it comes."""

import itertools
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from typing import Any, TypeVar

from dsd.data.atomic import discard_folder
from dsd.data.rows import Failure
from dsd.data.store import Run
from dsd.data.table import Table
from dsd.data.writer import TableWriter
from dsd.engines import local
from dsd.engines.progress import Gauge, progress_bar
from dsd.llm.records import Stopped

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
        counts: what else there is to tell, such as the number of accepted pairs; None is unknown.
        dry_run: nothing was done, and `counts` says what would be.
    """

    stage: str
    rows: int
    added: int
    failed: int = 0
    seconds: float
    counts: Mapping[str, Any] = field(default_factory=dict)
    dry_run: bool = False

    def __str__(self) -> str:
        counts = "".join(f", {k} {'unknown' if v is None else v}" for k, v in self.counts.items())
        if self.dry_run:
            return f"{self.stage}: {self.rows} rows, dry run{counts} (estimated; nothing was asked)"
        failed = f", {self.failed} failed" if self.failed else ""
        return f"{self.stage}: {self.rows} rows, {self.added} new{failed}{counts} ({self.seconds:.1f} s)"


def fill(
    run: Run,
    table: Table[T],
    spec: Mapping[str, Any],
    work: Callable[[list[tuple[str, Any]]], Sequence[list[T] | Failure | Stopped]],
    *,
    batch_size: int,
    overwrite: bool,
    retry_failed: bool,
    progress: bool,
    limit: int | None = None,
    name_hint: str = "",
    counts: Callable[[Table[T]], dict[str, Any]] = lambda table: {},
    gauge: Gauge[T] | None = None,
    why_failed: Callable[[Sequence[T]], str | None] = lambda records: None,
    at_once: int = 1,
    cancel: Callable[[], None] = lambda: None,
) -> StageSummary:
    """Do what is missing of a stage, write it as it comes, and tell what was done.

    Args:
        run: the run.
        table: the stage's table.
        spec: what its rows are made with.
        work: turns a batch of `(id, record)` of the earlier stage into, for each, rows or a failure; or,
            where the money or the time of the run is spent, the error that says so.
        batch_size: of those batches.
        overwrite: discard the rows there are.
        retry_failed: try those again that failed before.
        progress: show a progress bar on stderr.
        limit: take the first so many rows of the earlier stage only.
        name_hint: for the message that another spec gets; see `TableWriter`.
        counts: what the finished table has to tell.
        gauge: what the progress bar shows beside the count.
        why_failed: why rows stand for a failure; None if they do not.
        at_once: how many batches `work` is given at the same time, each in a thread of its own.
        cancel: ends `work` in other threads.

    Raises:
        RuntimeError: if nothing but failures comes at first; they are not recorded.
        Stopped: when the money or the time of the run is spent; what was done is written.
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
        failures = _Failures(failed, made_from, stack)
        wanted = earlier.ids()[:limit]
        done = table.keys() | failures.known
        missing = [source for source in wanted if source not in done]
        bar = stack.enter_context(progress_bar(stage, len(wanted), progress, len(wanted) - len(missing)))
        trial = _Trial(stage, proven=len(table) > 0)
        gauge = gauge or Gauge()
        stopped: list[Stopped] = []
        done_now = 0

        def show(refresh: bool = False) -> None:
            told = gauge.shown(len(missing) - done_now)
            bar.set_postfix(told | ({"failed": failures.count} if failures.count else {}), refresh=refresh)

        def write(rows: list[T] | Failure) -> None:
            nonlocal added
            if isinstance(rows, Failure):
                failures.add(rows)
                return
            output.add(rows)
            gauge.add(rows)
            added += len(rows)

        def worked(batch: list[tuple[str, Any]]) -> list[tuple[str, list[T] | Failure | Stopped]]:
            return list(zip([source for source, _ in batch], work(batch), strict=True))

        batches = _batches(earlier.items(missing), batch_size)
        going_on = itertools.takewhile(lambda batch: not stopped, batches)
        results = local.run(
            worked, going_on, at_once=at_once, meanwhile=lambda: show(refresh=True), cancel=cancel
        )
        for batch in stack.enter_context(closing(results)):
            for source, result in batch:
                if isinstance(result, Stopped):
                    stopped.append(result)
                    continue
                assert result, f"{stage} made nothing of {source}, so it would be done again and again"
                why = result.reason if isinstance(result, Failure) else why_failed(result)
                for rows in trial.passed(result, why):
                    write(rows)
                bar.update()
                done_now += 1
            show()
        if stopped:
            output.flush()
            run.save_manifest()
            raise _told_how_to_go_on(stopped[0], stage, added, len(missing) - done_now)
        trial.finish()
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


class _Trial:
    """Holds failures back until something succeeds: of a stage that never works, none is recorded.

    Args:
        stage: for the message.
        proven: whether the stage has succeeded before, so that failures are the rows' own.
    """

    def __init__(self, stage: str, *, proven: bool) -> None:
        self._stage, self._proven = stage, proven
        self._held: list[Any] = []
        self._why = ""

    def passed(self, result: T, why_failed: str | None) -> list[T]:
        """The results that can be written now that this one has come.

        Raises:
            RuntimeError: if it is the last of too many failures.
        """
        self._held.append(result)
        if why_failed is None:
            self._proven = True
        if self._proven:
            passed, self._held = self._held, []
            return passed
        self._why = why_failed or ""
        if len(self._held) >= MAX_FAILURES_AT_FIRST:
            self.finish()
        return []

    def finish(self) -> None:
        """Raise if nothing but failures came."""
        if self._held:
            raise RuntimeError(
                f"The first {len(self._held)} of {self._stage!r} all failed, at last with: {self._why} They "
                "are not recorded. Mend the cause and call the stage again."
            )


class _Failures:
    """Records failures as they come; the table is begun with the first.

    Args:
        table: where to record them.
        made_from: the state of the earlier stage.
        stack: what closes the table.
    """

    def __init__(self, table: Table[Failure], made_from: Mapping[str, Any], stack: ExitStack) -> None:
        self._table, self._made_from, self._stack = table, made_from, stack
        self._writer: TableWriter[Failure] | None = None
        self.known = table.keys() if table.exists else set()
        self.count = len(self.known)

    def add(self, failure: Failure) -> None:
        if self._writer is None:
            self._writer = self._stack.enter_context(TableWriter(self._table, {}, self._made_from))
        self._writer.add([failure])
        self.count += 1


def _told_how_to_go_on(stop: Stopped, stage: str, added: int, missing: int) -> Stopped:
    """The same error, which says too what became of the stage."""
    stop.args = (
        f"{stop} {stage!r} has {added} new rows, which are written; {missing} are missing. Call the stage "
        "again, with more money or time, to go on from there.",
    )
    return stop


def _state(table: Table[Any]) -> dict[str, Any]:
    manifest = table.manifest
    return {"stage": manifest.stage, "rows": manifest.rows, "ids": manifest.ids}


def _batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while batch := list(itertools.islice(iterator, size)):
        yield batch
