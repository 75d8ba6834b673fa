"""What is timed at every size of a run, each in a process of its own that is forked when all is imported."""

import multiprocessing
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

import dsd
from dsd import curators
from dsd.data.datamodule import PairDataModule
from dsd.engines import judging
from dsd.types import Pair, Verdict

LEFT = 64  # pairs that the curator of `plan` has not judged yet
ITERATED = 20_000  # pairs that are iterated, at most
BATCH = 16
POLICY = {"curators": ["bench"], "min_score": 0.5}


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One task at one size.

    Attributes:
        task: its name.
        rows: of the run.
        seconds: by the clock.
        cpu_s: of the process.
        mib: the most memory that it held beyond what it began with.
        told: what it has to tell, such as a count.
    """

    task: str
    rows: int
    seconds: float
    cpu_s: float
    mib: float
    told: float


class _FirstPair(BaseException):
    """Raised when the curator is given its first pair: the resume is planned."""


@curators.register("stopwatch")
class Stopwatch(curators.Curator):
    """Ends the stage when the first pair comes."""

    def judge(self, pair: Pair) -> Verdict:
        """Not done."""
        raise _FirstPair


def open_run(path: Path) -> float:
    """A run, its length, and a row in the middle of it."""
    run = dsd.Run(path)
    (row,) = run.pairs.at(np.array([len(run.pairs) // 2]))
    return float(len(row))


def open_data(path: Path) -> float:
    """All pairs, ready to train on, up to the first batch's order; no picture is read."""
    data = PairDataModule(path, batch_size=BATCH, policy="every")
    data.setup("fit")
    return float(len(data.train_dataloader()))


def plan(path: Path) -> float:
    """A curator that has judged all but some pairs is asked again: until it is given the first of them."""
    try:
        dsd.curate(path, curator="stopwatch", progress=False)
    except _FirstPair:
        return 1.0
    raise AssertionError("The curator was given no pair.")


def accept(path: Path) -> float:
    """The ids of the pairs that a policy with a threshold accepts."""
    return float(len(dsd.Run(path).accepted(POLICY)))


def verify(path: Path) -> float:
    """Every file against its hash, every stage against the one before."""
    problems = dsd.Run(path).verify()
    assert problems == [], problems
    return float(sum(shard.bytes for shard in dsd.Run(path).pairs.manifest.shards)) / 2**20


def iterate(path: Path) -> float:
    """Pictures in batches, from opening to the last one: an epoch, or the first pairs of a long one."""
    data = PairDataModule(path, batch_size=BATCH, policy="every")
    loader = data.train_dataloader()
    return float(sum(len(batch.ids) for batch in islice(loader, ITERATED // BATCH)))


TASKS: dict[str, Callable[[Path], float]] = {
    "open": open_run,
    "open for training": open_data,
    "plan a resume": plan,
    "filter by policy": accept,
    "verify": verify,
    "iterate": iterate,
}


def prepare(path: Path, rows: int) -> None:
    """What `plan` needs: the verdicts of a stage that was stopped shortly before its end."""
    from big_run import judge_most

    judge_most(dsd.Run(path), "stopwatch", judging.spec_of(curators.create("stopwatch")), rows - LEFT)


def measure(task: str, path: Path, rows: int) -> Measure:
    """Run a task in a forked process and measure it there."""
    context = multiprocessing.get_context("fork")
    receiving, sending = context.Pipe(duplex=False)
    process = context.Process(target=_measured, args=(TASKS[task], path, sending))
    process.start()
    sending.close()
    try:
        seconds, cpu_s, mib, told = receiving.recv()
    except EOFError as error:
        raise RuntimeError(f"The task {task!r} at {rows} rows failed; see above.") from error
    finally:
        process.join()
    return Measure(task=task, rows=rows, seconds=seconds, cpu_s=cpu_s, mib=mib, told=told)


def _measured(task: Callable[[Path], float], path: Path, sending: Connection) -> None:
    Path("/proc/self/clear_refs").write_text("5")  # the peak of memory begins here
    before = _memory("VmRSS")
    clock, cpu = time.perf_counter(), time.process_time()
    told = task(path)
    seconds, cpu_s = time.perf_counter() - clock, time.process_time() - cpu
    sending.send((seconds, cpu_s, _memory("VmHWM") - before, told))
    sending.close()
    os._exit(0)


def _memory(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{name}:"))
