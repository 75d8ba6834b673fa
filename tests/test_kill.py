"""`kill -9` at any moment loses no row and doubles none."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import dsd
from tests import kill_me

PROGRAM = [sys.executable, str(Path(kill_me.__file__))]
STAGES = ("prompts", "grids", "pairs", "verdicts/parity", "failed/grids")


def rows(run, stage):
    """All rows of a stage as plain values, pictures as their bytes, in the order of the table."""
    table = run.table(stage)
    return [row for shard in table.manifest.shards for row in table.whole(shard).to_pylist()]


def content(path):
    run = dsd.Run(path)
    assert run.verify() == []
    return {stage: rows(run, stage) for stage in STAGES}


def leftovers(path):
    return [file for ending in ("*.tmp", "*discarded*", "*.unlisted") for file in path.rglob(ending)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """What an uninterrupted run holds, and how long it took."""
    path = tmp_path_factory.mktemp("whole") / "run"
    with subprocess.Popen([*PROGRAM, path], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as child:
        assert child.stdout.readline() == b"started\n"
        begun = time.monotonic()
    assert child.returncode == 0
    seconds = time.monotonic() - begun
    found = content(path)
    assert len(found["prompts"]) == kill_me.COUNT
    assert len(found["grids"]) == kill_me.COUNT - len(kill_me.FAULTS)
    assert len(found["pairs"]) == len(found["verdicts/parity"]) == 12 * len(found["grids"])
    return found, seconds


def test_killed_at_ten_random_moments(tmp_path, whole):
    path, (expected, seconds) = tmp_path / "run", whole
    rng = random.Random(0)
    killed, longest = 0, seconds / 5
    while killed < 10:
        with subprocess.Popen([*PROGRAM, path], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as child:
            assert child.stdout.readline() == b"started\n"
            time.sleep(rng.uniform(0, longest))
            os.kill(child.pid, signal.SIGKILL)
        if child.returncode == -signal.SIGKILL:
            killed += 1
        else:  # it was faster than when it was timed: the same again, with shorter times
            assert content(path) == expected
            shutil.rmtree(path)
            longest /= 2
    subprocess.run([*PROGRAM, path], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert content(path) == expected
    assert not leftovers(path)


def test_stopped_at_every_step_of_writing(tmp_path):
    path, whole = tmp_path / "run", tmp_path / "whole" / "run"
    whole.parent.mkdir()
    done = subprocess.run([*PROGRAM, path, whole], check=True, capture_output=True, text=True)
    assert int(done.stdout) > 10
    found = content(path)
    assert found == content(whole)
    assert len(found["grids"]) == kill_me.FEW - 1
    assert not leftovers(path)
