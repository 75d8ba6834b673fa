"""Layouts as others read and write them: their libraries read ours, and what they wrote comes in."""

import glob

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset
from PIL import Image

import dsd
from dsd.exchange import LAYOUTS, export_pairs, import_pairs, parquet_writers
from dsd.exchange.subjects200k import joined, split
from tests.cheap_world import picture
from tests.exchange_run import cell, pixels, png, verdicts_of, write_run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("source") / "run")


SCORES = {"compositeStructure": 5, "objectConsistency": 4, "imageQuality": 5}


def subjects_file(path, rows):
    columns = {
        name: [row.get(name) for row in rows] for name in ("image", "collection", "quality_assessment")
    }
    columns["description"] = [row.get("description") for row in rows]
    pq.write_table(pa.table(columns, schema=parquet_writers._subjects_schema()), path)
    return path


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
