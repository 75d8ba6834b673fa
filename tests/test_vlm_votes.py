"""Votes of a vision-language model and both orders of a pair: how they become one verdict."""

import json
import random
import threading

import pytest

from dsd.curators import vlm_answers as answers
from dsd.llm import AnswerError, CallFailed, Refused, Unparsable, Usage
from tests.providers import Fault, serve
from tests.vlm_judge import COST, judge, judgement, pair

pytest.importorskip("litellm")


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr("dsd.llm.door._FIRST_WAIT_S", 0.01)


def by_order(given, swapped):
    """An answer for pictures as given (the first has no green) and another for the swapped ones."""
    return lambda asked: given if asked.images[0].getpixel((5, 5))[1] < 50 else swapped


@pytest.mark.parametrize(
    ("given", "swapped", "status", "score", "words"),
    [
        (judgement(), judgement(score=0.7), "accepted", 0.8, "the same subject by 2 of 2 votes, score 0.80"),
        (
            judgement(score=0.1, same=False),
            judgement(score=0.3),
            "rejected",
            0.2,
            "not the same subject by 2",
        ),
        (
            judgement(),
            judgement(same=False, score=0.3),
            "accepted",
            0.6,
            "the orders disagree (score 0.90 as",
        ),
        (
            judgement(same=False, score=0.3),
            judgement(score=0.6),
            "rejected",
            0.45,
            "0.60 swapped, wanted 0.5",
        ),
        (judgement(), Fault(refusal="no"), "refused", None, "1 of 2 votes did not come, too many:"),
        (Fault(status=400), Fault(refusal="no"), "failed", None, "2 of 2 votes did not come"),
    ],
)
def test_both_orders(given, swapped, status, score, words):
    with serve(by_order(given, swapped)) as server:
        verdict = judge(server, both_orders=True).judge(pair())
        assert len(server.asked) == 2
    assert (verdict.status, verdict.score) == (status, None if score is None else pytest.approx(score))
    assert words in verdict.reason
    assert [row["order"] for row in json.loads(verdict.raw)] == ["given", "swapped"]


def test_votes_are_asked_anew_each_time():
    lock, count = threading.Lock(), [0]

    def answer(asked):
        with lock:
            count[0] += 1
            return judgement() if count[0] % 3 else judgement(same=False, score=0.2, words="ears differ")

    with serve(answer) as server:
        verdict = judge(server, votes=3, seed=5).judge(pair())
        asked = server.asked
    assert len(asked) == 3
    assert sorted(one.body["seed"] for one in asked) == [5, 6, 7]
    assert {one.body["temperature"] for one in asked} == {0.7}
    assert verdict.status == "accepted"
    assert verdict.score == pytest.approx((0.9 + 0.9 + 0.2) / 3)
    assert verdict.reason == "the same subject by 2 of 3 votes, score 0.67: both are red"
    assert verdict.cost_usd == pytest.approx(3 * COST)


def opinion(kind, order="given"):
    errors = {
        "failed": CallFailed("lost", kind="connection"), "refused": Refused("no"),
        "unparsable": Unparsable("?"),
    }  # fmt: skip
    if kind in errors:
        return answers.Opinion(order=order, error=errors[kind], usage=Usage(calls=1, cost_usd=0.5))
    same, score = kind
    return answers.Opinion(order=order, same=same, likely=score, usage=Usage(calls=1, cost_usd=0.5))


YES, NO = (True, 0.9), (False, 0.2)


@pytest.mark.parametrize(
    ("votes", "status"),
    [
        ([YES, YES, "failed"], "accepted"),
        ([NO, NO, "refused"], "rejected"),
        ([YES, NO, "refused"], "refused"),  # either way the missing one decides
        ([YES, "unparsable", "refused"], "refused"),
        ([YES, "unparsable", "failed"], "failed"),
        ([YES, YES, YES, "failed", "failed"], "accepted"),
        ([YES, YES, NO, "failed", "unparsable"], "failed"),
        ([YES, NO], "accepted"),  # a tie: the mean, .55, decides
        ([(True, 0.6), NO], "rejected"),
        ([YES, NO, YES, "failed"], "failed"),  # it could become a tie
        (["unparsable"] * 3, "unparsable"),
    ],
)
def test_missing_votes_must_not_be_able_to_turn_the_verdict(votes, status):
    for _ in range(3):
        random.shuffle(votes)
        verdict = answers.verdict([opinion(vote) for vote in votes], threshold=0.5)
        assert verdict.status == status
        assert verdict.cost_usd == 0.5 * len(votes)
        assert len(json.loads(verdict.raw)) == len(votes)


@pytest.mark.parametrize(
    ("given", "swapped", "status", "score"),
    [
        ([YES] * 3, [NO] * 3, "accepted", 0.55),
        ([(True, 0.7)] * 3, [NO] * 3, "rejected", 0.45),
        ([YES, YES, "refused"], [NO] * 3, "refused", None),  # the mean is from .4 to .57
        ([YES, YES, "failed"], [(False, 0.4)] * 3, "accepted", 0.6),  # at least .5
        ([(True, 0.6)] * 3, [NO, NO, "failed"], "failed", None),
        ([(True, 0.6)] * 2 + ["failed"], [(False, 0.1)] * 3, "rejected", 0.3),  # at most .42
    ],
)
def test_where_orders_disagree_missing_votes_must_not_be_able_to_turn_the_mean(given, swapped, status, score):
    votes = [opinion(vote) for vote in given] + [opinion(vote, "swapped") for vote in swapped]
    verdict = answers.verdict(votes, threshold=0.5)
    assert verdict.status == status
    assert verdict.score == (None if score is None else pytest.approx(score))
    assert verdict.reason.startswith("the orders disagree") == (score is not None)


def test_the_verdict_of_votes_equals_trying_every_completion():
    """What is decided with votes missing is what every completion of them would decide."""
    rng = random.Random(0)
    for _ in range(300):
        votes = [rng.choice([YES, NO, "failed", "refused"]) for _ in range(rng.randint(1, 4))]
        missing = [i for i, vote in enumerate(votes) if isinstance(vote, str)]
        outcomes = set()
        for completion in range(2 ** len(missing)):
            whole = list(votes)
            for bit, i in enumerate(missing):
                whole[i] = ((True, 1.0), (False, 0.0))[completion >> bit & 1]
            yes = sum(vote[0] for vote in whole)
            mean = sum(vote[1] for vote in whole) / len(whole)
            outcomes.add(yes > len(whole) / 2 or (2 * yes == len(whole) and mean >= 0.5))
        status = answers.verdict([opinion(vote) for vote in votes], threshold=0.5).status
        ties = len(votes) % 2 == 0 and missing
        if len(outcomes) == 1 and not ties:
            assert status == ("accepted" if outcomes.pop() else "rejected"), votes
        elif len(outcomes) == 2:
            assert status in ("failed", "refused"), votes


def test_errors_know_their_status():
    for error in (Refused("a"), Unparsable("b"), CallFailed("c", kind="server")):
        assert isinstance(error, AnswerError)
        assert answers.verdict([answers.Opinion(order="given", error=error)], 0.5).status == error.status
