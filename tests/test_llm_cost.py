"""What language models cost: the cache, the budget, deadlines and batch mode, over real HTTP."""

import asyncio
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image
from pydantic import Field

from dsd import llm
from tests.asking import COST, GOOD, KEY, Opinion, ask, door, drawing, question
from tests.providers import Asked, Fault, serve

pytest.importorskip("litellm")


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dsd.llm.door._FIRST_WAIT_S", 0.01)


def test_the_cache_answers_equal_questions_and_no_others(tmp_path: Path) -> None:
    file = tmp_path / "cache" / "answers.sqlite"
    image, other = drawing(), drawing()
    other.putpixel((0, 0), (0, 0, 0))

    def look(image: Image.Image, **options: object) -> llm.Request:
        return question(messages=[llm.user("Look:", llm.Picture(image=image))], **options)

    requests = [
        look(image), look(other), look(image, replicate=1), look(image, version="2"),
        look(image, temperature=1.0), look(image, max_tokens=7), look(image, schema=None), question(),
    ]  # fmt: skip
    with serve(lambda asked: GOOD) as server:
        for _ in range(2):  # the second door finds what the first one left
            model = door(server, cache=file)
            answers = [model.run(model.ask(request)) for request in requests]
            model.close()
        assert len(server.asked) == len(requests)
    assert all(answer.cached and answer.usage == llm.Usage() for answer in answers)
    assert answers[0].value == Opinion.model_validate_json(GOOD)
    assert KEY.encode() not in file.read_bytes()


def test_invalid_answers_are_never_replayed(tmp_path: Path) -> None:
    file = tmp_path / "answers.sqlite"
    for fault in (Fault(text="nonsense"), Fault(refusal="no"), Fault(status=400)):
        with serve(lambda asked, fault=fault: fault) as server:
            with pytest.raises(llm.AnswerError):
                ask(door(server, cache=file), question())
    with serve(lambda asked: GOOD) as server:
        assert not ask(door(server, cache=file), question()).cached

    class Stricter(Opinion):
        score: float = Field(ge=0.9, le=1)

    with serve(lambda asked: GOOD.replace("0.75", "0.95")) as server:
        assert not ask(door(server, cache=file), question(schema=Stricter)).cached


def test_a_file_that_is_no_cache_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "answers.sqlite"
    file.write_text("not a database " * 100)
    with pytest.raises(ValueError, match=r"no cache of answers.*Delete it"):
        llm.LLM("openai/judge", api_key="k", cache=file)
    assert file.read_text().startswith("not a database")


def test_killed_at_any_moment_nothing_is_paid_twice(tmp_path: Path) -> None:
    """What was answered before SIGKILL is not asked again, but for calls that were in the air."""
    code = (
        "import sys; from dsd import llm\n"
        "base, file = sys.argv[1:]\n"
        "model = llm.LLM('openai/judge', api_base=base, api_key='k' * 9, cache=file, concurrency=4)\n"
        "def ask(n): return model.ask(llm.Request(messages=[llm.user(f'number {n}')]))\n"
        "print(sum(1 for _ in model.map(ask, range(40))))\n"
    )

    async def answer(asked: Asked) -> str:
        await asyncio.sleep(0.02)
        return "yes"

    with serve(answer) as server:
        arguments = [sys.executable, "-c", code, server.openai, str(tmp_path / "answers.sqlite")]
        kills = 0
        for target in (8, 24):
            child = subprocess.Popen(arguments, stdout=subprocess.DEVNULL)
            while len(server.asked) < target + 4 * kills and child.poll() is None:
                time.sleep(0.005)
            child.kill()
            child.wait()
            kills += 1
        done = subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=True)
        assert done.stdout.strip() == "40"
        assert len({asked.texts[-1] for asked in server.asked}) == 40
        assert 40 <= len(server.asked) <= 40 + 4 * kills


