"""Readers and parsers of what comes from outside give a valid value or the error they document, whatever they
are given, and never hang.

DSD_FUZZ_EXAMPLES=5000 pytest tests/test_fuzz.py looks longer.
"""

import io
import json
import os
import re
import shutil
import struct
import tempfile
import time
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import BaseModel, Field
from safetensors.torch import save, save_file

import dsd
from dsd import curators, grids, teachers
from dsd.convert.checkpoint import Stored, read_folder, read_header, read_json
from dsd.data import atomic
from dsd.data.encodings import encodings
from dsd.data.manifest import ManifestError, StageManifest
from dsd.data.policy import Policy
from dsd.data.rows import decode_image
from dsd.data.shard_files import footer_digest
from dsd.evaluation.benchmarks.own_folder import OwnFolder
from dsd.judges.recorded import RecordedJudge
from dsd.labels import LabelFile
from dsd.llm import parsing
from dsd.llm.cache import RequestCache
from dsd.llm.messages import Message
from dsd.llm.provider import MAX_ANSWER_BYTES
from dsd.llm.rating import MODES, parse_rating
from dsd.llm.records import Request
from dsd.prompts.captions import read_captions
from dsd.prompts.file import FileWriter
from dsd.studies.reading import table_rows
from tests.cheap_world import make_run
from tests.hostile import encoded

FUZZ = settings(
    max_examples=int(os.environ.get("DSD_FUZZ_EXAMPLES", "60")),
    deadline=10_000,  # ms of one example: far more than any takes, far less than a hang
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
NUMBERS = st.one_of(
    st.integers(-(2**70), 2**70), st.floats(), st.just(10**400), st.sampled_from([0, -1, 1.5, True, None])
)
TEXTS = st.one_of(
    st.text(max_size=40),
    st.sampled_from(
        ["", "../../x", "/etc/passwd", "a\x00b", "\ud800", "\u2028", "=1+1", "x" * 300, "{}", "NaN"]
    ),
)
VALUES = st.recursive(
    st.one_of(NUMBERS, TEXTS),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXTS, inner, max_size=4)),
    max_leaves=8,
)
DEEP = b'{"a":' * 3000, b"[" * 100_000, b'{"a": ' + b"9" * 5000 + b"}"


