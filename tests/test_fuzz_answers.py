"""Parsers of what models say, and caches of it, give a valid value or the error they document, whatever they
are given, and never hang.
"""

import json
import sqlite3
import time
from contextlib import closing
from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from dsd.llm import cache as llm_cache
from dsd.llm import parsing
from dsd.llm.cache import RequestCache
from dsd.llm.messages import Message
from dsd.llm.provider import MAX_ANSWER_BYTES
from dsd.llm.rating import MODES, parse_rating
from dsd.llm.records import Request
from tests.fuzz_strategies import FUZZ, VALUES, damaged, folder, outcome

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


@pytest.mark.parametrize(("name", "columns"), [("answers", "key, anwer"), ("batches", "name")])
def test_a_file_of_other_columns_is_no_cache(tmp_path, name, columns):
    with closing(sqlite3.connect(tmp_path / "a.sqlite")) as connection:
        connection.execute(f"CREATE TABLE {name} ({columns})")
    with pytest.raises(ValueError, match=r"no cache of answers, or it is damaged \(no such column"):
        RequestCache(tmp_path / "a.sqlite")


def test_a_file_that_another_process_holds_is_not_called_damaged(tmp_path, monkeypatch):
    monkeypatch.setattr(llm_cache, "_LOCK_S", 0.1)
    with closing(sqlite3.connect(tmp_path / "a.sqlite", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(TimeoutError, match=r"held by another process for 0\.1 s\. Wait"):
            RequestCache(tmp_path / "a.sqlite")
        other.execute("COMMIT")
    RequestCache(tmp_path / "a.sqlite").close()


def test_text_that_is_not_utf8_is_damage(tmp_path):
    cache = RequestCache(tmp_path / "a.sqlite")
    cache.put(REQUEST, "m", {"text": "x", "model": "m"})
    cache.note_batch("b", "batch-1")
    assert (cache.get(REQUEST, "m"), cache.batch("b")) == ({"text": "x", "model": "m"}, "batch-1")
    cache._connection.execute("UPDATE answers SET answer = CAST(X'7B22FF22' AS TEXT)")
    cache._connection.execute("UPDATE batches SET batch_id = CAST(X'FF' AS TEXT)")
    assert cache.get(REQUEST, "m") is None
    with pytest.raises(ValueError, match="is damaged"):
        cache.batch("b")
    cache.close()


@pytest.mark.parametrize("text", ["", "{", "3", '{"text": 3, "model": "m"}', '{"text": "x"}', "[" * 100_000])
def test_an_answer_that_is_damaged_is_asked_for_again(tmp_path, text):
    cache = RequestCache(tmp_path / "a.sqlite")
    cache._connection.execute("INSERT INTO answers VALUES (?, ?)", (REQUEST.key("m"), text))
    assert cache.get(REQUEST, "m") is None
    cache.put(REQUEST, "m", {"text": "x", "model": "m"})
    assert cache.get(REQUEST, "m") == {"text": "x", "model": "m"}
    cache.close()
