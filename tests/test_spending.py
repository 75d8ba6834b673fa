"""What prompts and captions take: told before by `dry_run`, and beside the bar while they come."""

import json

import pytest
from PIL import Image

from dsd import Pair, Run, captioners, prompts
from dsd.captioning import caption_pairs
from dsd.cli import main
from dsd.data.manifest import SpecError
from dsd.data.writer import TableWriter
from dsd.engines.spending import SpendingGauge
from dsd.llm.ledger import Ledger
from dsd.llm.records import BudgetSpent, Usage
from dsd.stages import write_prompts
from tests.asking import COST, KEY, PRICE, drawing
from tests.providers import serve


def draft(asked):
    """A new subject each time, and what the server is asked for otherwise."""
    words = [f"w{asked.number}{letter}" for letter in "abcdefgh"]
    subject = " ".join(words)
    panels = [f"{subject} {i}" for i in range(4)]
    return json.dumps({"plan": "vary", "subject": subject, "panels": panels})


def author(server, **options):
    given = {"api_base": server.openai, "api_key": KEY, "structured": "schema", "price": PRICE} | options
    return {"name": "llm", "model": "openai/author", **given}


@pytest.fixture
def run(tmp_path):
    run = Run(tmp_path / "run")
    found = []
    for i in range(40):
        target = Image.new("RGB", (32, 32), (5 * i, 0, 0))  # else one answer would do for all of them
        found.append(Pair(reference=drawing(), target=target, caption=f"c{i}", subject="s", grid_id=f"{i}"))
    with run.lock("test"), TableWriter(run.pairs, {}) as output:
        output.add(found)
        output.finish()
    return run


def test_a_dry_run_of_prompts_asks_nobody_and_writes_nothing(tmp_path):
    with serve(draft) as server:
        told = write_prompts(tmp_path / "run", author(server), 1000, dry_run=True, progress=False)
        assert not server.asked
        assert not (tmp_path / "run").exists()
        assert told.counts["to write"] == told.counts["calls"] == 1000
        sent, received = told.counts["prompt tokens"], told.counts["completion tokens"]
        assert told.counts["cost_usd"] == pytest.approx((sent + 10 * received) / 1e6, rel=1e-3)
        write_prompts(tmp_path / "run", author(server), 10, progress=False)
        rest = write_prompts(tmp_path / "run", author(server), 1000, dry_run=True, progress=False)
        assert (rest.rows, rest.counts["to write"]) == (10, 990)
        assert len(Run(tmp_path / "run").prompts) == 10
        assert write_prompts(tmp_path / "run", author(server), 5, dry_run=True).counts["calls"] == 0
        with pytest.raises(SpecError):
            write_prompts(tmp_path / "run", "template", 1000, dry_run=True)


def test_captions_are_looked_at_first_and_so_counted(tmp_path):
    (tmp_path / "captions.txt").write_text("a fox\n" * 3)
    with serve(draft) as server:
        options = {"captions": str(tmp_path / "captions.txt")}
        told = write_prompts(tmp_path / "run", author(server, **options), 100, dry_run=True)
    assert told.counts["calls"] == 200


def test_an_estimate_is_near_what_is_sent(tmp_path):
    with serve(draft) as server:
        writer = author(server, price=None)
        told = write_prompts(tmp_path / "run", writer, 20, dry_run=True, progress=False)
        assert told.counts["cost_usd"] is None
        assert "cost_usd unknown" in str(told)
        write_prompts(tmp_path / "run", writer, 20, progress=False)
        sent = sum(len(json.dumps(asked.body)) for asked in server.asked)
    assert len(server.asked) == 20
    assert sent / 5 < told.counts["prompt tokens"] < sent / 2


def test_what_is_free_costs_nothing_and_what_is_unknown_is_not_free(run, tmp_path):
    free = write_prompts(tmp_path / "free", "template", 30, dry_run=True).counts
    assert (free["to write"], free["calls"], free["cost_usd"]) == (30, 0, 0.0)
    assert caption_pairs(run, "panel", dry_run=True).counts["cost_usd"] == 0.0

    class Someones(captioners.Captioner):
        def caption(self, pair):
            raise AssertionError("it is a dry run")

    told = caption_pairs(run, Someones(), name="own", dry_run=True)
    assert told.counts == {
        "to caption": 40,
        "calls": None,
        "prompt tokens": None,
        "completion tokens": None,
        "cost_usd": None,
    }
    assert run.stages() == ["pairs"]


