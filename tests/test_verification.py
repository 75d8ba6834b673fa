"""Looking at every row of a run, and mending it: what is damaged is named, what is whole is saved."""

import json
import shutil
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

import dsd
from dsd.data import atomic
from dsd.data.atomic import LockedError, replace_file
from dsd.data.examination import Examined, whole_groups
from dsd.data.manifest import StageManifest
from dsd.data.rows import PAIRS
from dsd.data.shards import entry, parquet
from dsd.data.verification import verify
from dsd.data.writer import TableWriter
from tests.cheap_world import make_run

STAGES = ("prompts", "grids", "pairs", "verdicts/parity")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Two shards of pairs, of several row groups each: a group of 12 pairs fills none alone."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(TableWriter, "shard_rows", 60)
        patch.setattr("dsd.data.shards._GROUP_ROWS", 10)
        make_run(Path("run"), 9)
    return folder / "run"


@pytest.fixture
def run(finished, tmp_path, monkeypatch):
    monkeypatch.chdir(finished.parent)  # where the prompts' file is
    shutil.copytree(finished, tmp_path / "run")
    return dsd.Run(tmp_path / "run")


def content(run):
    return {stage: list(run.table(stage).rows()) for stage in STAGES}


def remake(run):
    dsd.write_prompts(run, writer={"name": "file", "path": "run.txt"}, count=9, progress=False)
    dsd.draw_grids(run, "cheap", progress=False)
    dsd.make_pairs(run, progress=False)
    dsd.curate(run, "parity", progress=False)


def sorted_content(run):
    return {stage: sorted(map(repr, rows)) for stage, rows in content(run).items()}


def rewritten(run, stage, change, shard=0):
    """A shard whose rows are not what they were, but whose hashes are right: written by a stranger."""
    table = run.table(stage)
    old = table.manifest.shards[shard]
    rows = change([row for row in table.rows_of(old)])
    path = table.folder / old.file
    stamp = {"stage": stage, "spec": table.manifest.spec}
    data = parquet(table.kind, stamp, rows)
    replace_file(path, data)
    shards = list(table.manifest.shards)
    shards[shard] = entry(table.folder, old.file, [row[table.kind.id_column] for row in rows], data)
    StageManifest(**{**vars(table.manifest), "shards": tuple(shards)}).save(table.folder)
    return rows


def faults(found):
    return [(fault.stage, fault.kind, fault.id) for fault in found.faults]


def test_a_whole_run_has_no_fault(run):
    sizes = []
    found = verify(run, advance=sizes.append)
    assert found.whole
    assert found.rows == {"prompts": 9, "grids": 9, "pairs": 108, "verdicts/parity": 108}
    assert sum(sizes) == sum(path.stat().st_size for path in run.path.rglob("*.parquet"))
    assert json.loads(json.dumps(found.as_json()))["whole"] is True
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    assert run.examine(mend=True) == found
    after = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    assert {path for path in before if before[path] != after.pop(path)} <= {run.path / ".lock"}
    assert not after


def pages(path, column, group):
    """The bytes of a column's pages in a row group."""
    chunk = pq.ParquetFile(path).metadata.row_group(group)
    found = next(
        chunk.column(i) for i in range(chunk.num_columns) if chunk.column(i).path_in_schema == column
    )
    start = found.dictionary_page_offset or found.data_page_offset
    return start, start + found.total_compressed_size


def flip(path, place):
    data = bytearray(path.read_bytes())
    data[place] ^= 16
    path.write_bytes(data)


