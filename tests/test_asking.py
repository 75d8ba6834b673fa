"""The base of all that ask models: an account, kept answers, so many at once, an end."""

import asyncio
import copy
import pickle
import threading
from concurrent.futures import CancelledError

import pytest

from dsd import captioners, curators, judges, prompts
from dsd.llm import Ledger, Stopped, Usage
from dsd.llm.asking import Asking, Spending, all_or_stop
from tests.asking import COST, question
from tests.providers import serve

pytest.importorskip("litellm")


class Poet(Asking[int]):
    def __init__(self, model: str = "openai/poet", **options: object) -> None:
        self._ask_by(model, **options)


class Free(Asking[int]):
    free = True


def test_all_families_that_ask_share_it() -> None:
    for family in (prompts, captioners, curators, judges):
        assert issubclass(family.registry._base_class(), Asking)
        for name in family.registry._builtin:
            shared = ("keep_answers", "cancel", "close")
            own = [method for method in shared if method in vars(family.get(name))]
            assert not own or name == "ensemble", f"{name} has {own} of its own"


def test_one_that_asks_nobody_has_nothing_to_keep(tmp_path) -> None:
    free = Free()
    free.keep_answers(tmp_path / "answers.sqlite")
    free.cancel()
    free.close()
    assert list(tmp_path.iterdir()) == []
    assert (free.ledger, free.llm, free.fingerprint) == (None, None, "")
    assert free.estimate(3) == Usage()
    assert Poet(api_key="k").estimate(3) is None


def test_the_account_is_that_of_the_door(tmp_path) -> None:
    with serve(lambda asked: "a rose") as server:
        poet = Poet(api_base=server.openai, api_key="k", price={"prompt": 1.0, "completion": 10.0})
        assert isinstance(poet.ledger, Ledger)
        assert isinstance(poet.ledger, Spending)
        poet.keep_answers(tmp_path / "answers.sqlite")
        assert poet.llm is not None
        for _ in range(2):
            poet.llm.run(poet.llm.ask(question(schema=None)))
        assert poet.ledger.usage.cost_usd == pytest.approx(COST)
        assert len(server.asked) == 1
        poet.close()
        assert poet.llm.cache is None


def test_an_unknown_option_is_named_with_those_that_there_are() -> None:
    with pytest.raises(
        TypeError, match=r"Poet has no argument 'rmp'\. Allowed, beside its own: fallbacks, .*rpm"
    ):
        Poet(rmp=3)


def test_so_many_at_once_and_in_order() -> None:
    poet, there, most = Poet(api_key="k"), [0], [0]

    async def written(number: int) -> int:
        there[0] += 1
        most[0] = max(most[0], there[0])
        await asyncio.sleep(0.02 if number % 2 else 0.0)
        there[0] -= 1
        return number * number

    assert poet._all(written, range(20), 4) == [number**2 for number in range(20)]
    assert most == [4]
    assert not poet._running  # nothing is held that has ended
    assert poet._all(written, [], 4) == []


def test_cancelled_from_another_thread_all_of_it_ends() -> None:
    poet, ended = Poet(api_key="k"), []

    async def written(number: int) -> None:
        try:
            await asyncio.sleep(30)
        finally:
            ended.append(number)

    threading.Timer(0.3, poet.cancel).start()
    with pytest.raises(CancelledError):
        poet._all(written, range(3), 3)
    for _ in range(100):
        if len(ended) == 3:
            break
        threading.Event().wait(0.02)
    assert sorted(ended) == [0, 1, 2]
    assert not poet._running


def test_results_or_the_stop_among_them() -> None:
    assert all_or_stop([1, 2]) == [1, 2]
    with pytest.raises(Stopped, match="over"):
        all_or_stop([1, Stopped("over"), 2])


def test_free_ones_are_copied_and_pickled() -> None:
    assert copy.copy(Free()).estimate(1) == Usage()
    assert pickle.loads(pickle.dumps(Free())).free
