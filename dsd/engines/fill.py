"""One stage over one run: what is missing is done, batch by batch, and written as it comes."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from typing import Any, TypeVar

from dsd.data.atomic import discard_folder
from dsd.data.rows import Failure, Row
from dsd.data.store import Run
from dsd.data.table import Table
from dsd.data.writer import TableWriter
from dsd.engines.base import Aligned, Engine, Job, Outage, Work
from dsd.engines.progress import Gauge
from dsd.engines.trial import Failures, Trial
from dsd.engines.watch import watched
from dsd.llm.records import OutOfService, Stopped

logger = logging.getLogger(__name__)
T = TypeVar("T")


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
    work: Work,
    *,
    engine: Engine,
    batch_size: int,
    overwrite: bool,
    retry_failed: bool,
    progress: bool,
    limit: int | None = None,
    name_hint: str = "",
    counts: Callable[[Table[T]], dict[str, Any]] = lambda table: {},
    gauge: Gauge[T] | None = None,
    why_failed: Callable[[Sequence[Row]], str | None] = lambda rows: None,
    here: bool = False,
    at_once: int = 1,
    cancel: Callable[[], None] = lambda: None,
) -> StageSummary:
    """Do what is missing of a stage, write it as it comes, and tell what was done.

    Batches are cut at fixed places of the earlier stage, and the rows of one are written together: so it
    holds the same records, and its rows are the same bit for bit, however often the stage was stopped.

    Args:
        run: the run.
        table: the stage's table.
        spec: what its rows are made with.
        work: turns a batch of `(id, record)` of the earlier stage into, for each, rows or a failure; or,
            where the money or the time of the run is spent, the error that says so.
        engine: where it does so.
        batch_size: of those batches.
        overwrite: discard the rows there are.
        retry_failed: try those again that failed before.
        progress: show a progress bar on stderr.
        limit: take the first so many rows of the earlier stage only.
        name_hint: for the message that another spec gets; see `TableWriter`.
        counts: what the finished table has to tell.
        gauge: what the progress bar shows beside the count.
        why_failed: why rows stand for a failure; None if they do not.
        here: whether `work` belongs to this process, whatever the engine, and each row costs: then the
            missing rows of a batch alone are done.
        at_once: how many batches `work` is given at the same time in this process, each in a thread.
        cancel: ends `work` in other threads.

    Raises:
        RuntimeError: if nothing but failures comes at first; they are not recorded.
        Stopped: when the money or the time of the run is spent, or a service has not answered many times in a
            row (`OutOfService`); what was done is written.
    """
    stage, started, added = table.kind.stage, time.monotonic(), 0
    earlier = run.earlier(stage)
    assert earlier is not None, "prompts have a loop of their own"
    made_from = state_of(earlier)  # before the lock: a run that does not exist is not created for this
    with run.lock(stage), ExitStack() as stack:
        made_from = state_of(earlier)
        run.check(earlier.kind.stage if overwrite else stage)
        output = stack.enter_context(
            TableWriter(table, spec, made_from, overwrite=overwrite, name_hint=name_hint)
        )
        failed = run.failed(stage)
        if overwrite or retry_failed:
            discard_folder(failed.folder)
        if retry_failed:
            output.remove(lambda row: row.get("status") == "failed")
        failures = Failures(failed, made_from, stack)
        wanted = earlier.row_ids().cut(0, limit)
        todo = ~(wanted.among(table.row_keys()) | wanted.among(failures.known))
        missing = int(todo.sum())
        batches = Aligned(wanted, todo, batch_size, whole=not (here or retry_failed))
        bar = stack.enter_context(watched(run, stage, len(wanted), len(wanted) - missing, progress=progress))
        trial: Trial[list[Row] | Failure] = Trial(stage, proven=len(table) > 0)
        gauge = gauge or Gauge()
        stopped: list[Stopped] = []
        done_now = 0

        def show(refresh: bool = False) -> None:
            told = gauge.shown(missing - done_now)
            bar.tell(told | ({"failed": str(failures.count)} if failures.count else {}), refresh=refresh)

        def write(result: list[Row] | Failure) -> list[Row]:
            """Write what became of one row of the earlier stage; the rows that there are of it."""
            nonlocal added, done_now
            done_now += 1
            bar.advance()
            if isinstance(result, Failure):
                failures.add(result)
                bar.failed(result)
                return []
            output.add_rows(result)
            added += len(result)
            if (reason := why_failed(result)) is not None:
                bar.failed(Failure(source=str(result[0][table.kind.key_column]), reason=reason))
            return result

        def write_held() -> None:
            for passed in trial.stop():
                gauge.add_rows(write(passed))

        stack.callback(write_held)  # whatever ends the stage
        job = Job(
            stage=stage,
            work=work,
            source=earlier,
            batches=batches,
            here=here,
            at_once=at_once,
            going_on=lambda: not stopped,
            meanwhile=lambda: show(refresh=True),
            cancel=cancel,
        )
        for ids, results in stack.enter_context(closing(engine.run(job))):
            rows: list[Row] = []
            for source, result in zip(ids, results, strict=True):
                if source in batches.done:
                    continue
                if isinstance(result, Stopped):
                    stopped.append(result)
                    continue
                outage = isinstance(result, Outage)
                result = result.result if isinstance(result, Outage) else result
                assert result, f"{stage} made nothing of {source}, so it would be done again and again"
                why = result.reason if isinstance(result, Failure) else why_failed(result)
                try:
                    for passed in trial.passed(result, why, outage=outage):
                        rows += write(passed)
                except OutOfService as error:
                    stopped.append(error)
                    break
            gauge.add_rows(rows)
            show()
            if any(isinstance(stop, OutOfService) for stop in stopped):
                break  # what else is being asked would fail too
        if stopped:
            write_held()
            output.flush()
            run.save_manifest()
            raise _told_how_to_go_on(stopped[0], stage, added, missing - done_now)
        for passed in trial.finish():
            gauge.add_rows(write(passed))
        show()
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


def _told_how_to_go_on(stop: Stopped, stage: str, added: int, missing: int) -> Stopped:
    """The same error, which says too what became of the stage."""
    how = "when the service is back" if isinstance(stop, OutOfService) else "with more money or time"
    stop.args = (
        f"{stop} {stage!r} has {added} new rows, which are written; {missing} are missing. Call the stage "
        f"again, {how}, to go on from there.",
    )
    return stop


def state_of(table: Table[Any]) -> dict[str, Any]:
    """What a table says of itself in the manifest of a stage that is made from it."""
    manifest = table.manifest
    return {"stage": manifest.stage, "rows": manifest.rows, "ids": manifest.ids}
