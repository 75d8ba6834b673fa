"""Prompts written by a language model, over real HTTP: what the list is, however it is stopped."""

import itertools
import json
import re
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import replace

import pytest

from dsd import llm, prompts
from dsd.prompts import LLMWriter, prompt_seed
from dsd.prompts.captions import read_captions
from tests.authors import KINDS, Author, Changed, caption_of, close_writers, draft, some_captions, writer
from tests.providers import serve
from tests.test_prompts_captions import write_source


@pytest.fixture(autouse=True)
def _close():
    yield
    close_writers()


@pytest.fixture
def captions(tmp_path):
    return some_captions(tmp_path)


def test_prompts_have_their_kinds_panels_and_origin(captions):
    with serve(Author()) as server:
        found = list(writer(server, captions=captions).write(20, seed=5))
    assert Counter(prompt.kind for prompt in found) == {"character": 10, "object": 6, "animal": 4}
    for index, prompt in enumerate(found):
        assert prompt.seed == prompt_seed(5, index)
        assert (prompt.writer, prompt.layout, len(prompt.panels)) == ("llm", "2x2", 4)
        assert prompt.text.startswith("A grid of 4 images in 2 rows and 2 columns")
        assert f"identical {prompt.kind}: {prompt.subject}." in prompt.text
        places = ["Top left", "Top right", "Bottom left", "Bottom right"]
        assert all(
            f"{place}: {panel}" in prompt.text for place, panel in zip(places, prompt.panels, strict=True)
        )
    assert len({prompt.id for prompt in found}) == 20


def test_captions_without_a_clear_subject_inspire_nothing(captions):
    with serve(author := Author()) as server:
        author_of = writer(server, captions=captions)
        list(author_of.write(20, seed=0))
    used = [caption_of(question) for question in author.written]
    assert len(author.judged) == len(set(author.judged))  # nobody is asked twice about one caption
    assert any("unclear" in caption for caption in author.judged)
    assert not any("unclear" in caption for caption in used)
    for caption, question in zip(used, author.written, strict=True):
        kind = re.search(r'category "(\w+)"', question)[1]
        assert f"kind {kind} " in caption
    assert author_of.outcomes["captions kept"] + author_of.outcomes[
        "captions without a clear subject"
    ] == len(author.judged)
    assert author_of.outcomes["prompts kept"] == 20


def test_no_more_captions_are_judged_than_are_needed(tmp_path):
    path = tmp_path / "many.txt"
    path.write_text("\n".join(f"caption {i} kind {KINDS[i % 3]}" for i in range(5000)), encoding="utf-8")
    with serve(author := Author()) as server:
        list(writer(server, captions=str(path)).write(12, seed=0))
    assert len(author.judged) <= 64


def test_a_kind_without_captions_takes_those_of_others(tmp_path):
    path = tmp_path / "objects.txt"
    path.write_text("\n".join(f"caption {i} kind object" for i in range(10)), encoding="utf-8")
    with serve(Author()) as server:
        found = list(writer(server, captions=str(path)).write(20, seed=0))
    assert Counter(prompt.kind for prompt in found) == {"character": 10, "object": 6, "animal": 4}


def test_captions_that_all_have_no_subject(tmp_path):
    path = tmp_path / "none.txt"
    path.write_text("unclear one\nunclear two", encoding="utf-8")
    with (
        serve(Author()) as server,
        pytest.raises(ValueError, match="None of the 2 captions has a clear subject"),
    ):
        list(writer(server, captions=str(path)).write(1, seed=0))


def test_panels_get_different_views_and_lights():
    with serve(author := Author()) as server:
        list(writer(server).write(30, seed=0))
    drawn = Counter()
    for question in author.written:
        lines = re.findall(r"^Panel \d+: (.+); (.+)$", question, re.MULTILINE)
        assert len(lines) == len({view for view, _ in lines}) == len({light for _, light in lines}) == 4
        drawn.update(line for pair in lines for line in pair)
    assert len(drawn) >= 28  # of 14 views and 16 lights
    assert len({re.search(r"in it: (.+)\.", question)[1] for question in author.written}) > 10


@pytest.mark.parametrize(("layout", "first"), [("1x2", "Left"), ("3x1", "Top"), ("2x5", "Row 1, column 1")])
def test_any_layout(layout, first):
    with serve(Author()) as server:
        (prompt,) = writer(server, layout=layout).write(1, seed=0)
    rows, columns = map(int, layout.split("x"))
    assert len(prompt.panels) == rows * columns
    assert prompt.layout == layout
    assert f" {first}: {prompt.panels[0]} " in prompt.text


# The law of the list, the cache, and a stop


def test_a_stopped_list_goes_on_as_if_it_had_not_been_stopped(captions, tmp_path, monkeypatch):
    """By a model that never says the same twice, but often nearly."""
    monkeypatch.setattr("dsd.prompts.llm._WINDOW", 16)
    alike = {"captions": captions, "cache": str(tmp_path / "answers.sqlite"), "similarity": 0.2}
    alike["concurrency"] = 1  # so that the model's moods come in one order
    with serve(Author(moody=True, few_words=True)) as server:
        author = writer(server, **alike)
        found = list(author.write(40, seed=1))
        assert author.outcomes["prompts near-duplicate"] > 2  # so that tries matter
        asked = len(server.asked)
        for told, start in itertools.product([False, True], [1, 15, 16, 23, 39]):
            author = writer(server, **alike)
            if told:
                author.resume(found[:start])
            assert list(author.write(40, seed=1, start=start)) == found[start:], (told, start)
        assert len(server.asked) == asked


