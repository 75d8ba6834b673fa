"""Faults of disks, files, clocks, teachers, judges, and a second process: after each one rows are counted."""

import asyncio
import contextlib
import errno
import json
import os
import shutil
import subprocess
import sys
import time
import types
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import dsd
from dsd.data.atomic import LockedError
from dsd.data.manifest import ManifestError
from dsd.data.writer import TableWriter
from dsd.llm import BudgetSpent, OutOfService
from dsd.types import Grid
from tests.cheap_world import CheapTeacher, make_run, write_prompt_file
from tests.providers import Fault, serve

QUIET = {"progress": False}
ROOT = Path(dsd.__file__).parents[1]


def rows(run, stage):
    table = run.table(stage)
    return [row for shard in table.manifest.shards for row in table.whole(shard).to_pylist()]


def content(run):
    """All rows, which stand there once each."""
    assert run.verify() == []
    found = {}
    for stage in run.stages():
        name = run.table(stage).kind.id_column
        found[stage] = {row[name]: row for row in rows(run, stage)}
        assert len(found[stage]) == len(run.table(stage)), stage
    return found


# Full disks.


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 2 MiB."""
    mount = tmp_path / "disk"
    mount.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "dsd-test", mount], capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {done.stderr.strip()}")
    yield mount
    subprocess.run(["umount", "--lazy", mount], check=True)  # tables keep files open


def fill(ballast, spare):
    """Fill the disk with a file, up to so many bytes."""
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    os.truncate(ballast, max(0, ballast.stat().st_size - spare))


def attempt(call):
    """The error of the system that a call raises, if it does."""
    try:
        call()
    except OSError as error:
        return error
    return None


@pytest.mark.parametrize("spare_kib", [0, 4, 40, 400, 900])
def test_a_full_disk_loses_nothing_and_the_rest_follows(small_disk, tmp_path, monkeypatch, spare_kib):
    """Filled up to a few KiB, each time in the middle of another stage; then there is room again."""
    monkeypatch.setattr(TableWriter, "shard_rows", 6)
    whole = content(make_run(tmp_path / "whole", 12, size=32))
    writer = write_prompt_file(tmp_path / "run.txt", 12)
    run = dsd.Run(small_disk / "run")
    calls = {
        "prompts": lambda: dsd.write_prompts(run, writer=writer, count=12, **QUIET),
        "grids": lambda: dsd.draw_grids(run, teacher={"name": "cheap", "size": 32}, **QUIET),
        "pairs": lambda: dsd.make_pairs(run, **QUIET),
        "verdicts/parity": lambda: dsd.curate(run, curator="parity", **QUIET),
    }
    ballast, full = small_disk / "ballast", []
    for stage, call in calls.items():
        fill(ballast, spare_kib * 1024)
        error = attempt(call)
        if error is not None:
            assert error.errno == errno.ENOSPC
            assert "disk is full" in str(error)
            full.append(stage)
            half = dsd.Run(run.path)
            for begun in half.stages():
                assert half.table(begun).verify() == []
                some = {row[half.table(begun).kind.id_column]: row for row in rows(half, begun)}
                assert some.items() <= whole[begun].items()
                assert not list(half.path.rglob("*.tmp"))
        ballast.unlink()
        call()
    assert content(run) == whole
    assert full or spare_kib >= 400
    if spare_kib == 0:
        assert len(full) == 4


# Damaged files.


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("made") / "run", 4)


def regions(data):
    """Where a Parquet file has its head, its pages, its footer and its end."""
    footer = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    return {
        "head": (0, 4),
        "pages": (4, footer),
        "footer": (footer, len(data) - 8),
        "end": (len(data) - 8, len(data)),
    }


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
@pytest.mark.parametrize("region", ["head", "pages", "footer", "end"])
def test_a_flipped_bit_anywhere_is_named_and_mended(made, tmp_path_factory, region, data):
    """Read in order, by id and by column: a wrong row never comes out; what was lost is made again."""
    stage = data.draw(st.sampled_from(["prompts", "grids", "pairs", "verdicts/parity"]))
    run, expected = made, rows(made, stage)
    table = run.table(stage)
    (shard,) = table.manifest.shards
    path = table.folder / shard.file
    whole = path.read_bytes()
    at = data.draw(st.integers(*regions(whole)[region]).filter(lambda x: x < len(whole)))
    broken = bytearray(whole)
    broken[at] ^= 1 << data.draw(st.integers(0, 7))
    ids = table.ids()
    try:
        path.write_bytes(broken)
        fresh = dsd.Run(run.path).table(stage)
        assert fresh.verify()
        with pytest.raises(ManifestError, match=r"part-00000\.parquet is damaged"):
            list(fresh)
        for row_id in ids[::5]:  # one row is read without hashing all: then its pages are checked
            try:
                record = fresh[row_id]
            except ManifestError:
                continue
            assert record == fresh.kind.from_row(expected[ids.index(row_id)])
    finally:
        path.write_bytes(whole)
    assert rows(dsd.Run(run.path), stage) == expected


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    share=st.floats(0, 1, exclude_max=True),
    stage=st.sampled_from(["prompts", "grids", "pairs", "verdicts/parity"]),
)
def test_a_shard_cut_short_anywhere_is_named(made, share, stage):
    table = made.table(stage)
    (shard,) = table.manifest.shards
    path = table.folder / shard.file
    whole = path.read_bytes()
    try:
        path.write_bytes(whole[: int(share * len(whole))])
        fresh = dsd.Run(made.path).table(stage)
        for read in (lambda: list(fresh), fresh.ids, lambda: fresh["x"], fresh.keys):
            with pytest.raises(ManifestError, match=r"is damaged: it has \d+ bytes, not"):
                read()
    finally:
        path.write_bytes(whole)


@pytest.mark.parametrize("stage", ["grids", "pairs", "verdicts/parity"])
def test_damage_in_every_region_is_mended_to_the_same_rows(tmp_path, made, stage):
    run = dsd.Run(shutil.copytree(made.path, tmp_path / "run"))
    expected = content(made)
    table = run.table(stage)
    path = table.folder / table.manifest.shards[0].file
    again = {
        "grids": lambda: dsd.draw_grids(run, teacher="cheap", **QUIET),
        "pairs": lambda: dsd.make_pairs(run, **QUIET),
        "verdicts/parity": lambda: dsd.curate(run, curator="parity", **QUIET),
    }
    for low, high in regions(path.read_bytes()).values():
        path = table.folder / table.manifest.shards[0].file
        broken = bytearray(path.read_bytes())
        broken[(low + min(high, len(broken))) // 2 - (low == 0)] ^= 4
        path.write_bytes(broken)
        assert run.mend(stage) == len(expected[stage])
        again[stage]()
        assert content(run) == expected


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0, 1, exclude_max=True))
def test_a_manifest_half_written_is_named(made, share):
    path = made.path / "grids" / ".manifest.json"
    whole = path.read_bytes()
    try:
        path.write_bytes(whole[: int(share * (len(whole) - 2))])
        fresh = dsd.Run(made.path)
        with pytest.raises(ManifestError, match=r"grids/\.manifest\.json is damaged .*overwrite=True"):
            len(fresh.grids)
        with pytest.raises(ManifestError, match="is damaged"):
            dsd.draw_grids(fresh, teacher="cheap", **QUIET)
    finally:
        path.write_bytes(whole)
    assert len(dsd.Run(made.path).grids) == 4


HOSTILE = {
    "another folder": lambda x: {**x, "file": "../../victim"},
    "an absolute path": lambda x: {**x, "file": "/etc/hostname"},
    "a hidden file": lambda x: {**x, "file": ".manifest.json"},
    "no text": lambda x: {**x, "file": 3},
    "rows below 0": lambda x: {**x, "rows": -1},
    "rows in words": lambda x: {**x, "rows": "many"},
    "no digest": lambda x: {**x, "ids": "zz"},
}


@pytest.mark.parametrize("change", HOSTILE)
def test_a_manifest_cannot_name_files_elsewhere(tmp_path, made, change):
    """`mend` would rename them, and other calls would read and remove them."""
    run = dsd.Run(shutil.copytree(made.path, tmp_path / "run"))
    victim = tmp_path / "victim"
    victim.write_text("mine")
    path = run.path / "pairs" / ".manifest.json"
    told = json.loads(path.read_text())
    told["shards"] = [HOSTILE[change](told["shards"][0])]
    path.write_text(json.dumps(told))
    for call in (lambda: run.mend("pairs"), lambda: dsd.make_pairs(run, **QUIET), run.pairs.ids):
        with pytest.raises(ManifestError, match="is damaged"):
            call()
    assert victim.read_text() == "mine"
    assert sorted(x.name for x in tmp_path.iterdir()) == ["run", "victim"]


def test_a_manifest_that_lists_a_shard_twice_doubles_no_row(tmp_path, made):
    run = dsd.Run(shutil.copytree(made.path, tmp_path / "run"))
    told = json.loads((run.path / "pairs" / ".manifest.json").read_text())
    told["shards"] *= 2
    (run.path / "pairs" / ".manifest.json").write_text(json.dumps(told))
    with pytest.raises(ManifestError, match=r"part-00000\.parquet is listed twice"):
        list(run.pairs)


# Two processes.

RACER = """
import sys, time
sys.path.insert(0, sys.argv[2])
import dsd
from dsd.data.atomic import LockedError
from dsd.data.writer import TableWriter
from tests import cheap_world
from pathlib import Path
cheap_world.write_prompt_file = lambda path, count: {"name": "file", "path": str(path)}  # it is there
TableWriter.shard_rows = 5
print("ready", flush=True)
while not Path(sys.argv[3]).exists(): time.sleep(0.001)
refused = 0
for attempt in range(400):
    try:
        cheap_world.make_run(Path(sys.argv[1]), 8, pause_s=0.002)
        break
    except LockedError as error:
        assert "is being written to by" in str(error)
        refused += 1
        time.sleep(0.01)
