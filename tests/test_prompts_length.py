"""Prompts fit into the text encoder: how they are counted, and what becomes of those that are too long."""

import json
import random
import re

import pytest

from dsd import prompts
from dsd.prompts.length import T5_TOKENS, TokenCount
from tests.authors import Author, Changed, close_writers, draft, word, writer
from tests.providers import serve


@pytest.fixture(autouse=True)
def _close():
    yield
    close_writers()


def test_a_long_prompt_is_shortened_in_one_turn():
    turns = []

    def write(asked, text):
        if len(asked.texts) == 2:
            return draft(f"a wide {word(random.Random(asked.number))}", of="{subject} {i} " + "very " * 200)
        turns.append(asked)
        return text

    with serve(Changed(write)) as server:
        author = writer(server)
        found = list(author.write(3, seed=0))
    assert author.outcomes == {"prompts kept": 3}
    assert all(TokenCount()(prompt.text) <= T5_TOKENS for prompt in found)
    assert len(turns) == 3
    for asked in turns:
        assert asked.roles == ["system", "user", "assistant", "user"]
        assert json.loads(asked.texts[2])["panels"][0].count("very") == 200
        tokens, limit = map(int, re.search(r"has (\d+) tokens, .* only (\d+)", asked.texts[3]).groups())
        assert tokens > limit == 512


def test_a_prompt_that_stays_too_long_is_dropped_and_written_again():
    def write(asked, text):
        long = draft(f"a wide {word(random.Random(asked.number))}", of="{subject} {i} " + "very " * 200)
        first = asked.texts[1] == next(a for a in server.asked if "Write a prompt" in a.texts[1]).texts[1]
        return long if first else text

    with serve(Changed(write)) as server:
        author = writer(server, concurrency=1)
        (prompt,) = author.write(1, seed=0)
    assert author.outcomes == {"prompts too long": 1, "prompts kept": 1}
    assert len(server.asked) == 3  # too long, still too long, another one
    assert server.asked[2].texts[1] != server.asked[0].texts[1]
    assert "very" not in prompt.text


@pytest.mark.parametrize("nested", [True, False])
def test_lengths_are_counted_by_the_tokenizer(tiny_flux, nested):
    """In words, as the fixture's tokenizer counts them, plus the end mark."""
    folder = tiny_flux if nested else tiny_flux / "tokenizer_2"
    count = TokenCount(str(folder))
    assert count.limit == 24  # as the tokenizer says
    assert TokenCount(str(folder), 99).limit == 99
    assert count("the red creature sits in snow") == 7
    with serve(Author()) as server, pytest.raises(ValueError, match="2x2 prompt does not fit into 24 tokens"):
        writer(server, tokenizer=str(folder))
    with serve(Author()) as server:
        author = writer(server, tokenizer=str(folder), max_text_tokens=111)
        found = list(author.write(3, seed=0))
    assert all(len(re.findall(r"\w+|[^\w\s]+", prompt.text)) < 111 for prompt in found)


def test_the_embedded_tokenizer():
    count = TokenCount("mini")
    assert count.limit == 64
    (prompt,) = prompts.create("template").write(1, seed=0)
    assert 10 < count(prompt.text) <= 64


@pytest.mark.parametrize(
    "text",
    [
        "a red fox",
        "He said: \u201cno!\u201d 1234567",
        "\u4e00\u53ea\u72d0\u72f8",
        "x" * 50,
        "extraordinarily",
    ],
)
def test_the_estimate_is_on_the_safe_side_of_a_real_tokenizer(text):
    import litellm

    assert TokenCount()(text) >= litellm.token_counter(model="gpt-4o", text=text)


def test_a_tokenizer_that_is_none(tmp_path):
    with pytest.raises(ValueError, match="No tokenizer can be read from"):
        TokenCount(str(tmp_path))
    with pytest.raises(ValueError, match="at least 1; got 0"):
        TokenCount(None, 0)
