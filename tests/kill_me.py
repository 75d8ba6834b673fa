"""A program that makes a whole run in small shards, and is killed while it does.

kill_me.py RUN                 works slowly, says "started" when it begins; killed from outside
kill_me.py RUN WHOLE           ends itself at each step of writing in turn, then not; says how many there
                               were. In WHOLE it makes the same run without a stop.
kill_me.py RUN COUNT SEED      is killed at so many random moments of all stages, captions and encodings too,
                               each time begun again where it was; says in which stage each moment fell.
"""

import itertools
import os
import random
import select
import signal
import sys
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import dsd.stages
from dsd.data import atomic
from dsd.data.writer import TableWriter
from tests.cheap_world import make_run

COUNT, FEW = 14, 4
FAULTS = {"003": "raise", "007": "black", "011": "size"}
SLOW_S = 0.01


def work(path, count=COUNT, pause_s=0.0):
    TableWriter.shard_rows = 5
    make_run(path, count, pause_s=pause_s, faults=FAULTS, curator={"name": "parity", "pause_s": pause_s / 10})


def count_steps(path, stop_at):
    """Run until step number `stop_at` of changing the disk, before which the process ends as if killed."""
    done = 0

    def counted(function):
        def step(*args, **kwargs):
            nonlocal done
            if done == stop_at:
                os._exit(9)
            done += 1
            return function(*args, **kwargs)

        return step

    for name in ("replace", "fsync"):
        setattr(atomic.os, name, counted(getattr(os, name)))
    Path.unlink = counted(Path.unlink)
    work(path, FEW)


def all_stages(path, tell=lambda stage: None, pause_s=SLOW_S):
    """Every stage there is, one after the other, in shards of a few rows."""
    from tests import cheap_encoding

    TableWriter.shard_rows = 7
    run = dsd.Run(path)
    prompts = path.parent / f"{path.name}.txt"
    prompts.write_text("".join(f"prompt number {i:03d}.\n" for i in range(COUNT)))
    quiet = {"progress": False}
    writer = {"name": "slow-file", "path": str(prompts), "pause_s": pause_s}
    tell("prompts")
    dsd.write_prompts(run, writer=writer, count=COUNT, **quiet)
    tell("grids")
    dsd.draw_grids(run, teacher={"name": "cheap", "pause_s": pause_s, "faults": FAULTS}, **quiet)
    tell("pairs")
    dsd.make_pairs(run, **quiet)
    tell("captions")
    captioner = {"name": "echo", "pause_s": pause_s / 10}
    dsd.caption_pairs(run, captioner, batch_size=8, **quiet)
    tell("verdicts")
    dsd.curate(run, curator={"name": "parity", "pause_s": pause_s / 10}, batch_size=8, **quiet)
    tell("encoded")
    cheap_encoding.encode(run, pause_s / 10)
    tell("done")


def killed(path, count, seed):
    """Kill a child at random moments, and begin it again where it was, until it was killed so often.

    Moments are spread over the stages: each child is given a stage, and a time within it.
    """
    from tests import cheap_encoding

    assert cheap_encoding
    rng, fell, rounds = random.Random(seed), Counter(), 0
    stages = ["prompts", "grids", "pairs", "captions", "verdicts", "encoded"]
    while sum(fell.values()) < count:
        run = path / f"run-{rounds}"
        for stage in itertools.islice(itertools.cycle(stages), 6 * count):
            if sum(fell.values()) >= count:
                break
            where = _killed_in(run, stage, rng)
            if where == "done":
                break
            if where:
                fell[where] += 1
        _child(run)
        rounds += 1
    return fell, rounds


def _killed_in(run, stage, rng):
    """Kill a child a moment after it has come to a stage or past it; where it was, or "done"."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read)
        all_stages(run, lambda name: os.write(write, f"{name}\n".encode()))
        os._exit(0)
    os.close(write)
    order = ["prompts", "grids", "pairs", "captions", "verdicts", "encoded", "done"]
    at, deadline, buffer = "", None, b""
    with open(read, "rb", buffering=0) as told:
        while True:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            ready, _, _ = select.select([told], [], [], left)
            if not ready:
                break
            chunk = told.read(4096)
            if not chunk:
                break
            buffer += chunk
            at = buffer.decode().split()[-1]
            if deadline is None and order.index(at) >= order.index(stage):
                deadline = time.monotonic() + rng.expovariate(1 / 0.06)
        os.kill(pid, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status in (0, -signal.SIGKILL), status
    return "done" if status == 0 or at == "done" else at


def _child(run):
    """A child that is not killed."""
    pid = os.fork()
    if pid == 0:
        all_stages(run)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def kill_often(path, count, seed):
    """Runs that were killed, and one that was not; how many, and where the moments fell."""
    path.mkdir(parents=True, exist_ok=True)
    fell, rounds = killed(path, count, seed)
    _child(path / "whole")
    print(rounds, " ".join(f"{stage}={fell[stage]}" for stage in sorted(fell)))


def main(path, whole=None, seed=None):
    if seed is not None:
        kill_often(path, int(str(whole)), int(str(seed)))
        return
    if whole is None:
        print("started", flush=True)
        work(path, pause_s=0.01)
        return
    for step in range(300):
        # Each restart gets one step further before it is stopped.
        child = os.fork()
        if child == 0:
            count_steps(path, step)
            os._exit(0)
        if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0:
            break
    else:
        raise SystemExit("The run is never finished: what is there is made again and again.")
    print(step)
    work(whole, FEW)


if __name__ == "__main__":
    assert dsd.stages
    main(*map(Path, sys.argv[1:]))
