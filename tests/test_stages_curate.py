"""The stage that curates: batches and threads, failures, and what it costs and will come to."""

import random
import threading
import time

import pytest
from PIL import Image

import dsd
from dsd import curators
from dsd.data.manifest import SpecError
from dsd.data.rows import Judged
from dsd.data.writer import TableWriter
from dsd.engines import local
from dsd.engines.progress import VerdictGauge
from dsd.engines.specs import what
from dsd.llm import BudgetSpent, Usage
from dsd.types import Verdict
from tests.stage_runs import QUIET, prompted, rows


@pytest.fixture
def run(tmp_path):
    return prompted(tmp_path)


@pytest.fixture
def paired(run):
    """A run of 72 pairs."""
    dsd.draw_grids(run, teacher="cheap", **QUIET)
    dsd.make_pairs(run, **QUIET)
    return run


def test_a_curator_that_never_works_stops_the_stage(paired):
    class Dead(curators.Curator):
        works, error = False, ConnectionError("no such host")

        def judge(self, pair):
            if not self.works:
                raise self.error
            return Verdict(keep=True)

    dead = Dead()
    asked = r"The first 16 of 'verdicts/dead' all failed, at last with: ConnectionError: no such host They"
    with pytest.raises(RuntimeError, match=asked):
        dsd.curate(paired, dead, name="dead", batch_size=5, **QUIET)
    assert len(paired.verdicts("dead")) == 0
    dead.works = True
    assert dsd.curate(paired, dead, name="dead", **QUIET).counts["accepted"] == 72
    # What has worked before may fail, though no service is away: those are recorded, to be tried again.
    dead.works, dead.error = False, ValueError("an odd picture")
    with TableWriter(paired.verdicts("dead"), paired.verdicts("dead").manifest.spec) as writer:
        writer.remove(lambda row: row["pair_id"] in paired.pairs.ids()[40:])
    assert dsd.curate(paired, dead, name="dead", **QUIET).failed == 32


def test_failures_before_the_first_success_are_recorded_in_order(paired):
    unlucky = paired.pairs.ids()[:10]

    class Slow(curators.Curator):
        def judge(self, pair):
            if pair.id in unlucky:
                raise ConnectionError("lost")
            return Verdict(keep=True)

    assert dsd.curate(paired, Slow(), name="slow", batch_size=3, **QUIET).failed == 10
    assert paired.verdicts("slow").ids() == paired.pairs.ids()


def test_batches_in_threads_are_written_in_order(paired):
    class Many(curators.Curator):
        pairs_at_once = 40
        now = most = 0
        lock = threading.Lock()

        def judge(self, pair):
            return Verdict(keep=True, score=0.5)

        def judge_batch(self, pairs):
            with self.lock:
                self.now += 1
                self.most = max(self.most, self.now)
            time.sleep(random.Random(pairs[0].id).uniform(0.3, 0.6))
            self.now -= 1
            return super().judge_batch(pairs)

    many = Many()
    summary = dsd.curate(paired, many, name="many", batch_size=8, **QUIET)
    assert (summary.rows, summary.added) == (72, 72)
    assert 2 <= many.most <= 5
    assert paired.verdicts("many").ids() == paired.pairs.ids()
    assert rows(paired)["verdicts/many"] == sorted(
        rows(paired)["verdicts/many"], key=lambda row: paired.pairs.ids().index(row["pair_id"])
    )


@pytest.mark.parametrize("at_once", [1, 4])
def test_work_is_not_read_far_ahead(at_once):
    read = []

    def batches():
        for i in range(50):
            read.append(i)
            yield [i]

    results = local.run(lambda batch: batch[0], batches(), at_once=at_once)
    for i in range(20):
        assert next(results) == i
        assert len(read) <= i + 1 + 2 * at_once
    cancelled = []
    results = local.run(
        lambda batch: time.sleep(0.01), batches(), at_once=4, cancel=lambda: cancelled.append(1)
    )
    next(results)
    results.close()
    assert cancelled == [1]
    assert list(local.run(lambda batch: batch[0], iter([[1], [2]]), at_once=4, cancel=cancelled.clear)) == [
        1,
        2,
    ]
    assert cancelled == [1]  # nothing to cancel when all is done