@st.composite
def damaged(draw, whole):
    """A file with bits flipped, bytes replaced, cut, doubled or added, anywhere."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        kind = draw(st.sampled_from(["flip", "set", "cut", "drop", "repeat", "add", "number"]))
        if kind == "flip" and data:
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "set" and data:
            data[at] = draw(st.sampled_from([0, 1, 0x7F, 0x80, 0xFF]))
        elif kind == "cut":
            del data[at:]
        elif kind == "drop":
            del data[at : at + draw(st.integers(1, 64))]
        elif kind == "repeat":
            data[at:at] = data[at : at + draw(st.integers(1, 64))]
        elif kind == "add":
            data[at:at] = draw(st.binary(max_size=16))
        else:
            data[at : at + 4] = struct.pack("<I", draw(st.sampled_from([0, 1, 2**16, 2**31 - 1, 2**32 - 1])))
    return bytes(data)


@contextmanager
def folder():
    """A new folder for one example."""
    path = Path(tempfile.mkdtemp(prefix="dsd-fuzz-"))
    try:
        yield path
    finally:
        shutil.rmtree(path)


def outcome(call, *documented):
    """What a call returns; None if it raises what it documents, and none of the kinds that are faults."""
    try:
        return call()
    except documented as error:
        if isinstance(error, KeyError | IndexError):
            raise
        return None


def lines_of(rows):
    """JSON lines, some of which are none."""
    return st.lists(
        st.one_of(rows.map(lambda x: json.dumps(x).encode()), st.sampled_from(DEEP), st.binary(max_size=30)),
        max_size=5,
    ).map(b"\n".join)


# What models say.


RATING_WORDS = st.sampled_from(
    [
        "Score",
        "rating",
        ":",
        "is",
        "3",
        "4",
        "/",
        "-",
        "**",
        "<score>",
        "</score>",
        "{",
        '"',
        "\n",
        " ",
        "3.5",
        "of",
        "1.",
        "|",
        "\u2212",
        "9" * 40,
    ]
)


@FUZZ
@given(
    st.one_of(st.text(max_size=200), st.lists(RATING_WORDS, max_size=40).map("".join)), st.sampled_from(MODES)
)
def test_ratings(text, mode):
    found = parse_rating(text, 0, 4, mode)
    assert found is None or (type(found) is int and (mode != "strict" or 0 <= found <= 4))


@pytest.mark.parametrize(
    "piece",
    [
        "{",
        '{"a":',
        "[",
        "score: ",
        "<score",
        "3 ",
        "\\[",
        "**",
        '"',
        "{}",
        '{"score": 1}',
        " \n",
        "1,",
        "rating is not ",
    ],
)
@pytest.mark.parametrize("read", ["rating", "object"])
def test_long_answers_are_read_in_time_that_grows_as_they_do(piece, read):
    text = (piece * 100_000)[:100_000]
    if read == "rating":
        found = parse_rating(text)
        assert found is None or 0 <= found <= 4
        return
    with pytest.raises(ValueError, match=r"."):
        parsing.parse(text, Judgement)


@pytest.mark.parametrize("piece", ["{", '{"a":', "{ x }", '{"a":[1,1,1,1,'])
def test_an_answer_as_long_as_may_be_takes_seconds_at_most(piece):
    text = (piece * (MAX_ANSWER_BYTES // len(piece) + 1))[:MAX_ANSWER_BYTES]
    for long in (text, text[:399_000], '{"a":' * 190 + "[" + "1," * 190_000):
        begun = time.process_time()
        with pytest.raises(ValueError, match=r"are read|too many braces|no JSON object"):
            parsing.parse(long, Judgement)
        assert time.process_time() - begun < 10


def test_an_object_is_found_behind_a_number_that_cannot_be_read():
    text = '{"words": ' + "9" * 5000 + '} and {"words": "a", "same": true, "score": 1}'
    assert parsing.parse(text, Judgement).words == "a"


class Judgement(BaseModel):
    words: str
    same: bool
    score: float = Field(ge=0, le=1)


JUDGEMENT = json.dumps({"words": "ears {differ}", "same": False, "score": 0.25}).encode()


@FUZZ
@given(
    st.one_of(
        damaged(JUDGEMENT).map(lambda data: data.decode("utf-8", "replace")),
        st.dictionaries(st.sampled_from(["words", "same", "score", "x"]), VALUES).map(
            lambda x: f"Well: {json.dumps(x)}."
        ),
        st.text(max_size=100),
    )
)
@example('{"words": ' + "9" * 5000 + ', "same": true, "score": 1}')
def test_answers_in_fields(text):
    try:
        found = parsing.parse(text, Judgement)
    except ValueError:
        return
    assert isinstance(found, Judgement)
    assert 0 <= found.score <= 1


# Specs, policies, layouts.

NAMES = st.sampled_from(
    [
        "heuristic",
        "folder",
        "file",
        "os:system",
        "json:JSONDecoder",
        "a:b",
        ":",
        "x:",
        ":y",
        ".:.",
        "..a:b",
        "json:nothing",
        "a b",
        "sys:path.x",
    ]
)


@FUZZ
@given(
    st.one_of(
        VALUES,
        NAMES,
        st.dictionaries(st.one_of(st.just("name"), TEXTS), st.one_of(NAMES, VALUES), max_size=3),
    )
)
@example("json:nothing")
@example(".:.")
@example(":y")
def test_specs(spec):
    made = outcome(lambda: curators.create(spec), TypeError, LookupError, ValueError, ImportError)
    assert made is None or isinstance(made, curators.Curator)


FIELDS = st.sampled_from([*Policy.__dataclass_fields__, "name"])
RULES = st.sampled_from(["every", "all", "any", "vote", "weights", "cascade"])


@FUZZ
@given(
    st.one_of(
        VALUES, st.dictionaries(FIELDS, st.one_of(RULES, VALUES, st.lists(TEXTS, max_size=3)), max_size=4)
    )
)
@example({"rule": ["all"]})
@example({"curators": 3})
@example({"rule": "vote", "votes": "two"})
@example({"rule": "weights", "curators": ["a"], "weights": ["x"]})
@example({"min_score": "low"})
@example({"rule": "cascade", "curators": ["a", "b"], "unsure": [3]})
def test_policies(given_):
    try:
        policy = Policy.parse(given_)
    except (TypeError, ValueError):
        return
    count = len(policy.curators) or 2
    table = pa.table(
        {
            "pair_id": ["a", "b"],
            "status": ["accepted", "failed"],
            "score": pa.array([0.5, None], pa.float64()),
        }
    )
    try:
        kept = policy.accepts(["a", "b", "c"], [table] * count)
    except ValueError:  # more votes than curators
        assert policy.rule == "vote"
        return
    assert set(kept) <= {"a", "b", "c"}


@FUZZ
@given(st.text(max_size=12))
def test_layouts(text):
    try:
        layout = grids.Layout.parse(text)
    except ValueError:
        return
    assert str(layout) == text
    assert 1 <= layout.num_panels <= 99 * 99


# Pictures and tensors.


@FUZZ
@given(st.sampled_from(["PNG", "JPEG", "WEBP", "TIFF", "BMP"]).flatmap(lambda kind: damaged(encoded(kind))))
def test_pictures(data):
    try:
        found = decode_image({"bytes": data, "path": None})
    except ValueError:
        return
    assert isinstance(found, Image.Image)
    assert found.width * found.height <= 50_000_000
    found.tobytes()


@FUZZ
@given(st.one_of(VALUES, st.binary(max_size=20)))
def test_cells(cell):
    with pytest.raises(ValueError, match=r"missing|cannot be used"):
        decode_image({"path": "", "bytes": cell})


TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2, dtype=torch.bfloat16)}


@FUZZ
@given(damaged(save(TENSORS)))
def test_cached_tensors(data):
    row = {"id": "x", "reference_id": "", "text_id": "", "tensors": data}
    try:
        found = encodings("x").from_row(row)
    except ValueError:
        return
    assert all(isinstance(x, torch.Tensor) for x in found.tensors.values())


@FUZZ
@given(damaged(save(TENSORS)))
@example(struct.pack("<Q", 2**63) + b"{}")
@example(struct.pack("<Q", 10) + b'{"a":1}   ')
@example(struct.pack("<Q", 99_999_999) + b"{}")
def test_checkpoints(data):
    with folder() as path:
        file = path / "x.safetensors"
        file.write_bytes(data)
        try:
            stored, _ = read_header(file)
            for tensor in stored.values():
                tensor.load()
        except ValueError:
            return
        assert all(isinstance(x, Stored) for x in stored.values())


@FUZZ
@given(
    st.one_of(
        VALUES.map(lambda x: json.dumps(x).encode()),
        st.sampled_from(DEEP),
        st.dictionaries(TEXTS, TEXTS).map(lambda x: json.dumps({"weight_map": x}).encode()),
    )
)
def test_the_index_of_a_checkpoint(data):
    with folder() as path:
        save_file(TENSORS, path / "diffusion_pytorch_model.safetensors")
        (path / "diffusion_pytorch_model.safetensors.index.json").write_bytes(data)
        try:
            found = read_folder(path)
        except (ValueError, FileNotFoundError):
            pass
        else:
            assert found == {}
        try:
            assert isinstance(read_json(path / "diffusion_pytorch_model.safetensors.index.json"), dict)
        except ValueError:
            return


# Runs of strangers.


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("fuzz") / "run", 3)


def mutated(content, path, value):
    """JSON with one value exchanged."""
    if not path or not isinstance(content, dict | list) or not content:
        return value
    if isinstance(content, dict):
        key = sorted(content)[path[0] % len(content)]
        return {**content, key: mutated(content[key], path[1:], value)}
    place = path[0] % len(content)
    return [*content[:place], mutated(content[place], path[1:], value), *content[place + 1 :]]


@FUZZ
@given(st.data())
def test_manifests(run, data):
    whole = (run.path / "pairs" / ".manifest.json").read_bytes()
    swapped = st.tuples(st.lists(st.integers(0, 20), min_size=1, max_size=3), VALUES)
    content = data.draw(
        st.one_of(
            damaged(whole),
            swapped.map(lambda x: json.dumps(mutated(json.loads(whole), *x)).encode()),
            st.sampled_from(DEEP),
        )
    )
    with folder() as path:
        (path / ".manifest.json").write_bytes(content)
        try:
            found = StageManifest.load(path)
        except ManifestError:
            return
        assert found.rows >= 0
        assert re.fullmatch("[0-9a-f]{64}", found.ids)
        assert json.dumps(found.summary())
        for shard in found.shards:
            assert Path(shard.file).name == shard.file
        found.save(path)
        assert StageManifest.load(path) == found


@FUZZ
@given(st.data())
def test_shards_whose_manifest_vouches_for_them(run, data):
    """What a stranger can do who writes both."""
    stage = data.draw(st.sampled_from(["prompts", "grids", "pairs", "verdicts/parity"]))
    table = run.table(stage)
    (shard,) = table.manifest.shards
    content = data.draw(damaged((table.folder / shard.file).read_bytes()))
    with folder() as path:
        theirs = dsd.Run(path / "run").table(stage)
        theirs.folder.mkdir(parents=True)
        file = theirs.folder / shard.file
        file.write_bytes(content)
        said = replace(shard, bytes=len(content), sha256=atomic.sha256_of(file), footer=footer_digest(file))
        replace(table.manifest, shards=(said,)).save(theirs.folder)
        for read in (lambda: list(theirs), theirs.ids, theirs.keys, theirs.verify, lambda: theirs["x"]):
            outcome(read, ManifestError, LookupError)


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


def answers():
    """A cache of answers as a file."""
    with folder() as path:
        cache = RequestCache(path / "a.sqlite")
        for number in range(40):
            cache.put(
                replace(REQUEST, replicate=number), "m", {"text": f"answer {number} " * 20, "model": "m"}
            )
        cache.close()
        return (path / "a.sqlite").read_bytes()


REQUEST = Request(messages=[Message(role="user", parts=("What?",))])
ANSWERS = answers()


@FUZZ
@given(damaged(ANSWERS))
@example(ANSWERS[:4096])
def test_caches_of_answers(content):
    with folder() as path:
        (path / "a.sqlite").write_bytes(content)
        cache = outcome(lambda: RequestCache(path / "a.sqlite"), ValueError)
        if cache is None:
            return
        for number in (0, 20, 39, 40):
            asked = replace(REQUEST, replicate=number)
            found = outcome(lambda asked=asked: cache.get(asked, "m"), ValueError)
            assert found is None or isinstance(found["text"], str)
        cache.close()


@pytest.mark.parametrize("text", ["", "{", "3", '{"text": 3, "model": "m"}', '{"text": "x"}', "[" * 100_000])
def test_an_answer_that_is_damaged_is_asked_for_again(tmp_path, text):
    cache = RequestCache(tmp_path / "a.sqlite")
    cache._connection.execute("INSERT INTO answers VALUES (?, ?)", (REQUEST.key("m"), text))
    assert cache.get(REQUEST, "m") is None
    cache.put(REQUEST, "m", {"text": "x", "model": "m"})
    assert cache.get(REQUEST, "m") == {"text": "x", "model": "m"}
    cache.close()


def test_the_damage_is_damage():
    """Otherwise all of the above would pass for nothing."""
    whole = encoded("PNG")
    seen = []

    @settings(max_examples=50, database=None)
    @given(damaged(whole))
    def look(data):
        seen.append(data)

    look()
    assert sum(data != whole for data in seen) > 40
    assert np.ptp([len(data) for data in seen]) > 100
