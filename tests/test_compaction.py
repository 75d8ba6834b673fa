"""Compaction and garbage collection: the same rows in fewer files, whatever happens in between."""

import itertools
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

import dsd
from dsd.data import atomic
from dsd.data.atomic import LockedError
from dsd.data.compaction import plan
from dsd.data.manifest import ChangedError, ManifestError, Shard
from dsd.data.shards import highest_number
from dsd.data.writer import TableWriter
from tests.cheap_world import make_run

STAGES = ("prompts", "grids", "pairs", "verdicts/parity")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run in shards of a few rows, and the same one in as few as possible."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        whole = make_run(Path("run"), 6).path.rename("whole")
        patch.setattr(TableWriter, "shard_rows", 2)
        make_run(Path("run"), 6)
    return folder / "run", folder / whole


@pytest.fixture
def run(finished, tmp_path):
    shutil.copytree(finished[0], tmp_path / "run")
    return dsd.Run(tmp_path / "run")


def content(run):
    return {stage: list(run.table(stage).rows()) for stage in STAGES}


def parquet_files(run):
    return sorted(path.relative_to(run.path).as_posix() for path in run.path.rglob("*.parquet*"))


def test_a_compacted_run_is_what_one_call_would_have_written(run, finished):
    before, manifests = content(run), {stage: run.table(stage).manifest for stage in STAGES}
    done = {found.stage: found for found in run.compact()}
    assert content(run) == before
    for stage in STAGES:
        old, new = manifests[stage], run.table(stage).manifest
        assert (len(old.shards), len(new.shards)) == (done[stage].shards_before, done[stage].shards)
        assert len(old.shards) > len(new.shards) == 1
        assert (new.ids, new.rows, new.spec, new.counts, new.complete, new.made_from) == (
            old.ids, old.rows, old.spec, old.counts, True, old.made_from,
        )  # fmt: skip
        whole = dsd.Run(finished[1]).table(stage)
        (theirs,), (ours,) = whole.manifest.shards, new.shards
        assert (ours.sha256, ours.ids) == (theirs.sha256, theirs.ids), stage  # byte for byte
        assert done[stage].bytes == ours.bytes
    assert parquet_files(run) == sorted(
        f"{stage}/{run.table(stage).manifest.shards[0].file}" for stage in STAGES
    )
    assert run.verify() == []
    assert json.loads((run.path / "manifest.json").read_text()) == json.loads(json.dumps(run.manifest()))
    assert [found.shards_before for found in run.compact()] == [1] * 4  # nothing more to do
    assert "pairs: 6 shards (" in str(done["pairs"])
    for call in (
        lambda: dsd.make_pairs(run, progress=False),
        lambda: dsd.curate(run, "parity", progress=False),
    ):
        assert call().added == 0


@pytest.mark.parametrize(("rows", "expected"), [(24, 3), (35, 3), (36, 2), (1, 6)])
def test_limits_are_kept_and_no_shard_is_parted(run, rows, expected):
    ids = run.pairs.ids()
    run.compact(["pairs"], shard_rows=rows)
    shards = run.pairs.manifest.shards
    assert len(shards) == expected
    assert all(shard.rows <= max(rows, 12) and shard.rows % 12 == 0 for shard in shards)
    assert run.pairs.ids() == ids
    assert len(run.grids.manifest.shards) > 1  # not asked for


def shard(number, rows, size):
    return Shard(file=f"part-{number:05d}.parquet", rows=rows, bytes=size, ids="0", sha256="", footer="")


def test_the_plan_holds_for_any_sizes():
    rng = np.random.default_rng(0)
    for _ in range(200):
        shards = [shard(i, *map(int, rng.integers(1, 30, 2))) for i in range(rng.integers(0, 20))]
        groups = plan(shards, 40, 35)
        assert [one for group in groups for one in group] == shards
        for group in groups:
            assert len(group) == 1 or (sum(s.rows for s in group) <= 40 and sum(s.bytes for s in group) <= 35)
        for one, two in itertools.pairwise(groups):  # no group could have taken one more
            more = [*one, two[0]]
            assert sum(s.rows for s in more) > 40 or sum(s.bytes for s in more) > 35


def steps_of(monkeypatch):
    """Counts the steps that change the disk; raises before step number `stop`, and at every one after it."""
    state = {"count": 0, "stop": None}

    def counted(function):
        def step(*args, **kwargs):
            if state["stop"] is not None and state["count"] >= state["stop"]:
                raise KeyboardInterrupt  # no `except Exception` survives it; and nothing is cleaned up
            state["count"] += 1
            return function(*args, **kwargs)

        return step

    for name in ("replace", "fsync", "rename"):
        monkeypatch.setattr(atomic.os, name, counted(getattr(os, name)))
    monkeypatch.setattr(Path, "unlink", counted(Path.unlink))
    monkeypatch.setattr(Path, "rename", counted(Path.rename))
    return state


