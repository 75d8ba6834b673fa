"""Texts of one's own in the place of those that a language model is asked with."""

import re

import pytest

from dsd import llm
from dsd.prompts import LLMWriter
from dsd.prompts.llm import TEXTS
from dsd.texts import read_texts
from tests.authors import Author, close_writers, writer
from tests.providers import serve


@pytest.fixture(autouse=True)
def _close():
    yield
    close_writers()


def test_texts_of_ones_own(tmp_path):
    (tmp_path / "grid.txt").write_text(
        "{rows}x{columns} ({count}) {kind} <{subject}> {{braces}} {panels}", encoding="utf-8"
    )
    (tmp_path / "lights.txt").write_text("# a remark\n\nlight of day\n", encoding="utf-8")
    (tmp_path / "write_system.txt").write_text("You write haiku.", encoding="utf-8")
    (tmp_path / "notes.md").write_text("not a text", encoding="utf-8")
    with serve(Author()) as server:
        (prompt,) = writer(server, texts=str(tmp_path)).write(1, seed=0)
        system, question = server.asked[0].texts
    assert prompt.text.startswith(f"2x2 (4) character <{prompt.subject}> {{braces}} Top left: ")
    assert system.startswith("You write haiku.")
    assert llm.DATA_RULE in system  # a text of one's own cannot leave it out
    assert re.findall(r"Panel \d: .*; (.*)", question) == ["light of day"] * 4


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("grid.txt", "{rows} {columns} {count} {kind} {subject}", r"lacks the place \{panels\}"),
        ("caption.txt", "{caption} {kind}", r"unknown place \{kind\}. Allowed: \{caption\}"),
        ("caption.txt", "{caption.__class__}", "unknown place"),
        ("caption.txt", "{caption!r}", "formats the place"),
        ("caption.txt", "{caption:>900000000}", "formats the place"),
        ("caption.txt", "{caption} {", "stray brace"),
        ("captoin.txt", "{caption}", "captoin.txt is no text that is used. Known: filter_system.txt"),
        ("write_system.txt", " \n", "is empty"),
        ("views.txt", "# nothing\n", "has no lines to choose from"),
        ("filter.txt", b"\xff\xfe", "not UTF-8"),
        ("filter.txt", "x" * 300_000, "at most 262144"),
    ],
)
def test_damaged_texts(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with serve(Author()) as server, pytest.raises(ValueError, match=message):
        writer(server, texts=str(tmp_path))


def test_texts_that_are_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder of texts"):
        LLMWriter("openai/a", texts=str(tmp_path / "no"))


def test_every_built_in_text_is_listed():
    from pathlib import Path

    import dsd.prompts.llm as module

    folder = Path(module.__file__).parent / "texts"
    assert {path.stem for path in folder.iterdir()} == set(TEXTS)
    assert set(read_texts(folder, TEXTS)) == set(TEXTS)
