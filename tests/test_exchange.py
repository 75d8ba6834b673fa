"""Pairs to the layouts of others and back: nothing is lost that a layout has a place for."""

import glob
import hashlib
import io
import shutil
from dataclasses import replace

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset
from PIL import Image

import dsd
from dsd.data.atomic import LockedError
from dsd.data.manifest import SpecError
from dsd.data.rows import Captioned, Judged
from dsd.data.writer import TableWriter
from dsd.exchange import LAYOUTS, export_pairs, import_pairs, parquet_writers
from dsd.exchange import writers as layout_writers
from dsd.exchange.subjects200k import joined, split
from dsd.types import Pair, Verdict
from tests.cheap_world import picture

SCORES = {"compositeStructure": 5, "objectConsistency": 4, "imageQuality": 5}
CAPTIONS = [
    "a fox, in snow",
    "",
    'said "狐" é\n\tand left',
    "=1+1; <b>|`",
    "x" * 3000,
    "\u202e right to left",
]


def write_run(path, modes=("RGB",)):
    """Three grids of four panels, all twelve pairs of each; two curators, one of which judged some alone."""
    run = dsd.Run(path)
    panels = [[picture(f"{g}{i}", 24).convert(modes[g % len(modes)]) for i in range(4)] for g in range(3)]
    pairs = [
        Pair(
            reference=panels[g][a],
            target=panels[g][b],
            caption=CAPTIONS[(g + b) % len(CAPTIONS)],
            subject="a fox" if g else "",
            kind="object",
            grid_id=f"grid {g}",
            reference_panel=a,
            target_panel=b,
            source=f"teacher {g}",
        )
        for g in range(3)
        for a in range(4)
        for b in range(4)
        if a != b
    ]
    verdicts = {
        "first": [Verdict(keep=i % 3 > 0, score=i / 7, reason=f"r {i} é", raw="{}") for i in range(36)],
        "second": [Verdict(status="refused", cost_usd=0.5) for i in range(10, 20)],
    }
    with run.lock("test"):
        with TableWriter(run.pairs, {"by": "a test"}) as writer:
            writer.add(pairs)
            writer.finish()
        for name, (begin, given) in {
            "first": (0, verdicts["first"]),
            "second": (10, verdicts["second"]),
        }.items():
            with TableWriter(run.verdicts(name), {"curator": {"name": name}}) as writer:
                judged = zip(pairs[begin:], given, strict=False)
                writer.add([Judged(pair_id=pair.id, verdict=verdict) for pair, verdict in judged])
                writer.finish()
        run.save_manifest()
    return run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("source") / "run")


def pixels(pair):
    return pair.reference.tobytes(), pair.target.tobytes()


def verdicts_of(run, name):
    return {judged.pair_id: judged.verdict for judged in run.verdicts(name)}


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


def subjects_file(path, rows):
    columns = {
        name: [row.get(name) for row in rows] for name in ("image", "collection", "quality_assessment")
    }
    columns["description"] = [row.get("description") for row in rows]
    pq.write_table(pa.table(columns, schema=parquet_writers._subjects_schema()), path)
    return path


def png(image):
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def cell(image):
    return {"bytes": png(image), "path": "a/name.png"}


def test_ratings_of_subjects200k_become_verdicts_and_go_back(tmp_path):
    pages = [joined(picture(f"l{i}", 16), picture(f"r{i}", 16), 8) for i in range(4)]
    about = {"item": "a cup", "category": "object", "description_0": "left", "description_1": "right"}
    rows = [
        {"image": cell(pages[0]), "quality_assessment": SCORES, "description": about, "collection": "c_2"},
        {"image": cell(pages[1]), "quality_assessment": dict.fromkeys(SCORES, 5), "description": about},
        {"image": cell(pages[2]), "quality_assessment": None, "description": None},
        {"image": cell(pages[3]), "quality_assessment": {**SCORES, "imageQuality": 9}, "description": about},
    ]
    source = subjects_file(tmp_path / "x.parquet", rows)
    back = dsd.Run(tmp_path / "run")
    found = import_pairs(source, back, "subjects200k", progress=False)
    assert (found.added, found.refused) == (6, 1)
    (refused,) = back.failed("pairs")
    assert refused.source == "x.parquet, row 3"
    assert "whole numbers from 0 to 5" in refused.reason
    by_caption = {}
    for pair in back.pairs:
        by_caption.setdefault(pair.caption, []).append(pair)
    assert sorted(by_caption) == ["", "left", "right"]
    assert by_caption["right"][0].reference.tobytes() == picture("l0", 16).tobytes()
    assert by_caption["left"][0].target.tobytes() == picture("l0", 16).tobytes()
    assert by_caption["right"][0].source == "c_2"
    assert by_caption["right"][1].source == "x.parquet"
    judged = verdicts_of(back, "quality_assessment")
    assert sorted(verdict.status for verdict in judged.values()) == ["accepted"] * 2 + ["rejected"] * 2
    assert {verdict.score for verdict in judged.values()} == {0.8, 1.0}
    lower = dsd.Run(tmp_path / "lower")
    import_pairs(source, lower, "subjects200k", min_quality=4, progress=False)
    assert {
        verdict.status for verdict in lower.verdicts("quality_assessment") for verdict in [verdict.verdict]
    } == {"accepted"}
    export_pairs(back, tmp_path / "out", "subjects200k", "every", padding=8, progress=False)
    again = pq.read_table(tmp_path / "out" / "data").to_pylist()
    assert [row["quality_assessment"] for row in again] == [row.get("quality_assessment") for row in rows[:3]]
    assert [row["description"]["item"] for row in again] == ["a cup", "a cup", ""]


