"""A model as a judge, over real HTTP: every fault ends as a status and never as a number, and nothing is paid
for twice.
"""

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import CancelledError
from pathlib import Path

import pytest

from dsd.llm import BudgetSpent, Stopped
from tests.asking import COST, KEY
from tests.providers import Fault, serve
from tests.rated import case, judge, red_of, scored

pytest.importorskip("litellm")

ROOT = Path(__file__).parents[1]
DREAMBENCH = "dreambench++_concept_preservation_subject"


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr("dsd.llm.door._FIRST_WAIT_S", 0.01)


FAULTS = [
    (Fault(refusal="I will not."), "refused"),
    (Fault(filtered=True, text="Score: 4"), "refused"),
    ("I'm sorry, but I can't rate pictures of people.", "refused"),
    ("It looks good to me.", "unparsable"),
    ("Perhaps 3 of 4, or 2.", "unparsable"),
    ("Score: 5", "unparsable"),
    ("Score: 2.5", "unparsable"),
    ("Score: 3 or 4", "unparsable"),
    (Fault(text="The shape is kept. Score: 3", cut=True), "unparsable"),
    (Fault(text=""), "failed"),
    (Fault(status=429), "failed"),
    (Fault(status=500), "failed"),
    (Fault(status=401, text="bad key"), "failed"),
    (Fault(text="Score: 4", drop_after=60), "failed"),
    (Fault(text="Score: 4", hang_s=3.0), "failed"),
    (Fault(text="<html>4</html>", content_type="text/html"), "failed"),
]
NO_RETRIES = {kind: 0 for kind in ("rate_limit", "timeout", "connection", "server", "malformed", "empty")}


@pytest.mark.parametrize(("answer", "status"), FAULTS)
@pytest.mark.parametrize("form", ["text", "object"])
def test_a_fault_is_a_status_and_never_a_number(answer, status, form):
    rubric = DREAMBENCH if form == "text" else "concept_preservation_subject"
    timeout_s = 2.0 if isinstance(answer, Fault) and answer.hang_s else 60.0
    with serve(lambda asked: answer) as server:
        rating = judge(server, rubric=rubric, retries=NO_RETRIES, timeout_s=timeout_s).rate(case())
    assert (rating.status, rating.value) == (status, None)
    assert rating.reason
    assert KEY not in rating.reason + rating.raw
    assert rating.cost_usd is not None
    if status == "unparsable":
        text = answer if isinstance(answer, str) else answer.text
        assert json.loads(rating.raw)[0]["answer"] == text
        assert rating.cost_usd == pytest.approx(2 * COST)  # asked once more, with what is wrong with it


@pytest.mark.parametrize(
    "answer",
    [
        scored(5), scored(-1), scored(3.5), scored("3"), scored(True), scored(None), scored([3]), scored(3.0),
        scored(3).replace("score", "Score"), scored(2) + scored(3), '{"score": 3}', scored(3)[:-1],
        "Score: 3",
    ],
)  # fmt: skip
def test_fields_are_taken_as_they_are_or_not_at_all(answer):
    with serve(lambda asked: answer) as server:
        rating = judge(server).rate(case())
    assert (rating.status, rating.value) == ("unparsable", None)


@pytest.mark.parametrize("form", ["text", "object"])
def test_an_answer_that_is_mended_when_asked_again_counts(form):
    rubric = DREAMBENCH if form == "text" else "concept_preservation_subject"
    good = "Score: 2" if form == "text" else scored(2)
    with serve(lambda asked: good if asked.number else "Score: 3/4") as server:
        rating = judge(server, rubric=rubric).rate(case())
        again = server.asked[1]
    assert rating.value == 2
    assert rating.cost_usd == pytest.approx(2 * COST)
    assert "Score: 3/4" in again.texts
    assert again.texts[-1].startswith("Your answer is not valid: ")
    wanted = "whole number from 0 to 4" if form == "text" else "corrected JSON object"
    assert wanted in again.texts[-1]


def test_a_cut_answer_is_asked_for_again_with_more_room():
    with serve(lambda asked: "Score: 3" if asked.number else Fault(text="Score: 1", cut=True)) as server:
        rating = judge(server, rubric=DREAMBENCH, max_tokens=50).rate(case())
        assert [asked.body["max_tokens"] for asked in server.asked] == [50, 100]
    assert rating.value == 3


