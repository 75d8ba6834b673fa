"""Parquet files that claim too much are refused by their footers, by whoever reads them."""

import shutil
import subprocess
import sys
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import dsd
from dsd import parquet
from dsd.data.manifest import ManifestError, StageManifest
from dsd.data.sources import open_source
from dsd.judges.recorded import RecordedJudge
from dsd.prompts.captions import read_captions
from dsd.prompts.file import FileWriter
from dsd.studies.reading import table_rows
from tests.cheap_world import make_run

ROOT = Path(dsd.__file__).parents[1]
READERS = {
    "ratings": lambda path: RecordedJudge(str(path)),
    "captions": lambda path: read_captions(str(path), "text"),
    "prompts": lambda path: FileWriter(str(path)),
    "a folder of captions": lambda path: read_captions(str(path.parent), "text"),
    "tables": lambda path: list(table_rows(path, ["key", "value"])),
    "a data set": lambda path: open_source(str(path)),
    "a folder of data sets": lambda path: open_source(str(path.parent)),
    "data sets by a pattern": lambda path: open_source(str(path.parent / "*.parquet")),
}


def table(**texts):
    return pa.table({"key": ["a", "b"], "value": [1, 2], "text": ["x", "y"]} | texts)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.mark.parametrize("reader", READERS)
def test_a_row_group_that_claims_too_much_is_not_read(tmp_path, monkeypatch, reader):
    path = tmp_path / "set" / "t.parquet"
    path.parent.mkdir()
    pq.write_table(table(), path)
    monkeypatch.setattr(parquet, "MAX_GROUP_BYTES", 100)
    monkeypatch.setattr(pq.ParquetFile, "read", lambda *a, **k: pytest.fail("it was read"))
    monkeypatch.setattr(pq.ParquetFile, "iter_batches", lambda *a, **k: pytest.fail("it was read"))
    monkeypatch.setattr(datasets, "load_dataset", lambda *a, **k: pytest.fail("it was read"))
    with pytest.raises(ValueError, match=r"row group 0 claims \d+ bytes; at most 100 are read"):
        READERS[reader](path)


def test_a_shard_that_claims_too_much_is_neither_read_nor_adopted(tmp_path, monkeypatch):
    run = make_run(tmp_path / "run", 2)
    orphan = run.path / "pairs" / "part-00001.parquet"
    shutil.copy(run.path / "pairs" / "part-00000.parquet", orphan)
    manifest = StageManifest.load(run.path / "pairs")
    monkeypatch.setattr(parquet, "MAX_GROUP_BYTES", 100)
    with pytest.raises(ManifestError, match=r"is damaged: its row group 0 claims"):
        list(dsd.Run(run.path).pairs)
    with pytest.raises(ManifestError, match="claims"):
        dsd.make_pairs(dsd.Run(run.path), progress=False)
    assert StageManifest.load(run.path / "pairs").shards == manifest.shards


@pytest.mark.parametrize("limit", ["MAX_COLUMNS", "MAX_FOOTER_BYTES"])
def test_footers_are_bounded(tmp_path, monkeypatch, limit):
    pq.write_table(table(), tmp_path / "t.parquet")
    parquet.open_parquet(tmp_path / "t.parquet").close()
    monkeypatch.setattr(parquet, limit, 2)
    with pytest.raises(ValueError, match="at most 2 are read"):
        parquet.open_parquet(tmp_path / "t.parquet")


@pytest.mark.parametrize("name", ["text", "panels"])
def test_a_long_text_is_refused(tmp_path, monkeypatch, name):
    long = "x" * 5000
    content = table(text=["x", long]) if name == "text" else table(panels=[["a"], ["b", long]])
    pq.write_table(content, tmp_path / "t.parquet")
    monkeypatch.setattr(parquet, "MAX_CELL_CHARS", 1000)
    with pytest.raises(ValueError, match=rf"cell of its column '{name}' has 5,000 bytes; at most 4,000"):
        list(parquet.read_rows(tmp_path / "t.parquet", ["key", name]))


EXPAND = r"""
import re, sys
from pathlib import Path
from dsd.parquet import read_rows
count = sum(1 for _ in read_rows(sys.argv[1], ["key", "text"]))
# Not getrusage, whose peak a process takes over from the one that began it.
print(count, int(re.search(r"VmHWM:\s*(\d+)", Path("/proc/self/status").read_text())[1]) // 1024)
"""


def test_a_text_that_many_rows_share_is_in_memory_once(tmp_path):
    """A dictionary of one text of a mebibyte, and 3,000 rows: 3 GB if it were spread out."""
    text = pa.DictionaryArray.from_arrays(pa.array([0] * 3_000, pa.int32()), ["x" * 2**20])
    pq.write_table(pa.table({"key": [""] * 3_000, "text": text}), tmp_path / "t.parquet", store_schema=False)
    assert (tmp_path / "t.parquet").stat().st_size < 2**20
    command = [sys.executable, "-c", EXPAND, tmp_path / "t.parquet"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    count, peak_mib = map(int, done.stdout.split())
    assert count == 3_000
    assert peak_mib < 1000


def test_rows_are_those_of_the_file(tmp_path):
    content = table(panels=[["a", "b"], None], number=[1.5, None])
    pq.write_table(content, tmp_path / "t.parquet", row_group_size=1)
    assert list(parquet.read_rows(tmp_path / "t.parquet", content.column_names)) == content.to_pylist()
    assert parquet.column_names(tmp_path / "t.parquet") == content.column_names
    with pytest.raises(FileNotFoundError, match="no file"):
        parquet.open_parquet(tmp_path / "none.parquet")