else:
    sys.exit("never let in")
print(refused)
"""


def test_processes_that_race_for_one_run_share_it(tmp_path):
    """Each call is refused while another process writes; whoever comes next goes on; no row is doubled."""
    (tmp_path / "alone").mkdir()
    expected = content(make_run(tmp_path / "alone" / "run", 8, pause_s=0.002))
    write_prompt_file(tmp_path / "run.txt", 8)
    command = [sys.executable, "-c", RACER, tmp_path / "run", ROOT, tmp_path / "go"]
    racers = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(3)
    ]
    assert [racer.stdout.readline() for racer in racers] == ["ready\n"] * 3
    (tmp_path / "go").touch()
    seen = []
    while any(racer.poll() is None for racer in racers):  # and we read meanwhile
        run = dsd.Run(tmp_path / "run")
        for stage in run.stages():
            table = run.table(stage)
            ids = table.ids()
            assert len(ids) == len(set(ids))
            seen.append(len(ids))
        time.sleep(0.02)
    said = [racer.communicate() for racer in racers]
    assert [racer.returncode for racer in racers] == [0, 0, 0], said
    assert sum(int(out) for out, _ in said) > 0, "they never met"
    assert content(dsd.Run(tmp_path / "run")) == expected
    assert seen


def test_a_lock_that_a_dead_process_signed_is_free(tmp_path, made):
    run = dsd.Run(shutil.copytree(made.path, tmp_path / "run"))
    (run.path / ".lock").write_text(
        json.dumps({"pid": 1, "host": "elsewhere", "purpose": "x", "since": "2099"})
    )
    assert dsd.make_pairs(run, **QUIET).added == 0
    (run.path / ".lock").write_bytes(b"\xff\x00 half")
    assert dsd.make_pairs(run, **QUIET).added == 0


def test_whoever_is_refused_is_told_though_the_lock_is_unreadable(tmp_path, made):
    run = dsd.Run(shutil.copytree(made.path, tmp_path / "run"))
    for text in (b"\xff\xfe", b"[1]", b"3", b"null", b'{"pid": 1}', b"[" * 100_000):
        with run.lock("first"):
            (run.path / ".lock").write_bytes(text)
            with pytest.raises(LockedError, match="written to by another process"), run.lock("second"):
                pass


# Clocks.


def test_clocks_that_jump_change_no_row(tmp_path, made, monkeypatch):
    """Years ahead and back, between any two looks at the clock."""
    expected = content(made)
    true_time, jumps = time.time, iter([1e9, -1e9, 0, 3e9, -2e9] * 10_000)
    monkeypatch.setattr(time, "time", lambda: true_time() + next(jumps))
    monkeypatch.setattr(time, "time_ns", lambda: int((true_time() + next(jumps)) * 1e9))
    run = make_run(tmp_path / "run", 4)
    assert content(run) == expected
    dsd.curate(run, curator="parity", overwrite=True, **QUIET)
    assert content(run) == expected
    for path in run.path.rglob("*"):
        os.utime(path, (4e9, 4e9))  # 2096
    run = dsd.Run(run.path)
    assert dsd.draw_grids(run, teacher="cheap", **QUIET).added == 0
    assert content(run) == expected
    assert not list(run.path.rglob(".*discarded*"))
    assert all(table["seconds"] >= 0 for table in run.manifest()["stages"].values())


def test_rows_are_seen_though_the_clock_stands_still(tmp_path, made):
    """A manifest of the same size and time of change, in the same place: a copy back, or a coarse clock."""
    run = dsd.Run(shutil.copytree(made.path, tmp_path / "run"))
    path = run.path / "verdicts" / "parity" / ".manifest.json"
    assert run.verdicts("parity").manifest.complete
    table = run.verdicts("parity")
    assert table.manifest.counts["accepted"]
    state, text = path.stat(), path.read_text()
    assert '"complete": true' in text
    changed = text.replace('"complete": true', '"complete":false')
    assert len(changed) == len(text)
    path.write_text(changed)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert path.stat().st_mtime_ns == state.st_mtime_ns
    assert table.manifest.complete is False


def test_a_shard_swapped_while_the_clock_stands_still_is_noticed(tmp_path, made):
    run = dsd.Run(shutil.copytree(made.path, tmp_path / "run"))
    assert len(list(run.pairs)) == 48
    path = run.path / "pairs" / "part-00000.parquet"
    state, broken = path.stat(), bytearray(path.read_bytes())
    broken[len(broken) // 3] ^= 1
    path.write_bytes(broken)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    with pytest.raises(ManifestError, match="is damaged"):
        list(run.pairs)


# Teachers.


class Unsteady(CheapTeacher):
    """Fails at every seventh grid, each time in another way, by the number of the prompt."""

    kinds = ("raise", "size", "black", "nan", "none", "mode")

    def draw(self, prompts, seeds):
        made = []
        for prompt, seed in zip(prompts, seeds, strict=True):
            number = int(prompt.text.split()[-1].rstrip("."))
            kind = self.kinds[number // 7 % len(self.kinds)] if number % 7 == 6 else ""
            if kind == "raise":
                raise RuntimeError(f"out of memory at {number}")
            (grid,) = super().draw([prompt], [seed])
            if kind == "size":
                grid = Grid(image=grid.image.crop((0, 0, 15, 16)), prompt=prompt, seed=seed, teacher="cheap")
            if kind == "black":
                grid = Grid(image=Image.new("RGB", (16, 16)), prompt=prompt, seed=seed, teacher="cheap")
            if kind in ("nan", "none"):  # as a model makes of bad numbers, in either of two ways
                numbers = np.full((16, 16, 3), np.nan)
                image = Image.fromarray(np.nan_to_num(numbers).astype(np.uint8))
                if kind == "none":
                    image = Image.fromarray(numbers[..., 0].astype(np.float32))
                grid = Grid(image=image, prompt=prompt, seed=seed, teacher="cheap")
            if kind == "mode":
                grid = Grid(image=grid.image.convert("RGBA"), prompt=prompt, seed=seed, teacher="cheap")
            made.append(grid)
        return made


@pytest.mark.parametrize("batch_size", [1, 4, 16])
def test_a_teacher_that_fails_at_every_seventh_grid(tmp_path, batch_size):
    run = dsd.Run(tmp_path / "run")
    dsd.write_prompts(run, writer=write_prompt_file(tmp_path / "p.txt", 90), count=90, **QUIET)
    summary = dsd.draw_grids(run, teacher=Unsteady(batch_size=batch_size), **QUIET)
    prompts = {prompt.id: int(prompt.text.split()[-1].rstrip(".")) for prompt in run.prompts}
    bad = {prompt_id for prompt_id, number in prompts.items() if number % 7 == 6}
    assert (summary.rows, summary.failed) == (90 - len(bad), len(bad)) == (78, 12)
    assert {grid.prompt.id for grid in run.grids} == prompts.keys() - bad
    reasons = {failure.source: failure.reason for failure in run.failed("grids")}
    assert reasons.keys() == bad
    said = {
        "raise": "RuntimeError: out of memory at", "size": "15 x 16 px", "black": "one colour, (0, 0, 0)",
        "nan": "one colour, (0, 0, 0)", "none": "mode F, not RGB", "mode": "mode RGBA, not RGB",
    }  # fmt: skip
    for prompt_id, reason in reasons.items():
        assert said[Unsteady.kinds[prompts[prompt_id] // 7 % 6]] in reason
    # Called again, nothing is drawn; with a teacher that works, what failed is drawn and nothing else.
    again = Unsteady(batch_size=batch_size)
    assert dsd.draw_grids(run, teacher=again, **QUIET).added == 0
    assert again.drawn == []
    assert dsd.make_pairs(run, **QUIET).rows == 12 * 78


# Judges.


def judged(run, server, **spec):
    spec = {"structured": "schema", "max_tokens": 200, **spec}
    spec = {
        "name": "vlm",
        "model": "openai/judge-1",
        "api_base": server,
        "api_key": "key",
        "mode": "direct",
        **spec,
    }
    return dsd.curate(run, curator=spec, name="judge", batch_size=8, **QUIET)


class Hour:
    """A judge that is down from its 20th answer on, where an hour takes 1.2 s."""

    def __init__(self, monkeypatch, after_s, down_s=1.2):
        self.after_s, self.down_s, self.asked, self.down_from, self.waits = after_s, down_s, 0, None, []
        proxy = types.SimpleNamespace(**vars(asyncio))
        proxy.sleep = self.sleep
        monkeypatch.setattr("dsd.llm.door.asyncio", proxy)

    async def sleep(self, seconds):
        self.waits.append(seconds)
        await asyncio.sleep(seconds / 3000)

    def answer(self, asked):
        self.asked += 1
        if self.asked == 20:
            self.down_from = time.monotonic()
        if self.down_from is not None and time.monotonic() < self.down_from + self.down_s:
            return Fault(status=503, text="down", headers={"Retry-After": str(self.after_s)})
        return DIRECT


DIRECT = json.dumps({"different_pictures": True, "same_subject": True, "score": 0.75})


@pytest.fixture
def paired(tmp_path):
    pytest.importorskip("litellm")
    return make_run(tmp_path / "run", 4, curator=None)


def once_each(run):
    """The verdicts by pair: one for every pair."""
    found = run.verdicts("judge")
    assert sorted(found.ids()) == sorted(run.pairs.ids())
    assert run.verify() == []
    return {judged.pair_id: judged.verdict for judged in found}


def test_a_judge_that_is_away_for_an_hour_and_says_so_is_waited_for(paired, monkeypatch):
    hour = Hour(monkeypatch, after_s=3600)
    with serve(hour.answer) as server:
        summary = judged(paired, server.openai, concurrency=1)
    assert (summary.rows, summary.failed) == (48, 0)
    assert {verdict.status for verdict in once_each(paired).values()} == {"accepted"}
    assert {round(wait) for wait in hour.waits} == {3600}
    assert hour.asked == 48 + len(hour.waits)


@pytest.mark.parametrize("concurrency", [1, 16])
def test_a_judge_that_is_away_for_too_long_stops_the_stage_which_goes_on_later(
    paired, monkeypatch, concurrency
):
    hour = Hour(monkeypatch, after_s=60, down_s=1e9)  # four more tries, a minute apart, do not outlast it
    told = (
        r"The last 16 of 'verdicts/judge' got no answer, at last with: .*(503|down)(.|\n)* not recorded as "
        r"failed\. 'verdicts/judge' has 19 new rows, which are written; 29 are missing\. Call the stage "
        r"again, when the service is back"
    )
    with serve(hour.answer) as server:
        with pytest.raises(OutOfService, match=told):
            judged(paired, server.openai, concurrency=concurrency)
        assert [row.verdict.status for row in paired.verdicts("judge")] == ["accepted"] * 19
        assert not paired.failed("verdicts/judge").exists
        with pytest.raises(OutOfService, match="has 0 new rows, which are written; 29 are missing"):
            judged(paired, server.openai, concurrency=concurrency)
        assert len(paired.verdicts("judge")) == 19
        hour.down_s = 0.0  # it is back
        asked = hour.asked
        again = judged(paired, server.openai, concurrency=concurrency)
        assert (again.added, again.failed) == (29, 0)
        assert hour.asked == asked + 29  # nobody is asked twice, and nothing is paid for twice
    assert {verdict.status for verdict in once_each(paired).values()} == {"accepted"}


def test_pairs_that_a_judge_is_away_for_now_and_then_are_named(paired, monkeypatch):
    """Single outages, of whatever number, are the pairs' own: large pictures may time out each time."""
    monkeypatch.setattr("dsd.llm.door._FIRST_WAIT_S", 0.001)
    asked = []

    def answer(_):
        asked.append(1)
        return DIRECT if len(asked) % 16 == 1 else Fault(status=503, text="down")

    with serve(answer) as server:
        summary = judged(paired, server.openai, concurrency=1, retries={"server": 0})
    assert summary.failed == 45
    statuses = [verdict.status for verdict in once_each(paired).values()]
    assert statuses == (["accepted"] + ["failed"] * 15) * 3