def test_a_dry_run_of_captions_counts_what_is_missing(run):
    with serve(lambda asked: json.dumps({"seen": "s", "caption": f"c {asked.number}"})) as server:
        given = author(server) | {"name": "vlm"}
        all_of_them = caption_pairs(run, given, dry_run=True, progress=False)
        assert not server.asked
        assert all_of_them.counts["to caption"] == all_of_them.counts["calls"] == 40
        with pytest.raises(BudgetSpent):
            caption_pairs(run, given | {"concurrency": 1, "max_cost_usd": 10.5 * COST}, progress=False)
        there = len(run.captions("vlm"))
        assert 0 < there < 40
        rest = caption_pairs(run, given, dry_run=True, progress=False)
        assert rest.counts["to caption"] == 40 - there
        assert rest.counts["cost_usd"] < all_of_them.counts["cost_usd"]
        with pytest.raises(SpecError, match="own `name`"):
            caption_pairs(run, given | {"kind": "instruction"}, dry_run=True)


def test_captions_that_failed_are_counted_when_they_are_tried_again(run):
    class Moody(captioners.Captioner):
        def caption(self, pair):
            if pair.caption == "c3":
                raise ValueError("no")
            return "yes"

    caption_pairs(run, Moody(), name="own", progress=False)
    assert caption_pairs(run, Moody(), name="own", dry_run=True).counts["to caption"] == 0
    assert caption_pairs(run, Moody(), name="own", dry_run=True, retry_failed=True).counts["to caption"] == 1
    assert caption_pairs(run, Moody(), name="own", dry_run=True, overwrite=True).counts["to caption"] == 40


def test_the_bars_show_what_was_spent_and_what_all_will_cost(run, tmp_path, capsys):
    with serve(draft) as server:
        write_prompts(tmp_path / "run", author(server), 20)
        shown = capsys.readouterr().err
    assert "tokens=" in shown
    assert f"cost=${20 * COST:.4f} of ~${20 * COST:.4f}" in shown.splitlines()[-1]
    with serve(lambda asked: json.dumps({"seen": "s", "caption": "c"})) as server:
        caption_pairs(run, author(server, price=None) | {"name": "vlm"})
        assert "cost=unknown" in capsys.readouterr().err


def test_the_projection_leaves_out_what_was_spent_before():
    ledger = Ledger()
    ledger.add(Usage(calls=1, prompt_tokens=5000, cost_usd=7.0))
    gauge = SpendingGauge(ledger)
    assert gauge.shown(10) == {"tokens": "0", "cost": "$0.00"}
    ledger.add(Usage(calls=2, prompt_tokens=1500, completion_tokens=500, cost_usd=2.0))
    gauge.add(["a", "b"])
    assert gauge.shown(6) == {"tokens": "2k", "cost": "$2.00 of ~$8.00"}
    for _ in range(256):
        gauge.add(["cached"])
    assert gauge.shown(6)["cost"] == "$2.00 of ~$2.00"  # nothing was paid for the last ones
    ledger.add(Usage(calls=1, cost_usd=None))
    assert gauge.shown(6)["cost"] == "unknown"
    assert SpendingGauge(None).shown(6) == {}


def test_the_command_line_estimates(tmp_path, capsys):
    with serve(draft) as server:
        spec = json.dumps(author(server))
        run = str(tmp_path / "run")
        assert main(["prompts", "--run", run, "--writer", spec, "--count", "50", "--dry-run"]) == 0
        assert not server.asked
    out = capsys.readouterr().out
    assert "prompts: 0 rows, dry run, to write 50, calls 50" in out
    assert KEY not in out


def test_a_changed_text_is_another_writer(tmp_path):
    texts = tmp_path / "texts"
    texts.mkdir()
    with serve(draft) as server:
        write_prompts(tmp_path / "run", author(server), 2, progress=False)
        (texts / "themes.txt").write_text("a lonely robot\n")
        with pytest.raises(SpecError, match="fingerprint"):
            write_prompts(tmp_path / "run", author(server, texts=str(texts)), 4, progress=False)


def test_a_writer_is_closed_by_who_made_it(tmp_path, monkeypatch):
    closed = []
    monkeypatch.setattr(prompts.TemplateWriter, "close", lambda self: closed.append(self))
    write_prompts(tmp_path / "a", "template", 2, progress=False)
    assert len(closed) == 1
    own = prompts.TemplateWriter()
    write_prompts(tmp_path / "b", own, 2, progress=False)
    assert len(closed) == 1
