"""A program that makes a whole run in small shards, and is killed while it does.

    kill_me.py RUN            works slowly, says "started" when it begins; killed from outside
    kill_me.py RUN --steps    ends itself at each step of writing in turn, then once not; says how many steps there are
"""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import dsd.stages
from dsd.data import atomic
from dsd.data.writer import TableWriter
from tests.cheap_world import CheapTeacher, ParityCurator, make_run

COUNT = 14
FAULTS = {"003": "raise", "007": "black", "011": "size"}


def work(path, pause_s=0.0):
    TableWriter.shard_rows = 5
    CheapTeacher.pause_s = ParityCurator.pause_s = pause_s
    make_run(path, COUNT, pause_s=pause_s, faults=FAULTS, curator={"name": "parity", "pause_s": pause_s / 10})


def count_steps(path, stop_at):
    """Run until the step number `stop_at` of changing the disk, before which the process ends as if killed."""
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
    work(path)


def main(path, mode=None):
    if mode is None:
        print("started", flush=True)
        work(path, pause_s=0.01)
        return
    step = 0
    while True:
        child = os.fork()
        if child == 0:
            count_steps(path, step)
            os._exit(0)
        if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0:
            break
        # Each restart gets further before it is stopped, so that a stop hits every kind of step at every stage.
        step += 1
    print(step)


if __name__ == "__main__":
    assert dsd.stages
    main(Path(sys.argv[1]), *sys.argv[2:])
