"""Captions that inspire prompts, read from files and data sets."""

import csv
import itertools
import json

import datasets
import pyarrow
import pyarrow.parquet
import pytest

from dsd.prompts.captions import read_captions

ROWS = ["a cat on a mat", "A CAT ON A MAT", "  a dog\tin \x00 fog ", "", "b" * 3000]
CLEAN = ["a cat on a mat", "a dog in fog", "b" * 1000]


def write_source(path, rows, column="caption"):
    if path.suffix == ".txt":
        path.write_text("\n".join(rows), encoding="utf-8")
    elif path.suffix == ".json":
        path.write_text(json.dumps([{column: row, "other": 1} for row in rows]), encoding="utf-8")
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps({column: row, "n": 1}) for row in rows), encoding="utf-8")
    elif path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            table.writerows([["id", column], *([i, row] for i, row in enumerate(rows))])
    else:
        table = pyarrow.table({"n": list(range(len(rows))), column: rows, "more": rows[::-1]})
        pyarrow.parquet.write_table(table, path)
    return str(path)


@pytest.mark.parametrize("suffix", [".txt", ".csv", ".json", ".jsonl", ".parquet"])
def test_captions_come_clean_from_any_file(tmp_path, suffix):
    source = write_source(tmp_path / f"c{suffix}", ROWS)
    assert read_captions(source) == CLEAN
    assert read_captions(source, limit=3) == CLEAN[:2]


@pytest.mark.parametrize("suffix", [".csv", ".json", ".jsonl", ".parquet"])
def test_the_column_of_captions(tmp_path, suffix):
    source = write_source(tmp_path / f"c{suffix}", ROWS, column="TOP")
    assert read_captions(source, column="TOP") == CLEAN
    with pytest.raises(ValueError, match=r"has no column 'nothing' of text; it has .*TOP"):
        read_captions(source, column="nothing")
    with pytest.raises(ValueError, match="Say which one holds the captions"):
        read_captions(source)


def test_captions_of_a_folder_of_parquet_files(tmp_path):
    write_source(tmp_path / "b.parquet", ["two"])
    write_source(tmp_path / "a.parquet", ["one"])
    assert read_captions(str(tmp_path)) == ["one", "two"]


def test_a_data_set_of_the_hub_is_streamed_and_bounded(monkeypatch):
    taken = []

    def endless():
        for i in itertools.count():
            taken.append(i)
            yield {"image": b"", "TEXT": f"caption {i}"}

    def load_dataset(name, *, split, streaming):
        assert (name, split, streaming) == ("someone/captions", "test", True)
        return datasets.IterableDataset.from_generator(endless)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert read_captions("someone/captions", split="test", limit=50) == [f"caption {i}" for i in range(50)]
    assert max(taken) < 60


def test_a_line_of_gigabytes_does_not_fill_the_memory(tmp_path):
    path = tmp_path / "long.txt"
    path.write_text("first\n" + "x" * 10_000_000 + "\nlast\n", encoding="utf-8")
    assert read_captions(str(path)) == ["first", "x" * 1000, "last"]


@pytest.mark.parametrize(
    ("name", "content", "error", "message"),
    [
        ("c.txt", b"\xff\xfe\xfa", ValueError, "not UTF-8"),
        ("c.txt", b" \n\n", ValueError, "holds no captions"),
        ("c.jsonl", b'{"caption": 1\n', ValueError, "row 1 is not JSON"),
        ("c.jsonl", b"[1]", ValueError, "a text or an object; got list"),
        ("c.json", b'{"caption": "x"}', ValueError, "must hold a list"),
        ("c.parquet", b"PAR1", ValueError, "no Parquet file that can be read"),
        ("c.docx", b"x", ValueError, "Captions are read from"),
        ("c.csv", b'id,caption\n1,"' + b"x" * 200_000 + b'"\n', ValueError, "is not CSV"),
    ],
)
def test_damaged_captions(tmp_path, name, content, error, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(error, match=message):
        read_captions(str(tmp_path / name))


@pytest.mark.parametrize("source", ["nowhere.txt", "./someone/captions", "a/b/c"])
def test_captions_that_are_not_there(source):
    with pytest.raises(FileNotFoundError, match="There is no file of captions"):
        read_captions(source)