def test_an_error_in_a_thread_is_raised(paired):
    class Short(curators.Curator):
        pairs_at_once = 1000

        def judge(self, pair):
            return Verdict(keep=True)

        def judge_batch(self, pairs):
            return super().judge_batch(pairs)[:-1]

    with pytest.raises(ValueError, match=r"Short\.judge_batch gave 7 verdicts for 8 pairs"):
        dsd.curate(paired, Short(), name="short", batch_size=8, **QUIET)


class Paid(curators.Curator):
    """Costs a quarter of a dollar a pair, until the money is spent; every tenth pair is refused."""

    def __init__(self, money=100.0, cost_usd=0.25, pairs_at_once=1, rpm=None, api_key=None):
        self.money, self.cost_usd, self.pairs_at_once = money, cost_usd, pairs_at_once
        self.ledger = self
        self.usage = Usage()
        self.count = self.batches = 0

    def judge(self, pair):
        if (self.usage.cost_usd or 0.0) + 0.25 > self.money:
            raise BudgetSpent("The money is spent.")
        self.usage += Usage(calls=1, prompt_tokens=900, completion_tokens=100, cost_usd=self.cost_usd)
        self.count += 1
        if self.count % 10 == 0:
            return Verdict(status="refused", reason="no", cost_usd=self.cost_usd)
        return Verdict(keep=self.count % 3 > 0, score=0.5, reason="yes", cost_usd=self.cost_usd)

    def judge_some(self, pairs):
        found = []
        self.batches += 1
        for pair in pairs:
            try:
                found.append(self.judge(pair))
            except BudgetSpent as stop:
                found.append(stop)
        return found

    def estimate(self, pair):
        return Usage(calls=1, prompt_tokens=900, completion_tokens=100, cost_usd=self.cost_usd)


@pytest.mark.parametrize("at_once", [1, 24])
def test_a_stage_that_runs_out_of_money_keeps_every_verdict(paired, at_once):
    paid = Paid(money=5.0, pairs_at_once=at_once)
    with pytest.raises(BudgetSpent, match=r"spent. 'verdicts/paid' has 20 new rows.*; 52 are missing. Call"):
        dsd.curate(paired, paid, name="paid", batch_size=8, **QUIET)
    assert len(paired.verdicts("paid")) == paid.count == 20
    assert paid.batches == 3 or at_once > 1  # no other is begun
    assert paired.verdicts("paid").manifest.complete is False
    summary = dsd.curate(paired, Paid(pairs_at_once=at_once), name="paid", overwrite=True, **QUIET)
    assert summary.counts["cost_usd"] == 18.0


def test_yield_counts_judged_pairs_alone(paired):
    summary = dsd.curate(paired, Paid(), name="paid", **QUIET)
    counts = summary.counts
    assert counts["refused"] == 7
    assert counts["accepted"] + counts["rejected"] == 65
    assert counts["yield"] == pytest.approx(counts["accepted"] / 65, abs=1e-4)
    assert paired.manifest()["stages"]["verdicts/paid"]["counts"]["yield"] == counts["yield"]
    unknown = dsd.curate(paired, Paid(cost_usd=None), name="unknown", **QUIET)
    assert unknown.counts["cost_usd"] is None
    assert "cost_usd unknown" in str(unknown)
    assert "cost_usd" not in dsd.curate(paired, "heuristic", **QUIET).counts


def test_the_bar_shows_yield_tokens_cost_and_what_it_will_come_to():
    paid = Paid()
    paid.usage = Usage(calls=5, prompt_tokens=10_000, cost_usd=3.0)  # before this call of the stage
    gauge = VerdictGauge(paid)
    assert gauge.shown(100) == {"tokens": "0", "cost": "$0.00"}
    pair = make_pair()
    for _ in range(20):
        gauge.add([Judged(pair_id="x", verdict=paid.judge(pair))])
    told = gauge.shown(80)
    assert told == {"yield": "67%", "refused": "2", "tokens": "20k", "cost": "$5.00 of ~$25.00"}
    # A resumed stage begins with answers that are paid already: they say nothing of the price of the rest.
    resumed = Paid()
    gauge = VerdictGauge(resumed)
    gauge.add([Judged(pair_id="x", verdict=Verdict(keep=True, cost_usd=0.0))] * 1000)
    resumed.usage += Usage(calls=4, cost_usd=1.0)  # on their way, and paid
    assert gauge.shown(500)["cost"] == "$1.00 of ~$1.00"
    gauge.add([Judged(pair_id="x", verdict=Verdict(keep=True, cost_usd=0.25))] * 300)
    resumed.usage += Usage(calls=296, cost_usd=74.0)
    assert gauge.shown(200)["cost"] == "$75.00 of ~$125.00"
    unknown = Paid(cost_usd=None)
    gauge = VerdictGauge(unknown)
    gauge.add([Judged(pair_id="x", verdict=unknown.judge(pair))])
    assert gauge.shown(10)["cost"] == "unknown"
    plain = VerdictGauge(curators.create("heuristic"))
    plain.add([Judged(pair_id="x", verdict=Verdict(keep=True))])
    assert plain.shown(10) == {"yield": "100%"}