def test_answers_that_are_no_outage_do_not_stop_a_stage(paired):
    asked = []

    def answer(_):
        asked.append(1)
        return DIRECT if len(asked) == 1 else "I cannot help with that." if len(asked) % 2 else "what?"

    with serve(answer) as server:
        judged(paired, server.openai, concurrency=1)
    statuses = [verdict.status for verdict in once_each(paired).values()]
    assert statuses[0] == "accepted"
    assert set(statuses[1:]) <= {"refused", "unparsable"}


def test_a_judge_that_refuses_connections_and_comes_back(paired, monkeypatch):
    monkeypatch.setattr("dsd.llm.door._FIRST_WAIT_S", 0.001)
    nowhere, once = "http://127.0.0.1:9/v1", {"retries": {"connection": 1}}
    with pytest.raises(RuntimeError, match=r"The first 16 of 'verdicts/judge' all failed"):
        judged(paired, nowhere, **once)
    assert len(paired.verdicts("judge")) == 0
    assert not paired.failed("verdicts/judge").exists
    price = {"prompt": 0.0, "completion": 1.0}
    with serve(lambda asked: DIRECT) as server:
        with pytest.raises(BudgetSpent):
            judged(paired, server.openai, concurrency=1, price=price, max_cost_usd=0.002)
        before = len(paired.verdicts("judge"))
        assert 0 < before <= 32
        with pytest.raises(OutOfService, match=r"The last 16 of (.|\n)*onnect"):
            judged(paired, nowhere, price=price, **once)
        assert len(paired.verdicts("judge")) == before
        asked = len(server.asked)
        assert judged(paired, server.openai, concurrency=1, price=price).added == 48 - before
        assert len(server.asked) == asked + 48 - before
    assert {verdict.status for verdict in once_each(paired).values()} == {"accepted"}


@pytest.mark.parametrize(
    ("said", "waited"),
    [("7", 7.0), ("1e400", None), ("inf", None), ("nan", None), ("-5", 0.0), ("99999999999", 86_400.0),
     ("Fri, 31 Dec 9999 23:59:59 GMT", 86_400.0), ("Mon, 01 Jan 0001 00:00:00 -2359", 0.0), ("soon", None),
     ("Mon, 99 Foo 99999999999999999999 00:00:00 GMT", None)],
)  # fmt: skip
def test_a_server_cannot_make_us_wait_for_ever(said, waited):
    provider = pytest.importorskip("dsd.llm.provider")
    error = RuntimeError("busy")
    error.litellm_response_headers = {"retry-after": said}
    assert provider._retry_after(error) == waited