def test_the_budget_is_never_exceeded_and_the_run_goes_on(tmp_path: Path) -> None:
    file = tmp_path / "answers.sqlite"

    async def answer(asked: Asked) -> str:
        await asyncio.sleep(0.02)
        return GOOD

    with serve(answer) as server:
        for limit, least in ((5.5 * COST, 1), (100 * COST, 30)):
            model = door(server, cache=file, concurrency=8, max_cost_usd=limit)
            asking = model.map(lambda n, m=model: m.ask(question(f"number {n}", max_tokens=100)), range(30))
            got = []
            if limit < 10 * COST:
                with pytest.raises(llm.BudgetSpent, match=r"max_cost_usd=0\.0\d+"):
                    got += list(asking)
                paid = len(server.asked)
                assert model.ledger.usage.cost_usd is not None
                assert least * COST <= model.ledger.usage.cost_usd <= limit
            else:
                got += list(asking)
                assert model.ledger.cached == paid, "an answer that was paid for was lost"
            model.close()
        assert len(server.asked) == 30
    assert len(got) == 30


def test_an_unknown_price_is_unknown_and_cannot_be_limited() -> None:
    with serve(lambda asked: GOOD) as server:
        answer = ask(door(server, price=None), question())
        assert answer.usage.cost_usd is None
        with pytest.raises(ValueError, match=r"price of 'openai/judge' is unknown. Give price="):
            door(server, price=None, max_cost_usd=1.0)
        known = door(server, "gemini", price=None, max_cost_usd=1.0)
        assert ask(known, question()).usage.cost_usd == pytest.approx(1000 * 0.3e-6 + 100 * 2.5e-6)


def test_the_deadlines_of_a_question_and_of_a_run() -> None:
    with serve(lambda asked: Fault(status=503)) as server:
        with pytest.raises(llm.CallFailed, match=r"deadline of 0\.3 s"):
            ask(door(server, deadline_s=0.3, retries={"server": 1000}), question())
        model = door(server, run_deadline_s=0.2, retries={"server": 3})
        with pytest.raises(llm.DeadlinePassed, match=r"call it again to go on"):
            list(model.map(lambda n: model.ask(question(f"{n}")), range(1000)))
        model.close()


def test_batch_mode_answers_at_half_the_price_and_survives_a_restart(tmp_path: Path) -> None:
    from dsd.llm import batches

    image = drawing()
    requests = [question(messages=[llm.user(f"number {n}", llm.Picture(image=image))]) for n in range(5)]
    bad = "number 3"
    with serve(lambda asked: "nonsense" if asked.texts[0] == bad else GOOD) as server:
        model = door(server, cache=tmp_path / "answers.sqlite", structured="schema")
        model.run(model.ask(requests[0]))
        with pytest.raises(TimeoutError):  # the first look finds it unfinished; stopped while it waits
            model.run(asyncio.wait_for(batches.answer(model, requests, poll_s=60.0), 0.5))
        model.close()
        again = door(server, cache=tmp_path / "answers.sqlite", structured="schema")
        spent = again.run(batches.answer(again, requests, poll_s=0.01))
        assert len(server.batches) == 1, "a batch was paid for twice"
        assert len(server.asked) == 1 + 4
        assert spent.calls == 4
        assert spent.cost_usd == pytest.approx(4 * COST / 2)
        assert again.ledger.usage == spent
        answers = [
            again.run(again.ask(request)) for request in requests if bad not in request.messages[0].parts
        ]
        assert all(answer.cached for answer in answers)
        assert len(server.asked[1].images) == 1
        assert server.asked[1].schema == server.asked[0].schema
        with pytest.raises(llm.Unparsable):  # not replayed, but asked as usual
            again.run(again.ask(requests[3]))
        assert len(server.asked) == 5 + 2
        again.close()


def test_batch_mode_says_what_it_needs(tmp_path: Path) -> None:
    from dsd.llm import batches

    model = llm.LLM("openai/judge", api_key="k")
    with pytest.raises(ValueError, match="Give the model `cache`"):
        model.run(batches.answer(model, [question()]))
    other = llm.LLM("anthropic/claude-x", api_key="k", cache=tmp_path / "answers.sqlite")
    with pytest.raises(ValueError, match="no batch mode that litellm reaches"):
        other.run(batches.answer(other, [question()]))
