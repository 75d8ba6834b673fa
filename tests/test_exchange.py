"""Pairs to the layouts of others and back: nothing is lost that a layout has a place for."""

import hashlib
import io
import shutil
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

import dsd
from dsd.data.rows import Captioned
from dsd.data.writer import TableWriter
from dsd.exchange import LAYOUTS, export_pairs, import_pairs
from dsd.types import Pair
from tests.cheap_world import picture
from tests.exchange_run import CAPTIONS, pixels, verdicts_of, write_run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("source") / "run")


@pytest.mark.parametrize("layout", ["webdataset", "imagefolder"])
@pytest.mark.parametrize("policy", ["every", {"curators": "first"}])
def test_what_goes_out_comes_back_the_same(run, tmp_path, layout, policy):
    done = export_pairs(run, tmp_path / "out", layout, policy, shard_pairs=5, progress=False)
    wanted = run.accepted(policy)
    assert (done.pairs, done.left_out) == (len(wanted), {})
    assert len(wanted) == (36 if policy == "every" else 24)
    back = dsd.Run(tmp_path / "back")
    found = import_pairs(tmp_path / "out", back, layout, progress=False)
    assert (found.added, found.twice, found.refused, found.changed) == (len(wanted), 0, 0, 0)
    assert back.pairs.ids() == wanted
    assert list(back.pairs.rows()) == list(run.pairs.rows(wanted))  # pictures byte for byte
    for name in ("first", "second"):
        theirs = {i: verdict for i, verdict in verdicts_of(run, name).items() if i in wanted}
        assert verdicts_of(back, name) == theirs
    assert back.examine().whole
    assert back.accepted({"curators": "first"}) == run.accepted({"curators": "first"})
    assert [dict(back.table(stage).manifest.spec)["imported"]["layout"] for stage in back.stages()] == [
        layout
    ] * 3


def test_the_release_layout_keeps_pictures_and_captions_in_order(run, tmp_path):
    export_pairs(run, tmp_path / "out", policy={"curators": "first"}, shard_pairs=7, progress=False)
    files = sorted(path.name for path in (tmp_path / "out" / "data").iterdir())
    assert files == [f"train-{i:05d}-of-00004.parquet" for i in range(4)]
    schema = pq.read_schema(tmp_path / "out" / "data" / files[0])
    assert schema.names == ["image", "conditioning", "caption"]
    back = dsd.Run(tmp_path / "back")
    assert import_pairs(tmp_path / "out", back, name="ours", progress=False).added == 24
    expected = [(*pixels(pair), pair.caption, "ours") for pair in run.accepted_pairs({"curators": "first"})]
    assert [(*pixels(pair), pair.caption, pair.source) for pair in back.pairs] == expected
    assert back.curators() == []


def test_side_by_side_rows_are_pairs_in_both_directions(run, tmp_path):
    done = export_pairs(run, tmp_path / "out", "subjects200k", "every", padding=3, progress=False)
    assert done.pairs == 36
    table = pq.read_table(tmp_path / "out" / "data")
    assert len(table) == 18
    first = table.slice(0, 1).to_pylist()[0]
    pair = next(iter(run.pairs))
    assert first["description"] == {
        "item": "", "category": "object", "description_valid": True,
        "description_0": CAPTIONS[0], "description_1": CAPTIONS[1],
    }  # fmt: skip
    page = Image.open(io.BytesIO(first["image"]["bytes"]))
    assert page.size == (2 * 24 + 9, 24 + 6)
    assert page.crop((3, 3, 27, 27)).tobytes() == pair.reference.tobytes()
    assert page.crop((30, 3, 54, 27)).tobytes() == pair.target.tobytes()
    back = dsd.Run(tmp_path / "back")
    assert import_pairs(tmp_path / "out", back, "subjects200k", progress=False).added == 36

    def seen(pairs):
        return sorted((*pixels(p), p.caption, p.subject, p.kind, p.source) for p in pairs)

    assert seen(back.pairs) == seen(run.pairs)
    groups = {}
    for row in back.pairs.rows():
        groups.setdefault(row["grid_id"], []).append(row)
    assert sorted(map(len, groups.values())) == [2] * 18  # both directions are held out together


def test_equal_pictures_with_other_captions_are_rows_of_their_own(run, tmp_path):
    one = dsd.Run(tmp_path / "one")
    first = next(iter(run.pairs))
    with one.lock("test"), TableWriter(one.pairs, {}) as writer:
        writer.add([replace(first, caption=caption) for caption in ("a", "b", "c")])
        writer.finish()
    assert export_pairs(one, tmp_path / "out", "subjects200k", progress=False).pairs == 3
    back = dsd.Run(tmp_path / "back")
    import_pairs(tmp_path / "out", back, "subjects200k", progress=False)
    assert sorted(pair.caption for pair in back.pairs) == ["a", "b", "c"]


