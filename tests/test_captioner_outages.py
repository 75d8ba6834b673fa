"""A vision model over HTTP that goes away in the midst of the captions, and comes back."""

from collections import Counter

import pytest
from PIL import Image

from dsd.captioners import VLMCaptioner
from dsd.captioning import caption_pairs
from dsd.data.store import Run
from dsd.data.writer import TableWriter
from dsd.llm import OutOfService, door
from tests.providers import Fault, serve
from tests.test_captioners import pair, said

COUNT = 60


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Pairs whose targets tell their number by their colour; tries follow each other quickly."""
    monkeypatch.setattr(door, "_FIRST_WAIT_S", 0.01)
    run = Run(tmp_path / "run")
    with run.lock("test"), TableWriter(run.pairs, {}) as output:
        output.add([pair(i, target=Image.new("RGB", (16, 16), (i * 4, 0, 0))) for i in range(COUNT)])
        output.finish()
    return run


def number(asked):
    return asked.images[0].getpixel((8, 8))[0] // 4


def captioned(run, server, **options):
    captioner = VLMCaptioner(
        "openai/eyes-1", api_base=server.openai, api_key="test", structured="schema", concurrency=4, **options
    )
    try:
        return caption_pairs(run, captioner, batch_size=20, progress=False)
    finally:
        captioner.close()


def test_a_server_that_stumbles_costs_nothing(run):
    """Each pair is refused by a busy server at first, then met by a dropped connection, then told to
    wait, then answered: each kind of fault has tries of its own."""
    seen = Counter()

    def answer(asked):
        seen[number(asked)] += 1
        faults = {1: Fault(status=503), 2: Fault(text=said(), drop_after=20), 3: Fault(status=429)}
        return faults.get(seen[number(asked)], said(f"picture {number(asked)}"))

    with serve(answer) as server:
        summary = captioned(run, server, retries={"server": 2, "connection": 2, "rate_limit": 1})
    assert (summary.added, summary.failed) == (COUNT, 0)
    assert set(seen.values()) == {4}


@pytest.mark.parametrize("fault", [Fault(status=503), Fault(status=429), Fault(text=said(), drop_after=0)])
def test_a_server_that_goes_away_is_waited_for_and_nothing_is_lost(run, fault):
    answered, up = Counter(), False

    def answer(asked):
        asks = number(asked)
        if not up and asks >= 24:
            return fault
        answered[asks] += 1
        if asks in (22, 50):
            return Fault(refusal=f"I do not look at picture {asks}.")
        return said(f"picture {asks}")

    table, failed = run.captions("vlm"), run.failed("captions/vlm")
    with serve(answer) as server:
        quick = {"retries": {"server": 1, "rate_limit": 1, "connection": 1}}
        for new in (23, 0):
            with pytest.raises(OutOfService, match=rf"has {new} new rows, which are written; 36 are missing"):
                captioned(run, server, **quick)
            assert len(table) == 23
            assert [row.source for row in failed] == run.pairs.ids()[22:23]  # its own, not the outage's
        up = True
        summary = captioned(run, server, **quick)
    assert (summary.added, summary.rows, summary.failed) == (35, 58, 2)
    assert set(answered.values()) == {1}  # none is paid for twice, refused or not
    ids = run.pairs.ids()
    assert {row.pair_id: row.caption for row in table} == {
        ids[i]: f"picture {i}" for i in range(COUNT) if i not in (22, 50)
    }
    assert {row.source: "I do not look" in row.reason for row in failed} == {ids[22]: True, ids[50]: True}
    assert run.verify() == []


def test_a_server_that_was_never_there_is_told(run):
    with serve(lambda asked: said()) as server:
        pass
    with pytest.raises(
        RuntimeError, match=r"The first 16 of 'captions/vlm' all failed(.|\n)*They are not recorded"
    ):
        captioned(run, server, retries={"connection": 0})
    assert not run.failed("captions/vlm").exists
    assert len(run.captions("vlm")) == 0