def test_damaged_rows_are_named_and_the_others_saved(run):
    """A flipped bit in one row group: its rows and those of the same grids are made again, no others."""
    before, grid_of = content(run), {row["id"]: row["grid_id"] for row in run.pairs.rows()}
    ids = run.pairs.ids()
    path = run.path / "pairs" / "part-00000.parquet"
    start, end = pages(path, "target.bytes", 2)
    flip(path, (start + end) // 2)
    found = run.examine()
    damaged = [fault for fault in found.faults if fault.stage == "pairs"]
    assert damaged[0].id is None
    assert damaged[0].problem.endswith("its SHA-256 is not the recorded one.")
    assert [fault.id for fault in damaged[1:]] == ids[20:30]
    assert {fault.kind for fault in damaged} == {"damaged"}
    assert {f.shard for f in damaged} == {"part-00000.parquet"}
    assert all("cannot be read" in fault.problem for fault in damaged[1:])
    assert not any(fault.stage != "pairs" for fault in found.faults)  # the ids of the lost rows could be read
    done = run.examine(mend=True)
    assert done.faults[: len(found.faults)] == found.faults  # the rest are verdicts of what is gone
    (mended,) = done.mended
    grids = {grid_of[i] for i in ids[20:30]}
    assert len(grids) == 2
    assert (mended.stage, mended.saved, mended.removed) == ("pairs", 60 - 24, 24)
    assert mended.made_by == "dsd.make_pairs(run)"
    assert run.pairs.ids() == [i for i in ids if grid_of[i] not in grids]
    assert (run.path / "pairs" / "part-00000.parquet.damaged").exists()
    # Verdicts of the pairs that are to come again are waiting, and stay.
    waiting = run.examine(mend=True)
    assert {(fault.stage, fault.kind) for fault in waiting.faults} == {("verdicts/parity", "waiting")}
    assert not waiting.mended
    assert dsd.make_pairs(run, progress=False).added == 24
    assert run.examine().whole
    assert sorted_content(run) == {stage: sorted(map(repr, rows)) for stage, rows in before.items()}


DAMAGES = {
    "cut": lambda data: data[: len(data) // 2],
    "garbage": lambda data: b"\x00" * len(data),
    "gone": None,
    "longer": lambda data: data + b"PAR1",
    "first page": lambda data: data[:40] + bytes([data[40] ^ 1]) + data[41:],
    "footer": lambda data: data[:-60] + bytes([data[-60] ^ 64]) + data[-59:],
}


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("damage", DAMAGES)
def test_any_damage_is_mended_and_made_again(run, stage, damage):
    before = content(run)
    shard = run.path / stage / "part-00000.parquet"
    if DAMAGES[damage] is None:
        shard.unlink()
    else:
        shard.write_bytes(DAMAGES[damage](shard.read_bytes()))
    found = run.examine(mend=True)
    assert found.faults[0].stage == stage
    assert found.faults[0].kind == "damaged"
    (mended,) = found.mended
    if damage in ("cut", "garbage", "gone", "longer"):
        assert mended.saved == 0
    if damage == "footer" and stage in STAGES[:2]:  # their ids prove them all
        assert (mended.saved, mended.removed) == (9, 0)
    remake(run)
    assert run.examine().whole
    assert sorted_content(run) == {name: sorted(map(repr, rows)) for name, rows in before.items()}


def test_every_flipped_byte_is_found_and_no_wrong_row_is_saved(run):
    before = {row["pair_id"]: row for row in run.verdicts("parity").rows()}
    path = run.path / "verdicts" / "parity" / "part-00000.parquet"
    data = path.read_bytes()
    manifest = (path.parent / ".manifest.json").read_bytes()
    saved = 0
    for place in range(0, len(data), 191):
        flip(path, place)
        found = run.examine(["verdicts/parity"], mend=True)
        assert not found.whole
        rows = list(run.verdicts("parity").rows())
        assert all(before[row["pair_id"]] == row for row in rows)
        saved += found.mended[0].saved
        for other in path.parent.glob("part-*.parquet*"):
            if "00001.parquet" not in other.name:
                other.unlink()
        path.write_bytes(data)
        (path.parent / ".manifest.json").write_bytes(manifest)
    assert saved > 500  # most of the others


def bomb(size):
    buffer = BytesIO()
    Image.new("1", (size, size)).save(buffer, "PNG")
    return buffer.getvalue()


def with_picture(data):
    def change(rows):
        rows[13]["target"] = {"bytes": data(rows[13]["target"]["bytes"]), "path": None}
        return rows

    return change


@pytest.mark.parametrize(
    ("data", "words"),
    {
        "cut": (lambda png: png[:-30], "cannot be decoded"),
        "no picture": (lambda png: b"<html>", "cannot be decoded"),
        "bomb": (lambda png: bomb(8000), "8000 x 8000 px, and at most 50,000,000 pixels"),
        "another": (lambda png: bomb(8), "its content has the id"),
        "none": (lambda png: None, "cannot be decoded"),
    }.values(),
)
def test_pictures_that_do_not_decode_are_named_and_made_again(run, data, words):
    """The file is as it was written, and its hashes are right: only decoding finds out."""
    before = content(run)
    rows = rewritten(run, "pairs", with_picture(data))
    assert run.verify() == []
    found = run.examine()
    (fault,) = found.faults
    assert (fault.stage, fault.kind, fault.id) == ("pairs", "damaged", rows[13]["id"])
    assert words in fault.problem
    (mended,) = run.examine(mend=True).mended
    assert (mended.saved, mended.removed) == (48, 12)  # with the other eleven of its grid
    remake(run)
    assert run.examine().whole
    assert sorted_content(run) == {name: sorted(map(repr, rows)) for name, rows in before.items()}


def test_edited_texts_are_found_by_their_id(run):
    def change(rows):
        rows[4]["text"] += " and a hat"
        return rows

    rows = rewritten(run, "prompts", change)
    assert faults(run.examine()) == [("prompts", "damaged", rows[4]["id"])]


def test_rows_that_are_there_twice_go_once(run):
    before = content(run)
    rewritten(run, "verdicts/parity", lambda rows: [*rows, rows[3], rows[7]])
    found = run.examine(mend=True)
    twice = [row["pair_id"] for row in before["verdicts/parity"]]
    assert faults(found) == [("verdicts/parity", "twice", twice[3]), ("verdicts/parity", "twice", twice[7])]
    assert content(run) == before
    assert run.examine().whole


def test_rows_that_refer_to_nothing_go_only_if_nothing_can_come(run):
    """A finished stage that has no such row will not make it; one that is not finished may."""
    ids = run.pairs.ids()
    with TableWriter(run.pairs, run.pairs.manifest.spec, run.pairs.manifest.made_from) as writer:
        assert writer.remove(lambda row: row["id"] in ids[:3]) == 3
    expected = [("verdicts/parity", "waiting", i) for i in ids[:3]]
    assert faults(run.examine(mend=True)) == expected
    assert len(run.verdicts("parity")) == 108
    with TableWriter(run.pairs, run.pairs.manifest.spec, run.pairs.manifest.made_from) as writer:
        writer.finish()
    found = run.examine(mend=True)
    assert faults(found) == [("verdicts/parity", "lost", i) for i in ids[:3]]
    assert f"its pair_id {ids[0]} is no row of 'pairs'" in found.faults[0].problem
    assert (found.mended[0].saved, found.mended[0].removed) == (64 - 3, 3) or found.mended[0].removed == 3
    assert run.verdicts("parity").ids() == ids[3:]
    dsd.curate(run, "parity", progress=False)
    assert run.examine().whole


def test_a_damaged_earlier_stage_takes_no_row_of_later_ones_along(run):
    grids = run.path / "grids" / "part-00000.parquet"
    grids.write_bytes(grids.read_bytes()[:100])
    found = run.examine(mend=True)
    assert [mended.stage for mended in found.mended] == ["grids"]
    assert {(f.stage, f.kind) for f in found.faults} == {("grids", "damaged"), ("pairs", "waiting")}
    assert len(run.pairs) == 108


def test_failures_of_rows_that_are_gone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = make_run(Path("run"), 4, faults={"002": "raise"})
    assert run.examine().whole
    lost = run.failed("grids").ids()
    dsd.write_prompts(
        run, writer={"name": "file", "path": "run.txt"}, seed=1, count=4, overwrite=True, progress=False
    )
    assert ("failed/grids", "lost", lost[0]) in faults(run.examine())


def test_a_manifest_that_cannot_be_read_is_one_fault_and_the_rest_is_looked_at(run):
    (run.path / "grids" / ".manifest.json").write_text('{"format": 2')
    shard = run.path / "verdicts" / "parity" / "part-00001.parquet"
    shard.write_bytes(b"")
    found = run.examine(mend=True)
    assert found.faults[0].stage == "grids"
    assert "is damaged" in found.faults[0].problem
    assert ("verdicts/parity", "damaged", None) in faults(found)


def test_killed_at_every_step_mending_goes_on(run, tmp_path):
    path = run.path / "pairs" / "part-00000.parquet"
    start, end = pages(path, "target.bytes", 2)
    flip(path, (start + end) // 2)
    whole = dsd.Run(shutil.copytree(run.path, tmp_path / "whole"))
    whole.examine(mend=True)
    expected, steps = whole.pairs.ids(), 0
    while True:
        copy = dsd.Run(shutil.copytree(run.path, tmp_path / f"stop-{steps}"))
        left = steps

        def counted(function):
            def step(*args, **kwargs):
                nonlocal left
                if left <= 0:
                    raise KeyboardInterrupt
                left -= 1
                return function(*args, **kwargs)

            return step

        with pytest.MonkeyPatch.context() as patch:
            for name in ("replace", "fsync"):
                patch.setattr(atomic.os, name, counted(getattr(atomic.os, name)))
            patch.setattr(Path, "rename", counted(Path.rename))
            patch.setattr(Path, "unlink", counted(Path.unlink))
            try:
                copy.examine(mend=True)
                break
            except KeyboardInterrupt:
                steps += 1
        copy = dsd.Run(copy.path)
        copy.examine(mend=True)
        assert copy.pairs.ids() == expected
        assert dsd.make_pairs(copy, progress=False).added == 24
        assert copy.examine().whole
        copy.gc()
        assert not [path for path in copy.path.rglob("*.parquet*") if not path.name.endswith(".parquet")]
    assert steps > 8


def examined(keys, whole):
    return [
        Examined(texts={} if key is None else {"id": f"{i}", "grid_id": key}, fault=None if ok else "x")
        for i, (key, ok) in enumerate(zip(keys, whole, strict=True))
    ]


@pytest.mark.parametrize(
    ("keys", "bad", "kept"),
    [
        ("aaabbb", [], "012345"),
        ("aaabbb", [1], "345"),
        ("aaa?bbb", [3], ""),  # it may have been of either
        ("aa??ccbb", [2, 3], "67"),
        ("?aabb", [0], "34"),
        ("aabb?", [4], "01"),
    ],
)
def test_a_group_that_may_have_lost_a_row_is_made_again(keys, bad, kept, tmp_path):
    table = dsd.data.Table(tmp_path, PAIRS)
    rows = examined([None if key == "?" else key for key in keys], [i not in bad for i in range(len(keys))])
    assert whole_groups(table, rows, set(bad)) == {int(i) for i in kept}


def test_mending_waits_for_who_writes(run):
    with run.lock("a stage"):
        assert dsd.Run(run.path).examine().whole
        with pytest.raises(LockedError):
            dsd.Run(run.path).examine(mend=True)
    with pytest.raises(FileNotFoundError, match="There is no run"):
        dsd.Run(run.path / "nowhere").examine()
    with pytest.raises(LookupError, match="no stage 'pears'"):
        run.examine(["pears"])


def test_random_damages_lose_nothing(run, tmp_path):
    rng = np.random.default_rng(0)
    before = sorted_content(run)
    for number in range(6):
        copy = dsd.Run(shutil.copytree(run.path, tmp_path / f"{number}"))
        files = sorted(copy.path.rglob("*.parquet"))
        for path in rng.choice(files, 2, replace=False):
            for place in rng.integers(0, path.stat().st_size, rng.integers(1, 4)):
                flip(path, int(place))
        assert not copy.examine(mend=True).whole
        remake(copy)
        copy.examine(mend=True)
        remake(copy)
        assert copy.examine().whole
        assert sorted_content(copy) == before
        shutil.rmtree(copy.path)
