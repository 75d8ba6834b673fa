"""The stage that asks a vision-language model: batches, budgets, Ctrl-C and SIGKILL, over real HTTP."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import dsd
from dsd.cli import main
from dsd.curators import Verdict
from dsd.llm import BudgetSpent, Stopped
from tests.cheap_world import make_run
from tests.providers import serve
from tests.vlm_judge import COST, PRICE, judge, judgement, pair

pytest.importorskip("litellm")

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr("dsd.llm.door._FIRST_WAIT_S", 0.01)


def red_of(asked):
    return asked.images[0].getpixel((5, 5))[0]


def seen_by(color):
    return lambda asked: judgement(same=red_of(asked) % 2 == 0, score=red_of(asked) / 255, words="seen")


def test_verdicts_do_not_depend_on_the_size_of_batches(tmp_path):
    run = make_run(tmp_path / "run", 2, curator=None)
    found = {}
    with serve(seen_by("red")) as server:
        for batch_size in (1, 7, 64):
            name = f"b{batch_size}"
            dsd.curate(
                run,
                judge(server, cache=str(tmp_path / name)),
                name=name,
                batch_size=batch_size,
                progress=False,
            )
            found[batch_size] = {j.pair_id: j.verdict for j in run.verdicts(name)}
        assert len(server.asked) == 3 * 24
    assert found[1] == found[7] == found[64]
    assert run.verdicts("b7").ids() == run.pairs.ids()
    assert {verdict.status for verdict in found[1].values()} == {"accepted", "rejected"}


def test_the_stage_keeps_connections_busy_over_the_ends_of_batches(tmp_path):
    """One slow answer does not idle the others: several batches are in hand."""
    run = make_run(tmp_path / "run", 4, curator=None)
    answered_while_waiting = []

    async def answer(asked):
        if asked.number == 0:
            for _ in range(100):
                await asyncio.sleep(0.1)
                answered_while_waiting.append(len(server.asked))
                if len(server.asked) > 12:
                    break
        return judgement()

    with serve(answer) as server:
        dsd.curate(run, judge(server, concurrency=4), batch_size=4, progress=False)
        assert len(server.asked) == 48
        assert server.most_in_flight <= 4
    assert run.verdicts("vlm").ids() == run.pairs.ids()
    assert max(answered_while_waiting) > 8  # more than the rest of its own batch and another


def test_a_budget_stops_the_stage_and_a_higher_one_goes_on(tmp_path):
    run = make_run(tmp_path / "run", 3, curator=None)
    with serve(lambda asked: judgement()) as server:
        spec = {
            "name": "vlm", "model": "openai/judge-1", "api_base": server.openai, "api_key": "test-key-1234",
            "price": PRICE, "structured": "schema", "concurrency": 2, "max_tokens": 100,
        }  # fmt: skip
        with pytest.raises(
            BudgetSpent, match=r"max_cost_usd=0\.02 .*'verdicts/vlm' has \d+ new rows"
        ) as caught:
            dsd.curate(run, {**spec, "max_cost_usd": 0.02}, batch_size=4, progress=False)
        asked = len(server.asked)
        assert 7 <= asked <= 10
        assert len(run.verdicts("vlm")) == asked  # what was paid for is written
        assert f"has {asked} new rows, which are written; {36 - asked} are missing" in str(caught.value)
        assert sum(j.verdict.cost_usd for j in run.verdicts("vlm")) <= 0.02
        assert run.verdicts("vlm").manifest.complete is False
        summary = dsd.curate(run, {**spec, "max_cost_usd": 1.0}, batch_size=4, progress=False)
        assert len(server.asked) == 36
    assert summary.rows == 36
    assert summary.added == 36 - asked
    assert summary.counts["cost_usd"] == pytest.approx(36 * COST)
    assert sorted(run.verdicts("vlm").ids()) == sorted(run.pairs.ids())
    manifest = (run.path / "verdicts" / "vlm" / ".manifest.json").read_text()
    assert "test-key-1234" not in manifest
    assert "max_cost_usd" not in manifest


def test_the_command_line_stops_cleanly_and_estimates(tmp_path, capsys):
    run = make_run(tmp_path / "run", 2, curator=None)
    with serve(lambda asked: judgement()) as server:
        spec = {"name": "vlm", "model": "openai/judge-1", "api_base": server.openai, "structured": "schema"}
        spec |= {"api_key": "test-key-1234", "price": PRICE, "max_tokens": 100, "concurrency": 1}
        before = sorted(run.path.rglob("*"))
        arguments = ["curate", "--run", str(run.path), "--no_progress"]
        for flag in ("--dry_run", "--dry-run"):
            assert main([*arguments, "--curator", json.dumps(spec), flag]) == 0
            told = capsys.readouterr().out
            assert told.startswith("verdicts/vlm: 0 rows, dry run, to judge 24, calls 24, prompt tokens ")
            assert float(re.search(r"cost_usd ([\d.]+)", told)[1]) > 0
        assert main([*arguments, "--curator", json.dumps({**spec, "price": None}), "--dry_run"]) == 0
        assert "cost_usd unknown" in capsys.readouterr().out
        assert server.asked == []
        assert sorted(run.path.rglob("*")) == before
        status = main([*arguments, "--curator", json.dumps({**spec, "max_cost_usd": 0.01})])
        said = capsys.readouterr().err
        assert status == 2
        assert "Traceback" not in said
        assert "to go on from there." in said
        assert len(run.verdicts("vlm")) == len(server.asked) > 0


def test_ctrl_c_ends_what_is_being_asked(tmp_path, ctrl_c_works):
    run = make_run(tmp_path / "run", 4, curator=None)

    async def answer(asked):
        if asked.number == 12:
            os.kill(os.getpid(), signal.SIGINT)
        if asked.number >= 8:
            await asyncio.sleep(2)
        return judgement()

    with serve(answer) as server:
        curator = judge(server, concurrency=8)
        with pytest.raises(KeyboardInterrupt):
            dsd.curate(run, curator, batch_size=8, progress=False)
        time.sleep(0.5)
        asked = len(server.asked)
        assert 13 <= asked < 30
        time.sleep(4)
        assert len(server.asked) == asked  # nothing more is paid for
    with serve(lambda asked: judgement()) as server:
        dsd.curate(run, judge(server), batch_size=8, progress=False)
    assert sorted(run.verdicts("vlm").ids()) == sorted(run.pairs.ids())


KILLED = """
import sys
import dsd
from dsd import curators
run, url = sys.argv[1:]
spec = {"name": "vlm", "model": "openai/judge-1", "api_base": url, "api_key": "k" * 12}
spec |= {"price": {"prompt": 1.0, "completion": 10.0}, "concurrency": 4, "structured": "schema"}
print("started", flush=True)
dsd.curate(run, spec, batch_size=4, progress=False)
"""


def test_killed_in_mid_run_nothing_is_paid_for_twice(tmp_path):
    run = make_run(tmp_path / "run", 4, curator=None)
    paid, killed = [], threading.Event()

    async def answer(asked):
        if asked.number >= 20 and not killed.is_set():
            await asyncio.sleep(60)  # on its way when the process is killed
        paid.append(asked)
        return judgement()

    with serve(answer) as server:
        program = [sys.executable, "-c", KILLED, str(run.path), server.openai]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        with subprocess.Popen(
            program, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
        ) as child:
            assert child.stdout.readline() == b"started\n"
            deadline = time.monotonic() + 60
            while len(paid) < 14 and time.monotonic() < deadline:
                time.sleep(0.01)
            os.kill(child.pid, signal.SIGKILL)
        killed.set()
        assert 14 <= len(paid) <= 20
        done = subprocess.run(program, env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        again = len(paid) - 48
    assert 0 <= again <= 4, "only what was on its way when it was killed is asked again"
    assert sorted(run.verdicts("vlm").ids()) == sorted(run.pairs.ids())


def test_only_the_end_of_money_or_time_leaves_a_batch():
    with serve(lambda asked: judgement()) as server:
        curator = judge(server, max_cost_usd=0.0045, max_tokens=100, concurrency=1)
        some = curator.judge_some([pair(red) for red in range(20, 26)])
        kinds = [type(x) for x in some]
        assert kinds == [Verdict] * 2 + [BudgetSpent] * 4
        with pytest.raises(Stopped):
            curator.judge_batch([pair(80)])
        late = judge(server, run_deadline_s=0.01)
        late.judge(pair())
        time.sleep(0.02)
        with pytest.raises(Stopped, match="given for this run are over"):
            late.judge(pair(81))