def test_killed_at_every_step_either_listing_is_whole(run, tmp_path):
    before, shards = content(run), {stage: run.table(stage).manifest.shards for stage in STAGES}
    with pytest.MonkeyPatch.context() as patch:
        state = steps_of(patch)
        copy = dsd.Run(shutil.copytree(run.path, tmp_path / "count"))
        copy.compact(["pairs", "verdicts/parity"], shard_rows=24)
    number = state["count"]
    assert number > 30
    seen = set()
    for stop in range(number):
        copy = dsd.Run(shutil.copytree(run.path, tmp_path / f"stop-{stop}"))
        reader = dsd.Run(copy.path)
        first = next(iter(reader.pairs.items()))[0]
        with pytest.MonkeyPatch.context() as patch:
            steps_of(patch)["stop"] = stop
            with pytest.raises(KeyboardInterrupt):
                copy.compact(["pairs", "verdicts/parity"], shard_rows=24)
        copy = dsd.Run(copy.path)
        assert copy.verify() == []
        assert content(copy) == before
        assert reader.pairs[first].id == first
        seen.add(len(copy.pairs.manifest.shards))
        if stop % 3 == 0:  # what a stage makes of the orphans: none of them is taken for new rows
            assert dsd.make_pairs(copy, progress=False).added == 0
            assert dsd.curate(copy, "parity", progress=False).added == 0
            assert content(copy) == before
        copy.compact(shard_rows=24)
        copy.gc()
        assert content(dsd.Run(copy.path)) == before
        listed = sorted(f"{stage}/{s.file}" for stage in STAGES for s in copy.table(stage).manifest.shards)
        assert parquet_files(copy) == listed
        assert not copy.gc().removed
        shutil.rmtree(copy.path)
    assert seen == {6, 5, 4, 3}
    assert len(shards["pairs"]) == 6


def test_a_shard_that_was_not_listed_yet_is_not_overwritten(run):
    """A killed stage left its last shard: compaction must not write over rows that took hours to draw."""
    folder = run.path / "pairs"
    ids = run.pairs.ids()
    manifest = json.loads((folder / ".manifest.json").read_text())
    *kept, last = manifest["shards"]
    (folder / ".manifest.json").write_text(json.dumps({**manifest, "shards": kept}))
    run.compact(["pairs"])
    assert run.pairs.ids() == ids[:-12]
    assert (folder / last["file"]).exists()
    assert [orphan.path for orphan in run.gc().kept] == [f"pairs/{last['file']}"]
    assert dsd.make_pairs(run, progress=False).added == 0
    assert run.pairs.ids() == ids
    (folder / "part-00041.parquet.damaged").touch()
    assert highest_number(folder) == 41


def test_readers_of_the_old_listing_are_told_to_read_again(run):
    reader = dsd.Run(run.path)
    ids = reader.pairs.ids()
    iterator = iter(reader.pairs)
    next(iterator)
    run.compact()
    with pytest.raises(ChangedError, match=r"was replaced while it was read.*Read them again"):
        list(iterator)
    assert [pair.id for pair in reader.pairs] == ids


def test_reading_by_id_goes_on_through_compaction(run):
    reader = dsd.Run(run.path)
    ids = reader.pairs.ids()
    assert reader.pairs[ids[0]].id == ids[0]
    run.compact(shard_rows=24)
    assert [reader.pairs[pair_id].id for pair_id in ids] == ids
    run.compact()
    assert [reader.pairs[pair_id].id for pair_id in ids] == ids


def test_a_name_that_was_given_again_is_a_change_too(run):
    """The last shard's rows are removed and others written under its name."""
    reader = dsd.Run(run.path)
    iterator = iter(reader.verdicts("parity"))
    next(iterator)
    last = reader.verdicts("parity").manifest.shards[-1].file
    table = run.verdicts("parity")
    gone = [record for _, record in table.items(table.ids()[-table.manifest.shards[-1].rows :])]
    with TableWriter(table, table.manifest.spec) as writer:
        assert writer.remove(lambda row: row["pair_id"] in {one.pair_id for one in gone}) == len(gone)
        writer.add(gone[::-1])
        writer.finish()
    assert any(s.file == last for s in run.verdicts("parity").manifest.shards)
    with pytest.raises(ChangedError):
        list(iterator)


def test_a_damaged_shard_is_not_compacted(run):
    path = run.path / "pairs" / "part-00003.parquet"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    files = parquet_files(run)
    with pytest.raises(ManifestError, match=r"part-00003\.parquet is damaged"):
        run.compact(["pairs"])
    assert parquet_files(run) == files