@pytest.mark.parametrize(
    ("size", "padding", "given"),
    [
        ((512, 512), 8, None),  # 1048 x 528
        ((512, 512), 16, None),  # 1072 x 544
        ((512, 512), 0, None),
        ((40, 24), 5, 5),
        ((24, 40), 5, 5),
        ((24, 24), 0, 0),
    ],
)
def test_split_takes_apart_what_was_joined(size, padding, given):
    rng = np.random.default_rng(0)
    left, right = (Image.fromarray(rng.integers(0, 256, (*size[::-1], 3), dtype=np.uint8)) for _ in range(2))
    one, two = split(joined(left, right, padding), given)
    assert one.tobytes() == left.tobytes()
    assert two.tobytes() == right.tobytes()


def test_split_crops_as_the_loader_of_the_data_set_does():
    """Padding 8 of a picture of 1056 x 528: from 8 and from 528 on, 512 px each."""
    page = Image.fromarray(np.random.default_rng(0).integers(0, 256, (528, 1056, 3), dtype=np.uint8))
    one, two = split(page, 8)
    assert one.tobytes() == page.crop((8, 8, 520, 520)).tobytes()
    assert two.tobytes() == page.crop((528, 8, 1040, 520)).tobytes()
    for size, padding, words in (((100, 30), None, "no two squares"), ((30, 20), 10, "no room")):
        with pytest.raises(ValueError, match=words):
            split(Image.new("RGB", size), padding)


def test_the_datasets_library_reads_every_layout(run, tmp_path):
    """Its decoder and its idea of the columns, not ours."""
    datasets.disable_progress_bars()
    pairs = list(run.accepted_pairs({"curators": "first"}))
    names = {"release": ("conditioning", "image"), "webdataset": ("reference.png", "target.png")}
    for layout in LAYOUTS:
        export_pairs(run, tmp_path / layout, layout, {"curators": "first"}, shard_pairs=9, progress=False)
        found = datasets.load_dataset(
            str(tmp_path / layout), split="train", cache_dir=str(tmp_path / f"cache-{layout}")
        )
        if layout == "subjects200k":
            assert len(found) == len(pq.read_table(tmp_path / layout / "data"))
            assert found[0]["image"].size == (2 * 24 + 48, 24 + 32)
            assert set(found[0]["description"]) >= {"item", "description_0", "description_1"}
            continue
        assert len(found) == len(pairs) == 24
        reference, target = names.get(layout, ("reference", "target"))
        by_pixels = {(row[reference].tobytes(), row[target].tobytes()): row for row in found}
        for pair in pairs:
            row = by_pixels[pixels(pair)]
            assert row["txt" if layout == "webdataset" else "caption"] == pair.caption


def test_the_webdataset_library_reads_the_archives(run, tmp_path):
    export_pairs(run, tmp_path / "out", "webdataset", "every", shard_pairs=10, progress=False)
    files = sorted(glob.glob(str(tmp_path / "out" / "data" / "*.tar")))
    assert len(files) == 4
    samples = list(webdataset.WebDataset(files, shardshuffle=False).decode("pil"))
    for sample, pair in zip(samples, run.pairs, strict=True):
        assert sample["__key__"] == pair.id
        assert (sample["reference.png"].tobytes(), sample["target.png"].tobytes()) == pixels(pair)
        assert sample["txt"] == pair.caption
        assert sample["json"]["grid_id"] == pair.grid_id


