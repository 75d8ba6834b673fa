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


def every_row(path):
    """All rows of all stages, by id: how they are cut into shards is no part of what a run holds."""
    run = dsd.Run(path)
    assert run.verify() == []
    found = {}
    for stage in run.stages():
        content, name = rows(run, stage), run.table(stage).kind.id_column
        found[stage] = {row[name]: row for row in content}
        assert len(found[stage]) == len(content), f"{stage} has doubled rows"
    return found


@pytest.mark.parametrize(("count", "seed"), [(12, 0), pytest.param(50, 1, marks=pytest.mark.slow)])
def test_killed_at_random_moments_of_all_stages(tmp_path, count, seed):
    """Prompts, grids, pairs, captions, verdicts and encodings; every row that could not be made says why."""
    done = subprocess.run(
        [*PROGRAM, tmp_path / "runs", str(count), str(seed)], check=True, capture_output=True, text=True
    )
    rounds, *fell = done.stdout.split()
    moments = {stage: int(number) for stage, number in (x.split("=") for x in fell)}
    assert sum(moments.values()) == count
    assert len(moments) >= (6 if count > 40 else 4), moments
    print(moments, "in", rounds, "runs")
    whole = every_row(tmp_path / "runs" / "whole")
    for number in range(int(rounds)):
        path = tmp_path / "runs" / f"run-{number}"
        found = every_row(path)
        assert found.keys() == whole.keys()
        for stage in whole:
            assert found[stage] == whole[stage], stage
        assert not leftovers(path)
        assert dsd.Run(path).manifest()["stages"].keys() == whole.keys()
    pairs = whole["pairs"].keys()
    assert len(pairs) == 12 * (kill_me.COUNT - len(kill_me.FAULTS))
    failed = whole["failed/captions/echo"]
    assert whole["captions/echo"].keys() | failed.keys() == pairs
    assert not whole["captions/echo"].keys() & failed.keys()
    assert all("nothing to say of" in row["reason"] for row in failed.values())
    assert len(whole["failed/grids"]) == len(kill_me.FAULTS)
    assert whole["verdicts/parity"].keys() == pairs
    assert next(rows for stage, rows in whole.items() if stage.endswith("token_concat/pairs")).keys() == pairs