def test_what_cannot_be_is_refused(run, tmp_path):
    with pytest.raises(ValueError, match="`shard_rows` must be at least 1; got 0"):
        run.compact(shard_rows=0)
    with pytest.raises(LookupError, match="no stage 'pears'"):
        run.compact(["pears"])
    with pytest.raises(FileNotFoundError, match="no rows of the stage 'verdicts/other' yet"):
        run.compact(["verdicts/other"])
    with run.lock("test"), pytest.raises(LockedError):
        dsd.Run(run.path).compact()
    for call in (dsd.Run(tmp_path / "nowhere").gc, lambda: dsd.Run(tmp_path / "nowhere").gc(dry_run=True)):
        with pytest.raises(FileNotFoundError, match="There is no run"):
            call()
    assert not (tmp_path / "nowhere").exists()


def litter(run):
    """What killed processes, mending and people leave; what gc must remove, and what it must not touch."""
    pairs, verdicts = run.path / "pairs", run.path / "verdicts" / "parity"
    first = pairs / "part-00000.parquet"
    gone = {
        "pairs/.part-00007.parquet.4711.tmp": b"half a shard",
        ".manifest.json.12.tmp": b"{",
        "pairs/part-00001.parquet.damaged": b"zeros",
        "pairs/part-00009.parquet": first.read_bytes(),  # all its rows are listed
        "pairs/part-00010.parquet.unlisted": first.read_bytes(),
        "verdicts/.old.discarded-3-1700/part-00000.parquet": b"rows",
        "verdicts/.old.discarded-3-1700/.manifest.json": b"{}",
    }
    stays = {
        "notes.txt": b"mine",
        "pairs/best.parquet": first.read_bytes(),
        "pairs/part-00011.parquet": b"not readable",
        "pairs/part-00012.parquet": (verdicts / "part-00000.parquet").read_bytes(),
        "pairs/part-00013.parquet.unlisted": b"not known to be ours",
        "pairs/x.tmp": b"not our name",
        "mine/part-00000.parquet": first.read_bytes(),
        "mine/part-00000.parquet.damaged": b"in a folder that is no stage",
    }
    for name, data in {**gone, **stays}.items():
        path = run.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return gone, stays


def test_gc_removes_orphans_and_nothing_else(run, tmp_path):
    gone, stays = litter(run)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "part-00000.parquet.damaged").write_bytes(b"of somebody else")
    (run.path / "linked").symlink_to(outside)
    (run.path / "pairs" / "part-00099.parquet.damaged").symlink_to(outside / "part-00000.parquet.damaged")
    (run.path / "answers.sqlite").write_bytes(b"paid for")
    (run.path / "answers.sqlite-wal").write_bytes(b"paid for")
    before, files = content(run), {path for path in run.path.rglob("*") if path.is_file()}
    planned = run.gc(dry_run=True)
    assert {path for path in run.path.rglob("*") if path.is_file()} == files
    done = run.gc()
    assert (planned.removed, planned.kept, planned.bytes) == (done.removed, done.kept, done.bytes)
    assert {o.path for o in done.removed} == {n for n in gone if "discarded" not in n} | {
        "verdicts/.old.discarded-3-1700"
    }
    assert done.bytes == sum(map(len, gone.values()))
    left = {path for path in run.path.rglob("*") if path.is_file()}
    assert files - left == {run.path / name for name in gone}
    assert {orphan.path for orphan in done.kept} == {*stays, "linked", "pairs/part-00099.parquet.damaged"}
    assert (outside / "part-00000.parquet.damaged").exists()
    assert content(run) == before
    assert run.verify() == []
    assert f"{done.bytes:,} bytes removed" in str(done)
    assert "kept: notes.txt  4 bytes  not written by dsd" in str(done)
    assert "would be removed" in str(planned)


def test_gc_waits_for_who_writes(run):
    litter(run)
    with atomic.lock(run.path, "a stage"), pytest.raises(LockedError):
        run.gc()
    assert (run.path / "pairs" / "part-00001.parquet.damaged").exists()


def test_rows_of_another_spec_go_and_rows_that_stand_nowhere_stay(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    other = make_run(Path("other"), 8)
    dsd.make_pairs(other, max_pairs=1, overwrite=True, progress=False)
    shutil.copy(
        other.path / "pairs" / "part-00000.parquet", run.path / "pairs" / "part-00020.parquet.unlisted"
    )
    dsd.make_pairs(other, overwrite=True, progress=False)
    shutil.copy(
        other.path / "pairs" / "part-00000.parquet", run.path / "pairs" / "part-00021.parquet.unlisted"
    )
    found = run.gc()
    assert [orphan.path for orphan in found.removed] == ["pairs/part-00020.parquet.unlisted"]
    assert [orphan.path for orphan in found.kept] == ["pairs/part-00021.parquet.unlisted"]