def test_a_webdataset_that_others_wrote(tmp_path):
    with webdataset.TarWriter(str(tmp_path / "x.tar")) as writer:
        for i in range(3):
            writer.write(
                {
                    "__key__": f"some/folder/{i:03d}",
                    "jpg": picture(f"t{i}"),
                    "ref.png": picture(f"r{i}"),
                    "caption": f"caption {i}".encode(),
                    "other": b"of no use",
                }
            )
    run = dsd.Run(tmp_path / "run")
    columns = {"reference": "ref.png", "target": "jpg", "caption": "caption"}
    assert import_pairs(tmp_path, run, "webdataset", columns, progress=False).added == 3
    assert [pair.caption for pair in run.pairs] == [f"caption {i}" for i in range(3)]
    assert [pair.reference.tobytes() for pair in run.pairs] == [picture(f"r{i}").tobytes() for i in range(3)]
    assert {pair.source for pair in run.pairs} == {tmp_path.name}


def test_an_image_folder_that_others_wrote(tmp_path):
    for i in range(3):
        picture(f"a{i}").save(tmp_path / f"a{i}.png")
    (tmp_path / "metadata.csv").write_text(
        'file_name,ref,text\na0.png,a1.png,"one, two"\na1.png,a2.png,é\n', encoding="utf-8"
    )
    columns = {"reference": "ref", "target": "file_name", "caption": "text"}
    run = dsd.Run(tmp_path / "run")
    assert import_pairs(tmp_path, run, "imagefolder", columns, progress=False).added == 2
    assert [pair.caption for pair in run.pairs] == ["one, two", "é"]
    assert next(iter(run.pairs)).reference.tobytes() == picture("a1").tobytes()


def test_a_released_file_trains_and_imports_alike(run, tmp_path):
    """Columns under other names, either way round."""
    rows = [
        {"src": cell(p.reference), "dst": png(p.target), "words": p.caption}
        for p in run.accepted_pairs("every")
    ]
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    schema = pa.schema({"src": kind, "dst": pa.binary(), "words": pa.string()})
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), tmp_path / "x.parquet")
    back = dsd.Run(tmp_path / "back")
    with pytest.raises(ValueError, match=r"has no column 'conditioning'; it has 'src', 'dst', 'words'"):
        import_pairs(tmp_path / "x.parquet", back, progress=False)
    assert not back.path.exists()
    columns = {"reference": "src", "target": "dst", "caption": "words"}
    assert import_pairs(tmp_path / "x.parquet", back, columns=columns, progress=False).added == 36
    assert [pixels(pair) for pair in back.pairs] == [pixels(pair) for pair in run.pairs]


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


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_export_that_fails_leaves_nothing(run, tmp_path, layout, monkeypatch):
    real, calls = layout_writers.WRITERS[layout].add, []

    def add(self, pair):
        calls.append(pair)
        if len(calls) > 5:
            raise OSError(28, "No space left on device")
        return real(self, pair)

    monkeypatch.setattr(layout_writers.WRITERS[layout], "add", add)
    with pytest.raises(OSError, match="No space left"):
        export_pairs(run, tmp_path / "out", layout, "every", shard_pairs=2, progress=False)
    assert not list(tmp_path.iterdir())
    monkeypatch.undo()
    (tmp_path / ".out.exporting" / "new").mkdir(parents=True)  # of a killed process
    (tmp_path / ".out.exporting" / "new" / "half").write_text("x")
    export_pairs(run, tmp_path / "out", layout, "every", progress=False)
    assert not (tmp_path / "out" / "half").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    with pytest.raises(FileExistsError, match="out exists"):
        export_pairs(run, tmp_path / "out", layout, "every", progress=False)