def make_pair():
    image = Image.new("RGB", (8, 8))
    return dsd.Pair(reference=image, target=image)


def test_the_bar_is_on_stderr_with_the_cost(paired, capsys):
    dsd.curate(paired, Paid(pairs_at_once=16), name="paid", batch_size=8)
    err = capsys.readouterr().err
    assert "72/72" in err
    assert "cost=$18.00 of ~$18.00" in err
    assert "yield=" in err


def test_a_dry_run_tells_and_writes_nothing(paired):
    before = sorted(paired.path.rglob("*"))
    paid = Paid()
    summary = dsd.curate(paired, paid, name="paid", dry_run=True)
    assert summary.dry_run
    told = {"to judge": 72, "calls": 72, "prompt tokens": 64_800, "completion tokens": 7200, "cost_usd": 18.0}
    assert dict(summary.counts) == told
    assert (summary.rows, summary.added, paid.count) == (0, 0, 0)
    assert "dry run" in str(summary)
    unknown = dsd.curate(paired, Paid(cost_usd=None), name="paid", dry_run=True)
    assert unknown.counts["cost_usd"] is None
    assert unknown.counts["calls"] == 72
    assert dsd.curate(paired, "heuristic", dry_run=True).counts["cost_usd"] == 0.0
    assert dsd.curate(paired, "parity", dry_run=True).counts["cost_usd"] is None
    assert sorted(paired.path.rglob("*")) == before
    with pytest.raises(BudgetSpent):
        dsd.curate(paired, Paid(money=5.0), name="paid", **QUIET)
    assert dsd.curate(paired, Paid(money=5.0), name="paid", dry_run=True).counts["to judge"] == 52
    assert dsd.curate(paired, Paid(), name="paid", dry_run=True, overwrite=True).counts["to judge"] == 72
    with pytest.raises(SpecError):
        dsd.curate(paired, Paid(cost_usd=1.0), name="paid", dry_run=True)

    class Lossy(curators.Curator):
        def judge(self, pair):
            return Verdict(status="accepted" if pair.target_panel else "failed")

    dsd.curate(paired, Lossy(), name="lossy", **QUIET)
    assert dsd.curate(paired, Lossy(), name="lossy", dry_run=True).counts["to judge"] == 0
    again = dsd.curate(paired, Lossy(), name="lossy", dry_run=True, retry_failed=True)
    assert again.counts["to judge"] == 18


def test_how_is_not_what(paired):
    """A stage goes on with other limits, another key and another address, but not with another judge."""
    dsd.curate(paired, Paid(rpm=10.0, api_key="sk-1"), name="paid", **QUIET)
    assert dsd.curate(paired, Paid(rpm=20.0, api_key="sk-2"), name="paid", **QUIET).added == 0
    spec = {
        "name": "x",
        "members": [{"name": "y", "rpm": 3, "low": 0.5, "price": {"prompt": 1.0}}],
        "cache": "a",
    }
    assert what(spec) == {"name": "x", "members": [{"name": "y", "low": 0.5}]}


def test_texts_that_changed_are_another_judge(paired):
    class Written(curators.Curator):
        def judge(self, pair):
            return Verdict(keep=True)

    judge = Written()
    judge.fingerprint = "one"
    dsd.curate(paired, judge, name="written", **QUIET)
    judge.fingerprint = "two"
    with pytest.raises(SpecError, match="fingerprint was 'one', now 'two'"):
        dsd.curate(paired, judge, name="written", **QUIET)
