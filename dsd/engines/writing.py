"""The stage of prompts, which has no earlier one: a writer is asked until there are enough."""

import time
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from dsd import prompts
from dsd.data.manifest import check_spec
from dsd.data.rows import PROMPTS, Row
from dsd.data.store import Run
from dsd.data.writer import TableWriter
from dsd.engines.base import Batch, Engine, Itself, Job, Result, Work
from dsd.engines.estimates import counts_of
from dsd.engines.fill import StageSummary
from dsd.engines.specs import what
from dsd.engines.spending import SpendingGauge
from dsd.engines.watch import watched
from dsd.prompts import PromptWriter

_SPAN = 256  # prompts that another process writes at a time


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Which prompts a run shall have.

    Attributes:
        writer: who writes them.
        count: how many there shall be.
        seed: of the writer's choices.
        overwrite: discard those there are.
    """

    writer: PromptWriter
    count: int
    seed: int
    overwrite: bool = False

    def spec(self) -> dict[str, Any]:
        """What they depend on, for the manifest."""
        spec = {"writer": what(prompts.spec(self.writer)), "seed": self.seed}
        return spec | ({"fingerprint": self.writer.fingerprint} if self.writer.fingerprint else {})


@dataclass(frozen=True)
class Writing(Work):
    """Spans of a list of prompts, such as "256-512", to rows."""

    writer: PromptWriter
    seed: int

    def __call__(self, batch: Batch) -> list[Result]:
        """The prompts of each span."""
        spans = [tuple(map(int, span.split("-"))) for span, _ in batch]
        return [PROMPTS.to_rows(list(self.writer.write(end, self.seed, start=start))) for start, end in spans]


def write(run: Run, wanted: Wanted, *, engine: Engine, progress: bool) -> StageSummary:
    """Write those that are missing, as they come.

    Raises:
        SpecError: if the run's prompts were written by another writer or seed.
    """
    started, table, author = time.monotonic(), run.prompts, wanted.writer
    with run.lock("write_prompts"):
        with TableWriter(table, wanted.spec(), overwrite=wanted.overwrite) as output:
            known = set(table.ids())
            before = len(known)
            # Without a hole (a shard that was set aside) the first rows are there, so the rest starts no
            # earlier than this.
            whole = [shard.file for shard in table.manifest.shards] == sorted(
                f"part-{i:05d}.parquet" for i in range(len(table.manifest.shards))
            )
            done = min(before, wanted.count)
            with watched(run, "prompts", wanted.count, done, progress=progress) as bar:
                if before < wanted.count:
                    author.keep_answers(run.answers)
                    author.resume(table if whole else ())
                    gauge = SpendingGauge(author.ledger)
                    with closing(_rows(wanted, before if whole else 0, engine)) as rows:
                        for row in rows:
                            if row["id"] not in known:
                                known.add(row["id"])
                                output.add_rows([row])
                                gauge.add_rows([row])
                                bar.tell(gauge.shown(wanted.count - len(known)))
                                bar.advance()
                output.finish()
        run.save_manifest()
        return StageSummary(
            stage="prompts", rows=len(table), added=len(known) - before, seconds=time.monotonic() - started
        )


def _rows(wanted: Wanted, start: int, engine: Engine) -> Generator[Row, None, None]:
    """The prompts from that one on, in order.

    Writers that ask a paid model, or that must be told all earlier prompts, write in this process.
    """
    author = wanted.writer
    alone = author.ledger is not None or type(author).resume is not PromptWriter.resume
    if alone or not engine.remote:
        for prompt in author.write(wanted.count, wanted.seed, start=start):
            yield from PROMPTS.to_rows([prompt])
        return
    ends = range(start, wanted.count, _SPAN)
    spans = [[f"{first}-{min(first + _SPAN, wanted.count)}"] for first in ends]
    job = Job(stage="prompts", work=Writing(author, wanted.seed), source=Itself(), batches=spans)
    with closing(engine.run(job)) as done:
        for _, (result,) in done:
            if not isinstance(result, list):
                raise RuntimeError(f"Prompts could not be written. {getattr(result, 'reason', result)}")
            yield from result


def estimated(run: Run, wanted: Wanted) -> StageSummary:
    """What writing those that are missing would take; nobody who is paid is asked, and nothing is written.

    Raises:
        SpecError: if the run's prompts were written by another writer or seed.
    """
    there = 0
    if run.prompts.exists and not wanted.overwrite:
        check_spec("prompts", run.prompts.manifest.spec, wanted.spec())
        there = len(run.prompts)
    missing = max(0, wanted.count - there)
    usage = wanted.writer.estimate(missing)
    counts = {"to write": missing, **counts_of(usage)}
    return StageSummary(stage="prompts", rows=there, added=0, seconds=0.0, counts=counts, dry_run=True)
