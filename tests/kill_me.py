"""A program that makes a whole run in small shards, and is killed while it does.

kill_me.py RUN          works slowly, says "started" when it begins; killed from outside
kill_me.py RUN WHOLE    ends itself at each step of writing in turn, then not; says how many there were.
                        In WHOLE it makes the same run without a stop.
"""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import dsd.stages
from dsd.data import atomic
from dsd.data.writer import TableWriter
from tests.cheap_world import make_run

COUNT, FEW = 14, 4
FAULTS = {"003": "raise", "007": "black", "011": "size"}


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


def main(path, whole=None):
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