def test_what_cannot_be_is_refused_before_anything_is_written(run, tmp_path):
    for options, words in (
        ({"quality": 0}, "`quality` 1 to 100"),
        ({"shard_pairs": 0}, "`shard_pairs` must be at least 1"),
        ({"policy": {"curators": "second"}}, "No pair of .* is accepted"),
        ({}, "verdicts of 2 curators"),
    ):
        with pytest.raises(ValueError, match=words):
            export_pairs(run, tmp_path / "out", progress=False, **options)
    with pytest.raises(FileNotFoundError):
        export_pairs(tmp_path / "nowhere", tmp_path / "out", progress=False)
    for options, error, words in (
        ({"limit": 0}, ValueError, "`limit` must be at least 1"),
        ({"columns": {"picture": "x"}}, ValueError, "Unknown column 'picture'"),
        ({}, FileNotFoundError, r"has no \.parquet files"),
        ({"layout": "webdataset"}, FileNotFoundError, r"has no \.tar files"),
        ({"layout": "imagefolder"}, FileNotFoundError, r"has no metadata\.jsonl"),
    ):
        with pytest.raises(error, match=words):
            import_pairs(tmp_path, tmp_path / "run", progress=False, **options)
    with pytest.raises(FileNotFoundError, match="There is no folder or file"):
        import_pairs(tmp_path / "nowhere", tmp_path / "run", progress=False)
    assert not list(tmp_path.iterdir())


def test_an_import_goes_on_where_it_was_stopped(run, tmp_path):
    export_pairs(run, tmp_path / "out", "webdataset", "every", progress=False)
    back = dsd.Run(tmp_path / "back")
    assert import_pairs(tmp_path / "out", back, "webdataset", limit=10, progress=False).added == 10
    found = import_pairs(tmp_path / "out", back, "webdataset", progress=False)
    assert (found.added, found.twice, found.pairs) == (26, 10, 36)
    assert back.pairs.ids() == run.pairs.ids()
    assert verdicts_of(back, "second") == verdicts_of(run, "second")
    assert back.examine().whole
    export_pairs(run, tmp_path / "other", policy="every", progress=False)
    with pytest.raises(SpecError, match="layout was 'webdataset', now 'release'"):
        import_pairs(tmp_path / "other", back, progress=False)
    with pytest.raises(SpecError, match="name was 'out', now 'another'"):
        import_pairs(tmp_path / "out", back, "webdataset", name="another", progress=False)
    with back.lock("test"), pytest.raises(LockedError):
        import_pairs(tmp_path / "out", dsd.Run(back.path), "webdataset", progress=False)


def test_an_interrupted_import_keeps_what_came(run, tmp_path, monkeypatch):
    export_pairs(run, tmp_path / "out", "webdataset", "every", progress=False)
    back = dsd.Run(tmp_path / "back")
    real, seen = Pair.__init__, []

    def stop(self, **fields):
        seen.append(1)
        if len(seen) == 15:
            raise KeyboardInterrupt
        real(self, **fields)

    monkeypatch.setattr(Pair, "__init__", stop)
    with pytest.raises(KeyboardInterrupt):
        import_pairs(tmp_path / "out", back, "webdataset", progress=False)
    monkeypatch.undo()
    assert back.pairs.ids() == run.pairs.ids()[:14]
    assert set(back.verdicts("first").ids()) == set(run.pairs.ids()[:14])
    assert import_pairs(tmp_path / "out", back, "webdataset", progress=False).added == 22
    assert back.examine().whole


def test_no_verdict_comes_to_the_disk_before_its_pair(run, tmp_path, monkeypatch):
    """Verdicts fill their shards sooner here; a kill after any of them must not leave them without pairs."""
    from dsd.data import writer as writing
    from dsd.data.shards import open_shard

    export_pairs(run, tmp_path / "out", "webdataset", "every", progress=False)
    back, real, checked = dsd.Run(tmp_path / "back"), writing.put, []

    def put(folder, number, data):
        if folder.parent.name == "verdicts":
            judged = open_shard(data).read(columns=["pair_id"])["pair_id"].to_pylist()
            assert set(judged) <= set(back.pairs.ids())
            checked.append(len(judged))
        return real(folder, number, data)

    monkeypatch.setattr(writing, "put", put)
    few = property(lambda self: 3 if self.table.kind.stage.startswith("verdicts") else 1000)
    monkeypatch.setattr(TableWriter, "shard_rows", few)
    import_pairs(tmp_path / "out", back, "webdataset", progress=False)
    assert sum(checked) == 46
    assert len(checked) > 10


def test_a_run_that_was_imported_goes_through_the_other_stages(run, tmp_path):
    export_pairs(run, tmp_path / "out", policy="every", progress=False)
    back = dsd.Run(tmp_path / "back")
    import_pairs(tmp_path / "out", back, progress=False)
    assert dsd.curate(back, "parity", progress=False).added == 36
    back.compact()
    assert back.examine().whole
    other = replace(next(iter(back.pairs)), caption="changed")
    assert other.id not in back.pairs