def test_every_case_keeps_its_own_fate():
    """Cases of which most meet a fault of their own; each rating stands at its case, in order."""
    kinds = ["one", "four", "refuse", "garbage", "broken", "wrong type", "flaky", "late"]
    fate = {200 - 3 * i: random.Random(i).choice(kinds) for i in range(48)}
    seen = []

    async def late(text):
        await asyncio.sleep(0.2)
        return text

    def answer(asked):
        red = min(fate, key=lambda level: abs(level - red_of(asked)))
        seen.append(red)
        return {
            "one": scored(1), "four": scored(4), "refuse": Fault(refusal="no"), "garbage": "no idea",
            "broken": Fault(status=400), "wrong type": Fault(content_type="text/html", text="busy"),
            "flaky": Fault(status=500) if seen.count(red) <= 1 else scored(2),
        }.get(fate[red]) or late(scored(3))  # fmt: skip

    with serve(answer) as server:
        rater = judge(server, retries={"malformed": 0}, concurrency=8)
        ratings = rater.rate_batch([case(key=f"k{red}", red=red) for red in fate], runs=2)
    expected = {"one": 1, "four": 4, "flaky": 2, "late": 3}
    statuses = {"refuse": "refused", "garbage": "unparsable", "broken": "failed", "wrong type": "failed"}
    assert [(r.key, r.run) for r in ratings] == [(f"k{red}", run) for red in fate for run in (0, 1)]
    for rating in ratings:
        kind = fate[int(rating.key[1:])]
        assert rating.value == expected.get(kind), rating
        assert rating.status == statuses.get(kind, "rated")


def test_a_rerun_pays_for_nothing_twice(tmp_path):
    """What was answered is kept, by picture, rubric and run; what was not is asked again."""

    def answer(asked):
        return "no idea" if red_of(asked) < 100 and first else scored(2)

    first = True
    cases = [case(key="a", red=200), case(key="b", red=60)]
    with serve(answer) as server:
        for again in (False, True):
            first = not again
            rater = judge(server)
            rater.keep_answers(tmp_path / "answers.sqlite")
            ratings = rater.rate_batch(cases, runs=2)
            rater.close()
            if not again:
                assert [r.status for r in ratings] == ["rated", "rated", "unparsable", "unparsable"]
                assert len(server.asked) == 6
        assert [r.value for r in ratings] == [2] * 4
        assert [r.cost_usd for r in ratings] == [0.0, 0.0, pytest.approx(COST), pytest.approx(COST)]
        assert len(server.asked) == 8
        other = judge(server, cache=str(tmp_path / "answers.sqlite"), order="generated_first")
        assert other.rate(cases[0]).cost_usd > 0  # another question


def test_answers_in_plain_text_are_kept_and_read_again(tmp_path):
    with serve(lambda asked: "Score: 2" if asked.number else "Hmm. 3/4") as server:
        spec = {"rubric": DREAMBENCH, "cache": str(tmp_path / "a.sqlite")}
        assert judge(server, **spec).rate(case()).value == 2
        again = judge(server, **spec).rate(case())
        assert len(server.asked) == 2
    assert (again.value, again.cost_usd) == (2, 0.0)


def test_the_money_ends_and_the_next_call_goes_on(tmp_path):
    cases = [case(key=f"k{i}", red=40 + 3 * i) for i in range(20)]
    spec = {"cache": str(tmp_path / "a.sqlite"), "max_tokens": 100, "concurrency": 1}
    with serve(lambda asked: scored()) as server:
        poor = judge(server, max_cost_usd=5.5 * COST, **spec)
        some = poor.rate_some(cases)
        assert [type(x).__name__ for x in some].count("Rating") == len(server.asked) == 5
        assert {type(x) for x in some if isinstance(x, Stopped)} == {BudgetSpent}
        with pytest.raises(BudgetSpent):
            poor.rate_batch(cases)
        with pytest.raises(BudgetSpent):
            poor.rate(cases[-1])
        ratings = judge(server, **spec).rate_batch(cases)
        assert len(server.asked) == 20
    assert [r.key for r in ratings] == [c.key for c in cases]


KILLED = """
import sys
from tests.rated import case, judge
class Server: openai = sys.argv[1]
rater = judge(Server, cache=sys.argv[2], concurrency=1)
for i in range(12):
    print(rater.rate(case(key=f"k{i}", red=40 + 3 * i)).value, flush=True)
"""


def test_killed_and_called_again_it_goes_on(tmp_path):
    async def answer(asked):
        if asked.number == 7:
            await asyncio.sleep(60)  # on its way when the process is killed
        return scored(asked.number % 5)

    command = [sys.executable, "-c", KILLED]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    with serve(answer) as server:
        command += [server.openai, str(tmp_path / "a.sqlite")]
        first = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env, cwd=ROOT)
        seen = [first.stdout.readline() for _ in range(5)]
        first.send_signal(signal.SIGKILL)
        first.wait()
        assert 5 <= len(server.asked) <= 8
        again = subprocess.run(command, capture_output=True, text=True, env=env, cwd=ROOT, timeout=120)
        assert again.returncode == 0, again.stderr
        assert again.stdout.splitlines()[:5] == [line.strip() for line in seen]
        assert len(server.asked) <= 13  # one at most was on its way


def test_cancelled_from_another_thread_it_ends():
    with serve(lambda asked: Fault(hang_s=60, text=scored())) as server:
        rater = judge(server, timeout_s=120)
        threading.Timer(0.7, rater.cancel).start()
        started = time.perf_counter()
        with pytest.raises(CancelledError):
            rater.rate_batch([case()])
        assert time.perf_counter() - started < 20