def test_a_single_direction_stays_single(run, tmp_path):
    one = dsd.Run(tmp_path / "one")
    pairs = list(run.pairs)
    chosen = [pairs[0], pairs[1], next(p for p in pairs if (p.reference_panel, p.target_panel) == (1, 0))]
    with one.lock("test"), TableWriter(one.pairs, {}) as writer:
        writer.add(chosen)
        writer.finish()
    export_pairs(one, tmp_path / "out", "subjects200k", progress=False)
    back = dsd.Run(tmp_path / "back")
    assert import_pairs(tmp_path / "out", back, "subjects200k", progress=False).added == 3
    assert {pixels(pair) for pair in back.pairs} == {pixels(pair) for pair in chosen}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_jpeg_is_near_and_says_so(run, tmp_path, layout):
    smooth = Image.linear_gradient("L").resize((64, 64)).convert("RGB")
    one = dsd.Run(tmp_path / "one")
    with one.lock("test"), TableWriter(one.pairs, {}) as writer:
        writer.add([Pair(reference=smooth, target=smooth.rotate(90), caption="x", grid_id="g")])
        writer.finish()
    export_pairs(one, tmp_path / "out", layout, images="jpeg", quality=90, progress=False)
    assert "jpeg, quality 90" in (tmp_path / "out" / "README.md").read_text()
    back = dsd.Run(tmp_path / "back")
    found = import_pairs(tmp_path / "out", back, layout, progress=False)
    assert found.changed == (1 if layout in ("webdataset", "imagefolder") else 0)
    (pair,) = back.pairs
    error = np.abs(np.asarray(pair.reference, float) - np.asarray(smooth, float))
    assert 0 < error.max() < 16


def test_other_captions_go_out_in_the_place_of_the_pairs_own(run, tmp_path):
    copy = dsd.Run(shutil.copytree(run.path, tmp_path / "run"))
    ids = copy.pairs.ids()
    with copy.lock("test"), TableWriter(copy.captions("long"), {}) as writer:
        writer.add([Captioned(pair_id=i, caption=f"long {i}") for i in ids])
        writer.finish()
    export_pairs(copy, tmp_path / "out", "imagefolder", "every", captions="long", progress=False)
    back = dsd.Run(tmp_path / "back")
    import_pairs(tmp_path / "out", back, "imagefolder", progress=False)
    assert [pair.caption for pair in back.pairs] == [f"long {i}" for i in ids]


def test_shared_pictures_are_written_once_and_exports_are_repeatable(run, tmp_path):
    for name in ("a", "b"):
        for layout in LAYOUTS:
            export_pairs(run, tmp_path / name / layout, layout, "every", title="x", progress=False)
    assert len(list((tmp_path / "a" / "imagefolder" / "train" / "images").rglob("*.png"))) == 12

    def digests(folder):
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}

    assert digests(tmp_path / "a") == digests(tmp_path / "b")


def test_pairs_that_a_layout_has_no_place_for_are_told_of(tmp_path):
    run = dsd.Run(tmp_path / "run")
    fit = Pair(reference=picture("a", 16), target=picture("b", 16), grid_id="g")
    wide = Pair(reference=picture("a", 16), target=picture("c", 24), grid_id="g")
    with run.lock("test"), TableWriter(run.pairs, {}) as writer:
        writer.add([fit, wide])
        writer.finish()
    done = export_pairs(run, tmp_path / "out", "subjects200k", progress=False)
    assert (done.pairs, sum(done.left_out.values())) == (1, 1)
    assert "1 left out: pictures of different sizes" in str(done)
    assert "pictures of different sizes" in (tmp_path / "out" / "README.md").read_text()
    with run.lock("test"), TableWriter(run.pairs, {}, overwrite=True) as writer:
        writer.add([wide])
        writer.finish()
    with pytest.raises(ValueError, match="No pair has a place in the layout 'subjects200k'"):
        export_pairs(run, tmp_path / "none", "subjects200k", progress=False)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("mode", ["L", "RGBA", "1", "P"])
def test_every_mode_comes_back(tmp_path, mode):
    run = write_run(tmp_path / "run", [mode])
    for layout in ("webdataset", "imagefolder"):
        export_pairs(run, tmp_path / layout, layout, "every", progress=False)
        back = dsd.Run(tmp_path / f"back {layout}")
        assert import_pairs(tmp_path / layout, back, layout, progress=False).changed == 0
        assert back.pairs.ids() == run.pairs.ids()


def test_a_run_that_was_imported_goes_through_the_other_stages(run, tmp_path):
    export_pairs(run, tmp_path / "out", policy="every", progress=False)
    back = dsd.Run(tmp_path / "back")
    import_pairs(tmp_path / "out", back, progress=False)
    assert dsd.curate(back, "parity", progress=False).added == 36
    back.compact()
    assert back.examine().whole
    other = replace(next(iter(back.pairs)), caption="changed")
    assert other.id not in back.pairs