def test_where_a_list_is_begun_again_does_not_decide_who_is_the_duplicate(tmp_path, monkeypatch):
    """The last prompt of a window and the first of the next one want the same subject; the earlier has it."""
    monkeypatch.setattr("dsd.prompts.llm._WINDOW", 4)
    taken, wanted = draft("a tall blue heron"), draft("a round red owl")
    answers = {0: taken, 3: taken, 4: wanted, 5: wanted}  # 3 is written again as 4; 5 is the next prompt
    alike = {"cache": str(tmp_path / "answers.sqlite"), "concurrency": 1}
    with serve(Changed(lambda asked, text: answers.get(asked.number, text))) as server:
        found = list(writer(server, **alike).write(5, seed=0))
        assert found[3].subject == "a round red owl"
        asked = len(server.asked)
        author = writer(server, **alike)
        author.resume(found[:1])
        assert list(author.write(5, seed=0, start=1)) == found[1:]
        assert len(server.asked) == asked


def test_the_list_does_not_depend_on_concurrency(captions, tmp_path):
    lists = []
    for concurrency in (1, 8):
        with serve(Author()) as server:
            author = writer(server, captions=captions, similarity=0.2, concurrency=concurrency)
            lists.append(list(author.write(16, seed=0)))
    assert lists[0] == lists[1]


def test_a_longer_list_begins_with_the_shorter_one(captions):
    with serve(Author()) as server:
        short = list(writer(server, captions=captions, similarity=0.2).write(8, seed=0))
        long = list(writer(server, captions=captions, similarity=0.2).write(24, seed=0))
        assert list(writer(server, captions=captions, similarity=0.2).write(8, seed=1)) != short
    assert long[:8] == short


def test_nothing_is_paid_twice_after_a_stop(captions, tmp_path):
    """Money runs out in the middle; the next call pays for the rest alone."""
    price = {"prompt": 1000.0, "completion": 0.0}  # a dollar a call of 1,000 tokens
    cache = str(tmp_path / "answers.sqlite")
    with serve(Author()) as server:
        first = writer(server, captions=captions, cache=cache, price=price, max_cost_usd=45.0)
        with pytest.raises(llm.BudgetSpent):
            list(first.write(24, seed=0))
        paid = len(server.asked)
        assert 0 < paid <= 45
        second = writer(server, captions=captions, cache=cache)
        found = list(second.write(24, seed=0))
        questions = [json.dumps(asked.body["messages"]) for asked in server.asked]
        assert len(questions) == len(set(questions))
        assert second.llm.ledger.usage.calls == len(server.asked) - paid
    with serve(Author()) as server:
        assert list(writer(server, captions=captions).write(24, seed=0)) == found


KILLED = """
import sys
from dsd.prompts import LLMWriter
base, cache, captions = sys.argv[1:]
author = LLMWriter(
    "openai/author-1", api_base=base, api_key="test", structured="schema", concurrency=4, cache=cache,
    captions=captions,
)
for prompt in author.write(24, seed=0):
    print(prompt.id, flush=True)
"""


def test_a_killed_process_pays_again_only_for_what_was_under_way(captions, tmp_path):
    children = []

    class Killer(Author):
        def __call__(self, asked):
            if asked.number == 50:
                children[0].kill()
            return super().__call__(asked)

    with serve(Killer()) as server:
        command = [sys.executable, "-c", KILLED, server.openai, str(tmp_path / "answers.sqlite"), captions]
        for _ in range(2):
            children.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
            written = children[-1].communicate(timeout=300)[0].split()
        assert [child.returncode for child in children] == [-signal.SIGKILL, 0]
        questions = Counter(json.dumps(asked.body["messages"]) for asked in server.asked)
    assert len(written) == 24
    assert sum(questions.values()) - len(questions) <= 4  # as many as were asked for at once
    with serve(Author()) as server:
        assert [prompt.id for prompt in writer(server, captions=captions).write(24, seed=0)] == written


def test_arguments_out_of_range(tmp_path):
    with pytest.raises(ValueError, match="`tries` must be at least 1"):
        LLMWriter("openai/a", tries=0)
    with pytest.raises(ValueError, match=r"must be in \(0, 1\]; got 1.5"):
        LLMWriter("openai/a", similarity=1.5)
    with pytest.raises(ValueError, match="is a text file without columns"):
        read_captions(write_source(tmp_path / "c.txt", ["x"]), column="caption")


def test_the_spec_holds_no_key():
    author = prompts.create({"name": "llm", "model": "openai/a", "api_key": "sk-secret", "tries": 3})
    assert prompts.spec(author) == {"name": "llm", "model": "openai/a", "tries": 3}
    assert prompts.create(prompts.spec(author)).outcomes == {}


def test_prompts_differ_by_seed_field():
    with serve(Author()) as server:
        first, second = writer(server).write(2, seed=0)
    assert replace(first, seed=second.seed) != first
