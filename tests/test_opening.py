"""Pictures from outside are bounded before they are decoded, wherever one is opened."""

import io
import json
import re
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import dsd
from dsd import opening, pixels, teachers
from dsd.data.cells import picture_of
from dsd.data.rows import Failure, decode_image, encode_image
from dsd.data.sources import open_source
from dsd.enhance import _opened as opened_to_enhance
from dsd.engines.checks import checked_grid
from dsd.evaluation.benchmarks.pictures import open_picture as of_a_benchmark
from dsd.evaluation.rows import load_rows
from dsd.studies.reading import open_picture as of_a_table
from tests.hostile import BOMBS, EPS, encoded

ROOT = Path(dsd.__file__).parent


def from_folder(path):
    (path.parent / "metadata.jsonl").write_text(json.dumps({"image": path.name, "text": "a"}))
    prompt = dsd.GridPrompt(text="a", subject="a", panels=("a",) * 4)
    return teachers.create({"name": "folder", "path": str(path.parent)}).draw([prompt], [0])


def from_cell(path):
    return picture_of({"bytes": path.read_bytes(), "path": None})


def from_pixels(path):
    with Image.open(path) as image:
        return pixels.read(image)


DOORS = {
    "a row": lambda path: decode_image({"bytes": path.read_bytes()}),
    "a cell of a data set": from_cell,
    "a folder of grids": from_folder,
    "a benchmark": of_a_benchmark,
    "a table of pictures": of_a_table,
    "a reference to enhance": opened_to_enhance,
    "a sheet of drawn pictures": lambda path: load_rows(path, 2, 2),
    "a file": opening.open_image,
}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("kind", BOMBS)
def test_bombs_are_refused_before_they_are_decoded(tmp_path, monkeypatch, door, kind):
    path = tmp_path / f"bomb.{kind}"
    path.write_bytes(BOMBS[kind]())
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: pytest.fail(f"decoded {self.size}"))
    with pytest.raises(ValueError, match=r"at most 50,000,000 pixels|exceeds limit|none of PNG"):
        DOORS[door](path)


@pytest.mark.parametrize("door", DOORS)
def test_no_other_program_is_run_for_a_picture(tmp_path, monkeypatch, door):
    path = tmp_path / "picture.png"
    path.write_bytes(EPS)
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **k: pytest.fail("a program was run"))
    with pytest.raises(ValueError, match="none of PNG, JPEG, WEBP, BMP, TIFF"):
        DOORS[door](path)


def test_a_picture_that_was_opened_elsewhere_is_bounded_too(tmp_path, monkeypatch):
    path = tmp_path / "bomb.png"
    path.write_bytes(BOMBS["png"](8_000))
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: pytest.fail(f"decoded {self.size}"))
    with pytest.raises(ValueError, match="8000 x 8000 px"):
        from_pixels(path)


