"""Prompts of a language model whose subjects are nearly the same are written again."""

import itertools
import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsd.prompts.distinct import Distinct, similarity
from tests.authors import Author, Changed, close_writers, draft, some_captions, word, writer
from tests.providers import serve


@pytest.fixture(autouse=True)
def _close():
    yield
    close_writers()


@pytest.fixture
def captions(tmp_path):
    return some_captions(tmp_path)


def test_no_two_subjects_are_nearly_the_same_and_the_quotas_stay():
    """Half of all first drafts repeat one subject."""

    def write(asked, text):
        if asked.number % 2 == 0:
            return draft(f"an old fisherman with a grey beard {'and' if asked.number % 4 else 'or'} boots")
        return text

    with serve(Changed(write)) as server:
        author = writer(server, concurrency=1)
        found = list(author.write(20, seed=0))
    assert Counter(prompt.kind for prompt in found) == {"character": 10, "object": 6, "animal": 4}
    pairs = itertools.combinations([prompt.subject for prompt in found], 2)
    assert max(similarity(a, b) for a, b in pairs) < 0.7
    assert sum("fisherman" in prompt.subject for prompt in found) == 1
    assert author.outcomes["prompts near-duplicate"] >= 8


def test_near_duplicates_of_an_earlier_run_are_found(captions):
    """Without a cache: the subjects alone are told."""
    with serve(Author()) as server:
        first = list(writer(server, captions=captions).write(10, seed=0))

        def again(asked, text):  # a third of the drafts are what was written before the stop
            return draft(first[asked.number % 10].subject) if asked.number % 3 == 0 else text

    with serve(Changed(again)) as server:
        author = writer(server, captions=captions, concurrency=1)
        author.resume(first)
        rest = list(author.write(20, seed=0, start=10))
        assert len(author.llm.ledger.outcomes) == 1
        assert (
            sum("Write a prompt" in asked.texts[1] for asked in server.asked)
            == 10 + author.outcomes["prompts near-duplicate"]
        )
    assert author.outcomes["prompts near-duplicate"] > 0
    subjects = [prompt.subject for prompt in [*first, *rest]]
    assert max(similarity(a, b) for a, b in itertools.combinations(subjects, 2)) < 0.7


def test_a_model_that_always_says_the_same():
    with serve(Changed(lambda asked, text: draft("a round red creature"))) as server:
        author = writer(server, tries=3)
        stream = author.write(5, seed=0)
        assert next(stream).subject == "a round red creature"
        with pytest.raises(
            RuntimeError, match=r"Prompt 1 \(object\): none of 3 tries is usable, at last: near-d"
        ):
            next(stream)
    assert author.outcomes["prompts near-duplicate"] == 4 * 3


@settings(deadline=None, max_examples=30)
@given(
    st.lists(st.sets(st.sampled_from("red blue owl fox hat boot old tiny".split()), min_size=1), max_size=40)
)
def test_near_duplicates_are_those_of_all_comparisons(sets):
    """Against comparing each with each. MinHash may miss a few: what it finds is checked, and equals."""
    subjects = [" ".join(sorted(words)) for words in sets]
    distinct, kept = Distinct(0.75), []
    for subject in subjects:
        like = max((similarity(subject, other) for other in kept), default=0.0)
        found = distinct.add(subject)
        if found is not None:
            assert found in kept
            assert similarity(subject, found) >= 0.75
        if like == 1.0:
            assert found is not None
        if found is None:
            kept.append(subject)
    assert len(distinct) == len(kept)


def test_minhash_misses_hardly_any():
    rng = random.Random(0)
    words = [word(rng) for _ in range(2000)]
    drawn = [rng.sample(words, 10) for _ in range(300)]
    distinct = Distinct(0.7, (" ".join(shared[:9]) for shared in drawn))
    missed = 0
    for shared in drawn:
        first, second = " ".join(shared[:9]), " ".join([*shared[:8], shared[9]])  # 8 of 10
        assert similarity(first, second) == 0.8
        missed += distinct.like(second) != first
    assert missed <= 3
