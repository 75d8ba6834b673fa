"""A model that writes prompts over HTTP, goes away in the midst of the list, and comes back."""

import json
from collections import Counter

import pytest

import dsd
from dsd.llm import CallFailed, door
from dsd.prompts import LLMWriter
from tests.authors import Author
from tests.providers import Fault, serve

COUNT = 24


class Leaving(Author):
    """Answers so many questions, and whatever comes then with a fault."""

    def __init__(self, fault, answers):
        super().__init__()
        self.fault, self.left, self.answered = fault, answers, Counter()

    def __call__(self, asked):
        if self.left == 0:
            return self.fault
        self.left -= 1
        self.answered[json.dumps(asked.body["messages"])] += 1
        return super().__call__(asked)


def written(run, server):
    author = LLMWriter(
        "openai/author-1", api_base=server.openai, api_key="test", structured="schema", concurrency=1,
        retries={"server": 1, "connection": 1},
    )  # fmt: skip
    try:
        return dsd.write_prompts(run, writer=author, count=COUNT, progress=False)
    finally:
        author.close()


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (Fault(status=503), "server"),
        (Fault(status=401, text="the key has expired"), "authentication"),
        (Fault(text="x", drop_after=0), "server"),
    ],
)
def test_a_list_stops_with_the_service_and_goes_on_when_it_is_back(tmp_path, monkeypatch, fault, kind):
    monkeypatch.setattr(door, "_FIRST_WAIT_S", 0.01)
    run, plain, author = dsd.Run(tmp_path / "run"), dsd.Run(tmp_path / "plain"), Leaving(fault, answers=10)
    with serve(author) as server:
        for _ in range(2):
            with pytest.raises(CallFailed) as caught:
                written(run, server)
            assert caught.value.kind == kind
            assert len(run.prompts) == 10  # an outage is no bad draft, and what was written stays
            assert not run.prompts.manifest.complete
    author.left = COUNT  # what was given up has come to its end with that server
    with serve(author) as server:
        assert written(run, server).added == COUNT - 10
        found = list(run.prompts)
        lost = run.prompts.folder / run.prompts.manifest.shards[0].file
        lost.write_bytes(lost.read_bytes()[:-9])
        assert run.mend("prompts") == 10
        author.left = 0
        assert written(run, server).added == 10  # of answers that were kept
    assert set(author.answered.values()) == {1}  # nothing is paid for twice
    with serve(Author()) as server:
        written(plain, server)
    assert found == list(plain.prompts)
    assert sorted(run.prompts.ids()) == sorted(plain.prompts.ids())
    assert run.verify() == []
