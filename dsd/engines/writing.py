"""The stage of prompts, which has no earlier one: a writer is asked until there are enough."""

import time
from dataclasses import dataclass
from typing import Any

from dsd import prompts
from dsd.data.manifest import check_spec
from dsd.data.store import Run
from dsd.data.writer import TableWriter
from dsd.engines.estimates import counts_of
from dsd.engines.fill import StageSummary
from dsd.engines.progress import progress_bar
from dsd.engines.specs import what
from dsd.engines.spending import SpendingGauge
from dsd.prompts import PromptWriter


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


def write(run: Run, wanted: Wanted, *, progress: bool) -> StageSummary:
    """Write those that are missing, as they come.

    Raises:
        SpecError: if the run's prompts were written by another writer or seed.
    """
    started, table, author = time.monotonic(), run.prompts, wanted.writer
    with run.lock("write_prompts"):
        with (
            TableWriter(table, wanted.spec(), overwrite=wanted.overwrite) as output,
            progress_bar("prompts", wanted.count, progress) as bar,
        ):
            known = set(table.ids())
            before = len(known)
            bar.update(before)
            # Without a hole (a shard that was set aside) the first rows are there, so the rest starts no
            # earlier than this.
            whole = [shard.file for shard in table.manifest.shards] == sorted(
                f"part-{i:05d}.parquet" for i in range(len(table.manifest.shards))
            )
            if before < wanted.count:
                author.keep_answers(run.answers)
                author.resume(table if whole else ())
                gauge = SpendingGauge(author.ledger)
                for prompt in author.write(wanted.count, wanted.seed, start=before if whole else 0):
                    if prompt.id not in known:
                        known.add(prompt.id)
                        output.add([prompt])
                        gauge.add([prompt])
                        bar.set_postfix(gauge.shown(wanted.count - len(known)), refresh=False)
                        bar.update()
            output.finish()
        run.save_manifest()
        return StageSummary(
            stage="prompts", rows=len(table), added=len(known) - before, seconds=time.monotonic() - started
        )


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
