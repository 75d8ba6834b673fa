"""Readers of tables, lists and labels give valid rows or the error they document, whatever they are given."""

import io
import json
from dataclasses import asdict

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dsd import teachers
from dsd.evaluation.benchmarks.own_folder import OwnFolder
from dsd.judges.recorded import RecordedJudge
from dsd.labels import LabelFile
from dsd.prompts.captions import read_captions
from dsd.prompts.file import FileWriter
from dsd.studies.reading import table_rows
from tests.fuzz_strategies import DEEP, FUZZ, VALUES, damaged, folder, lines_of, outcome
from tests.hostile import encoded

TABLE = pa.table(
    {"key": ["a", "b"] * 40, "value": [1.0, None] * 40, "text": ["one", "two"] * 40, "run": [*range(80)]}
)


def parquet():
    buffer = io.BytesIO()
    pq.write_table(TABLE, buffer)
    return buffer.getvalue()


READERS = {
    "ratings": lambda path: RecordedJudge(str(path)),
    "captions": lambda path: read_captions(str(path)),
    "prompts": lambda path: FileWriter(str(path)),
    "tables": lambda path: list(table_rows(path, ["key", "value"])),
}


@pytest.mark.parametrize("reader", READERS)
@FUZZ
@given(damaged(parquet()))
def test_tables_in_parquet(reader, content):
    with folder() as path:
        file = path / "x.parquet"
        file.write_bytes(content)
        outcome(lambda: READERS[reader](file), ValueError, LookupError)


CSV = b'key,value,text,run\na,1,"one, two",0\nb,,three,1\n'
ROWS = st.dictionaries(
    st.sampled_from(["key", "value", "run", "text", "caption", "panels", "layout", "status", "image"]),
    VALUES,
    max_size=5,
)


@pytest.mark.parametrize("reader", READERS)
@FUZZ
@given(content=st.one_of(damaged(CSV), st.binary(max_size=60)))
def test_tables_in_csv(reader, content):
    with folder() as path:
        file = path / "x.csv"
        file.write_bytes(content)
        outcome(lambda: READERS[reader](file), ValueError, LookupError)


@pytest.mark.parametrize("reader", [name for name in READERS if name != "tables"])
@FUZZ
@given(content=lines_of(st.one_of(ROWS, VALUES)))
@example(content=b'{"key": "a", "value": 1' + b"0" * 400 + b"}")
@example(content=DEEP[0])
@example(content=DEEP[2])
def test_json_lines(reader, content):
    with folder() as path:
        file = path / "x.jsonl"
        file.write_bytes(content)
        outcome(lambda: READERS[reader](file), ValueError, LookupError)


def test_lines_of_json_are_those_of_the_file(tmp_path):
    """A text in JSON may hold ends of lines of other kinds."""
    rows = [{"text": "one\u2028two\x85three\x0cfour"}, {"text": "five"}]
    (tmp_path / "p.jsonl").write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n")
    prompts = list(FileWriter(str(tmp_path / "p.jsonl")).write(2, 0))
    assert [prompt.text for prompt in prompts] == [row["text"] for row in rows]


@FUZZ
@given(content=lines_of(ROWS))
@example(content=DEEP[0])
def test_indices_of_grids(content):
    with folder() as path:
        (path / "metadata.jsonl").write_bytes(content)
        try:
            teachers.create({"name": "folder", "path": str(path)})
        except (ValueError, FileNotFoundError):
            return


ENTRY = st.dictionaries(
    st.sampled_from(["prompt", "reference", "subject", "key", "truth", "kind"]),
    st.one_of(st.just("a.png"), VALUES),
    max_size=5,
)


@FUZZ
@given(content=lines_of(ENTRY))
@example(content=b'{"prompt": "a", "reference": "a\\u0000.png"}')
@example(content=b'{"prompt": "a", "reference": "a.png", "subject": "\\ud800"}')
def test_benchmarks_of_ones_own(content):
    with folder() as path:
        (path / "a.png").write_bytes(encoded("PNG"))
        (path / "cases.jsonl").write_bytes(content)
        try:
            OwnFolder(str(path)).load()
        except (ValueError, FileNotFoundError):
            return


LABEL = {
    "pair_id": "p",
    "label": "same",
    "person": "ann",
    "time": "2025-03-01T12:30:00+00:00",
    "seconds": 1.5,
}


@FUZZ
@given(
    content=st.one_of(
        damaged(json.dumps(LABEL).encode()), lines_of(st.dictionaries(st.sampled_from([*LABEL]), VALUES))
    )
)
@example(content=DEEP[0][:4000])
@example(content=json.dumps({**LABEL, "seconds": 10**400}).encode())
def test_labels(content):
    with folder() as path:
        file = LabelFile(path, "ann")
        file.path.parent.mkdir()
        file.path.write_bytes(content + b"\n" + json.dumps(LABEL).encode() + b"\n")
        found = file.read()
        assert found["p"].person == "ann"
        assert all(json.dumps(asdict(label), allow_nan=False) for label in found.values())