MEASURE = """
import resource, sys
from dsd import opening
try:
    opening.open_image(sys.argv[1])
except ValueError as error:
    print(error)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.parametrize("kind", BOMBS)
def test_a_refused_bomb_takes_no_memory(tmp_path, kind):
    """Some formats set their canvas up as soon as they are opened."""
    small, large = tmp_path / f"small.{kind}", tmp_path / f"large.{kind}"
    small.write_bytes(b"nothing")
    large.write_bytes(BOMBS[kind]())
    peaks = []
    for path in (small, large):
        command = [sys.executable, "-c", MEASURE, path]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT.parent)
        peaks.append(int(done.stdout.splitlines()[-1]) / 1024)
    assert peaks[1] - peaks[0] < 30, peaks


def test_pictures_are_opened_at_one_door():
    """Another `Image.open` would have no bounds; the scripts that train the small world read their own files."""
    files = [path for path in ROOT.rglob("*.py") if "train" not in path.parts]
    calls = re.compile(r"(?<!PIL\.)\bImage\.open\(|\bcv2\.|\bimageio\b|\bdecode_(jpeg|png|image)\(b")
    assert {path.name for path in files if calls.search(path.read_text())} == {"opening.py"}


def test_what_cannot_be_read_back_is_not_stored():
    large = Image.open(io.BytesIO(BOMBS["png"](8_000)))  # not decoded yet
    with pytest.raises(ValueError, match="Cannot store a picture: it is 8000 x 8000 px"):
        encode_image(large)
    prompt = dsd.GridPrompt(text="a", subject="a", panels=("a",) * 4)
    found = checked_grid(dsd.Grid(image=large, prompt=prompt, seed=0, teacher=""), prompt.id)
    assert isinstance(found, Failure)
    assert found.reason.startswith("ValueError: it is 8000 x 8000 px")


@pytest.mark.parametrize("name", ["../secret.png", "/etc/hostname", "a/../../secret.png", "~/../secret.png/.."])
def test_an_index_names_no_picture_outside_its_folder(tmp_path, name):
    (tmp_path / "grids").mkdir()
    (tmp_path / "secret.png").write_bytes(encoded("PNG"))
    (tmp_path / "grids" / "metadata.jsonl").write_text(json.dumps({"image": name, "text": "a"}))
    with pytest.raises((ValueError, FileNotFoundError), match="leads out of|does not exist"):
        teachers.create({"name": "folder", "path": str(tmp_path / "grids")})


def data_set(path, cells):
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    good = {"bytes": encoded("PNG"), "path": None}
    columns = {"reference": pa.array(cells, kind), "target": pa.array([good] * len(cells), kind)}
    pq.write_table(pa.table(columns), path)
    return path


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def test_a_data_set_chooses_no_file_and_no_address(tmp_path, monkeypatch):
    (tmp_path / "secret.png").write_bytes(encoded("PNG"))
    monkeypatch.setattr("socket.socket.connect", lambda *a: pytest.fail("it was connected to"))
    cells = [
        {"bytes": encoded("PNG"), "path": str(tmp_path / "secret.png")},  # the content is there
        {"bytes": None, "path": str(tmp_path / "secret.png")},
        {"bytes": None, "path": "http://127.0.0.1:9/secret.png"},
        {"bytes": None, "path": "zip://a.png::http://127.0.0.1:9/b.zip"},
        {"bytes": BOMBS["png"](), "path": None},
        {"bytes": b"", "path": None},
    ]
    source = open_source(str(data_set(tmp_path / "theirs.parquet", cells)))
    assert source.load([0]).reference.shape == (1, 3, 16, 16)
    for row, said in enumerate(["names the file", "names the file", "names the file", "pixels", "none of"], 1):
        with pytest.raises(ValueError, match=f"Row {row} of .*cannot be decoded: .*{said}"):
            source.load([row])


def test_files_of_a_data_set_that_the_user_opened_are_read(tmp_path):
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(encoded("PNG"))
    content = {"reference": [str(tmp_path / "a.png")], "target": [str(tmp_path / "b.png")]}
    source = open_source(datasets.Dataset.from_dict(content))
    with Image.open(tmp_path / "a.png") as expected:
        assert np.array_equal(source.load([0]).reference[0].permute(1, 2, 0), np.asarray(expected))


def test_cells_of_a_download_stay_in_its_folder(tmp_path):
    inside = tmp_path / "cache" / "a.png"
    inside.parent.mkdir()
    inside.write_bytes(encoded("PNG"))
    (tmp_path / "secret.png").write_bytes(encoded("PNG"))
    assert picture_of({"bytes": None, "path": str(inside)}, [inside.parent]).size == (16, 16)
    for path in (tmp_path / "secret.png", inside.parent / ".." / "secret.png", "a.png"):
        with pytest.raises(ValueError, match="names the file"):
            picture_of({"bytes": None, "path": str(path)}, [inside.parent])


