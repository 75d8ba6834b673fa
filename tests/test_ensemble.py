"""Several curators as one: what it decides equals a loop over whole verdicts, and a policy over stored ones;
nobody is asked in vain.
"""

import itertools
import json
import re
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import dsd
from dsd import curators, rules
from dsd.curators import Curator, Pair, Verdict
from dsd.data.policy import Policy
from dsd.llm import BudgetSpent, Stopped, Usage
from tests.cheap_world import make_run

STATUSES = ("accepted", "rejected", "refused", "unparsable", "failed")


class Scripted(Curator):
    """Says what stands in a table for the pair's caption, and remembers whom it was asked about."""

    def __init__(self, table, free=False, cost_usd=0.25):
        self.table, self.free, self.cost_usd = table, free, cost_usd
        self.asked, self.batches = [], []

    def judge(self, pair):
        self.asked.append(pair.caption)
        said = self.table[pair.caption]
        if isinstance(said, Exception):
            raise said
        status, score = said
        cost = None if self.free else self.cost_usd
        return Verdict(status=status, score=score, reason=f"{status} it", cost_usd=cost, raw="word for word")

    def judge_batch(self, pairs):
        self.batches.append(len(pairs))
        return super().judge_batch(pairs)

    def estimate(self, pair):
        return Usage() if self.free else Usage(calls=1, prompt_tokens=10, cost_usd=0.25)


def pair(caption):
    image = Image.new("RGB", (8, 8))
    return Pair(reference=image, target=image, caption=caption)


def one_by_one(rule, said, *, votes=None, weights=None, threshold=0.5, unsure=None):
    """The rule, told as a person would, over the whole verdicts of all members on one pair."""
    if rule == "cascade":
        bands = [*(unsure or [["accepted"]] * (len(said) - 1)), None]
        for (status, score), band in zip(said, bands, strict=True):
            if status not in ("accepted", "rejected"):
                continue
            if band and isinstance(band[0], str) and status in band:
                continue
            if band and not isinstance(band[0], str) and (score is None or band[0] <= score <= band[1]):
                continue
            return status
        return None
    if rule == "weights":
        weights = weights or [1.0] * len(said)
        total = 0.0
        for (status, score), weight in zip(said, weights, strict=True):
            if weight == 0:
                continue
            if status not in ("accepted", "rejected"):
                return None
            total += weight * (score if score is not None else float(status == "accepted"))
        return "accepted" if total / sum(weights) >= threshold else "rejected"
    needed = {"all": len(said), "any": 1, "vote": votes or len(said) // 2 + 1}[rule]
    accepted = sum(status == "accepted" for status, _ in said)
    rejected = sum(status == "rejected" for status, _ in said)
    if accepted >= needed:
        return "accepted"
    return "rejected" if len(said) - rejected < needed else None


verdicts = st.tuples(st.sampled_from(STATUSES), st.none() | st.sampled_from([0.0, 0.3, 0.5, 0.7, 1.0]))


@st.composite
def cases(draw):
    members = draw(st.integers(1, 4))
    rule = draw(st.sampled_from(rules.RULES))
    options = {}
    if rule == "vote":
        options["votes"] = draw(st.integers(1, members))
    if rule == "weights":
        weights = st.lists(st.sampled_from([0.0, 1.0, 2.5]), min_size=members, max_size=members)
        options["weights"] = draw(weights.filter(any) | st.none())
        options["threshold"] = draw(st.sampled_from([0.0, 0.4, 0.9]))
    if rule == "cascade":
        band = st.sampled_from([None, [0.3, 0.7], [0.5, 0.5], ["accepted"], ["rejected"]])
        bands = st.lists(band, min_size=members - 1, max_size=members - 1)
        options["unsure"] = draw(bands | st.none())
    rows = draw(st.lists(st.lists(verdicts, min_size=members, max_size=members), min_size=1, max_size=6))
    return rule, {k: v for k, v in options.items() if v is not None}, rows


@settings(max_examples=150, deadline=None)
@given(cases())
def test_an_ensemble_decides_as_a_loop_over_whole_verdicts(case):
    rule, options, rows = case
    captions = [str(i) for i in range(len(rows))]
    members = [
        Scripted({c: row[m] for c, row in zip(captions, rows, strict=True)}) for m in range(len(rows[0]))
    ]
    ensemble = curators.create({"name": "ensemble", "members": members, "rule": rule, **options})
    together = ensemble.judge_batch([pair(caption) for caption in captions])
    for verdict, row in zip(together, rows, strict=True):
        expected = one_by_one(rule, row, **options)
        if expected is None:
            assert verdict.status in ("refused", "unparsable", "failed")
            assert verdict.status in [status for status, _ in row]
        else:
            assert verdict.status == expected
        called = json.loads(verdict.raw)
        assert verdict.cost_usd == 0.25 * len(called)
    alone = [ensemble.judge(pair(caption)) for caption in captions]
    assert alone == together  # whatever the batch

    # A policy over the members' own verdicts, each of whom has judged every pair, accepts the same ones.
    import pyarrow as pa

    tables = [
        pa.table(
            {"pair_id": captions, "status": [r[m][0] for r in rows], "score": [r[m][1] for r in rows]},
            schema=pa.schema([("pair_id", pa.string()), ("status", pa.string()), ("score", pa.float64())]),
        )
        for m in range(len(members))
    ]
    if rule == "vote":
        options.setdefault("votes", len(members) // 2 + 1)
    names = [f"m{m}" for m in range(len(members))]
    policy = Policy.parse({"rule": rule, "curators": names, **options})
    accepted = [c for c, verdict in zip(captions, together, strict=True) if verdict.accepted]
    assert policy.accepts(captions, tables) == accepted


def test_nobody_is_asked_in_vain():
    """Members are asked batch by batch, and each only for the pairs on which it can change the outcome."""
    table = {"good": ("accepted", 0.9), "bad": ("rejected", 0.1), "between": ("accepted", 0.5)}
    broken = {**table, "lost": ("failed", None)}
    cheap = Scripted(broken, free=True)
    dear = Scripted({caption: ("rejected", 0.2) for caption in broken}, cost_usd=1.0)
    ensemble = curators.EnsembleCurator([cheap, dear], unsure=[[0.4, 0.8]])
    found = ensemble.judge_batch([pair(caption) for caption in broken])
    assert [verdict.status for verdict in found] == ["accepted", "rejected", "rejected", "rejected"]
    assert dear.asked == ["between", "lost"]
    assert (cheap.batches, dear.batches) == ([4], [2])
    assert [verdict.cost_usd for verdict in found] == [0.0, 0.0, 1.0, 1.0]
    assert [verdict.score for verdict in found] == [0.9, 0.1, 0.2, 0.2]
    assert found[0].reason.endswith("accepted it")
    raw = json.loads(found[2].raw)
    assert [row["status"] for row in raw] == ["accepted", "rejected"]
    assert [row["raw"] for row in raw] == ["word for word"] * 2

    first, second, third = (
        Scripted({"x": (status, None)}) for status in ("accepted", "rejected", "accepted")
    )
    verdict = curators.EnsembleCurator([first, second, third], rule="all").judge(pair("x"))
    assert (verdict.status, verdict.cost_usd, third.asked) == ("rejected", 0.5, [])
    assert curators.EnsembleCurator([first, second, third], rule="any").judge(pair("x")).cost_usd == 0.25
    verdict = curators.EnsembleCurator([first, third, second], rule="vote").judge(pair("x"))
    assert (verdict.status, verdict.score, verdict.cost_usd) == ("accepted", 1.0, 0.5)
    assert verdict.reason.startswith("2 of 2 asked accept, 2 of 3 needed: ")


def test_an_unknown_cost_makes_the_sum_unknown_if_its_member_was_asked():
    known, unknown = Scripted({"x": ("rejected", 0.1)}), Scripted({"x": ("accepted", 0.9)}, cost_usd=None)
    assert curators.EnsembleCurator([known, unknown], rule="all").judge(pair("x")).cost_usd == 0.25
    assert curators.EnsembleCurator([unknown, known], rule="all").judge(pair("x")).cost_usd is None


def test_the_end_of_the_money_is_passed_on_with_what_was_judged():
    table = {"a": ("accepted", 1.0), "b": ("rejected", 0.0), "c": ("accepted", 1.0)}
    spent = {"a": ("accepted", 1.0), "c": BudgetSpent("spent")}

    class Broke(Scripted):
        def judge_some(self, pairs):
            return [
                spent[p.caption] if isinstance(spent[p.caption], Stopped) else self.judge(p) for p in pairs
            ]

    ensemble = curators.EnsembleCurator([Scripted(table), Broke(spent)])
    some = ensemble.judge_some([pair(caption) for caption in "abc"])
    assert [getattr(v, "status", type(v).__name__) for v in some] == ["accepted", "rejected", "BudgetSpent"]
    with pytest.raises(BudgetSpent):
        ensemble.judge_batch([pair("c")])
    after = Scripted(table)
    ensemble = curators.EnsembleCurator([Broke(spent), after])
    assert [type(v) for v in ensemble.judge_some([pair("c"), pair("a")])] == [BudgetSpent, Verdict]
    assert after.asked == ["a"]  # a pair that was stopped is not paid for by the next one


def test_a_member_that_fails_does_so_alone():
    class Broken(Curator):
        def judge(self, pair):
            raise ConnectionError("lost")

    verdict = curators.EnsembleCurator([Broken(), "heuristic"]).judge(pair("x"))
    assert verdict.status == "rejected"  # by the other
    verdict = curators.EnsembleCurator([Broken(), "heuristic"], rule="any").judge(pair("x"))
    assert verdict.status == "failed"
    assert "ConnectionError: lost" in verdict.reason


def test_an_estimate_follows_the_cascade():
    """Members that are free are asked, so that the paid one is counted for what they leave to it."""
    free = Scripted({"clear": ("rejected", 0.1), "open": ("accepted", 0.9)}, free=True)
    paid = [Scripted({}) for _ in range(2)]
    ensemble = curators.EnsembleCurator([free, *paid])
    assert ensemble.estimate(pair("clear")) == Usage()
    assert ensemble.estimate(pair("open")) == Usage(calls=2, prompt_tokens=20, cost_usd=0.5)
    assert [member.asked for member in paid] == [[], []]

    class Silent(Curator):
        def judge(self, pair):
            raise AssertionError("paid")

    assert curators.EnsembleCurator([free, Silent()]).estimate(pair("open")) is None
    assert curators.EnsembleCurator([free, Silent()]).estimate(pair("clear")) == Usage()


def test_members_that_take_one_batch_at_a_time_do():
    inside, most = [], []

    class Single(Curator):
        free = True

        def judge(self, pair):
            inside.append(1)
            most.append(len(inside))
            time.sleep(0.01)
            inside.pop()
            return Verdict(keep=True, score=1.0)

    class Many(Curator):
        pairs_at_once = 100
        most = 0
        now = 0

        def judge(self, pair):
            Many.now += 1
            Many.most = max(Many.most, Many.now)
            time.sleep(0.05)
            Many.now -= 1
            return Verdict(keep=True, score=1.0)

    ensemble = curators.EnsembleCurator([Single(), Many()], rule="all")
    assert ensemble.pairs_at_once == 100
    threads = [
        threading.Thread(target=ensemble.judge_batch, args=([pair("x"), pair("y")],)) for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most) == 1
    assert Many.most > 1


def test_members_are_told_what_the_ensemble_is_told(tmp_path):
    told = []

    class Listening(Scripted):
        def keep_answers(self, path):
            told.append(("keep", path))

        def cancel(self):
            told.append("cancel")

        def close(self):
            told.append("close")

    members = [Listening({}) for _ in range(2)]
    ensemble = curators.EnsembleCurator([*members, "heuristic"])
    ensemble.keep_answers(tmp_path)
    ensemble.cancel()
    ensemble.close()
    assert told == [("keep", tmp_path)] * 2 + ["cancel"] * 2 + ["close"] * 2


def test_its_account_and_its_texts_are_those_of_its_members():
    class Account:
        def __init__(self, cost_usd):
            self.usage = Usage(calls=1, prompt_tokens=10, cost_usd=cost_usd)

    first, second, third = (Scripted({}) for _ in range(3))
    first.ledger = second.ledger = Account(0.5)  # one account, shared, counts once
    third.ledger = Account(0.25)
    ensemble = curators.EnsembleCurator([first, second, third, "heuristic"])
    assert ensemble.ledger.usage == Usage(calls=2, prompt_tokens=20, cost_usd=0.75)
    third.ledger.usage = Usage(calls=3, cost_usd=None)
    assert ensemble.ledger.usage.cost_usd is None
    assert ensemble.fingerprint == ""
    second.fingerprint = "texts 1"
    one = curators.EnsembleCurator([first, second]).fingerprint
    second.fingerprint = "texts 2"
    other = curators.EnsembleCurator([first, second]).fingerprint
    assert len({one, other, ""}) == 3
    assert curators.EnsembleCurator([second, first]).fingerprint != other


def test_a_spec_holds_its_members():
    spec = {
        "name": "ensemble",
        "members": ["heuristic", {"name": "heuristic", "min_sharpness": 0.2}],
        "rule": "weights",
        "weights": [1, 2.5],
    }
    ensemble = curators.create(spec)
    assert curators.spec(ensemble) == spec
    assert ensemble.names == ["heuristic 1", "heuristic 2"]
    assert ensemble.free
    assert ensemble.ledger is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"members": []}, "needs at least one curator"),
        ({"members": ["heuristic"], "rule": "vote", "votes": 2}, "`votes` must be 1 to 1"),
        ({"members": ["heuristic"], "votes": 1}, "`votes` goes with the rule 'vote' only; got it with 'cas"),
        ({"members": ["heuristic"], "rule": "weights", "weights": [1.0, 2.0]}, "`weights` must be 1 numbers"),
        ({"members": ["heuristic"], "rule": "weights", "weights": [0.0]}, "not all 0"),
        ({"members": ["heuristic"], "rule": "any", "threshold": 0.3}, "`threshold` goes with the rule 'weig"),
        ({"members": ["heuristic"] * 2, "unsure": []}, "`unsure` must have 1 entries"),
        ({"members": ["heuristic"] * 2, "unsure": [[0.8, 0.2]]}, "`unsure` at scores [low, high]"),
        ({"members": ["heuristic"] * 2, "unsure": [["acepted"]]}, "or at statuses such as ['accepted']"),
    ],
)
def test_wrong_arguments(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        curators.create({"name": "ensemble", **options})


def test_a_policy_over_stored_verdicts_equals_the_ensemble(tmp_path):
    """The same rule, once while judging and once over what two curators have left in a run."""
    run = make_run(tmp_path / "run", 3, curator=None)
    one, two = {"name": "parity", "modulus": 3}, {"name": "parity", "modulus": 2}
    for name, spec in (("one", one), ("two", two)):
        dsd.curate(run, spec, name=name, progress=False)
    many = [
        ("cascade", {"unsure": [[0.3, 0.6]]}),
        ("cascade", {}),
        ("weights", {"weights": [1.0, 3.0], "threshold": 0.5}),
        ("vote", {"votes": 1}),
        ("all", {}),
        ("any", {}),
    ]
    for number, ((rule, options), order) in enumerate(itertools.product(many, [0, 1])):
        specs, names = ([one, two], ["one", "two"]) if order else ([two, one], ["two", "one"])
        spec = {"name": "ensemble", "members": specs, "rule": rule, **options}
        dsd.curate(run, spec, name=f"e{number}", progress=False)
        stored = run.accepted({"rule": rule, "curators": names, **options})
        assert stored == run.accepted(f"e{number}")
        assert 0 < len(stored) < len(run.pairs)


def test_a_policy_counts_pairs_that_were_not_judged_as_undecided(tmp_path):
    run = make_run(tmp_path / "run", 1, curator=None)
    dsd.curate(run, "parity", name="whole", progress=False)
    ids = run.pairs.ids()
    from dsd.data.rows import Judged
    from dsd.data.writer import TableWriter

    with TableWriter(run.verdicts("some"), {}) as writer:
        writer.add([Judged(pair_id=ids[0], verdict=Verdict(keep=True, score=1.0))])
    assert run.accepted({"rule": "weights", "curators": ["some"]}) == [ids[0]]
    assert run.accepted({"rule": "cascade", "curators": ["some", "whole"], "unsure": [None]}) == [ids[0]]
    for wrong, message in [
        ({"rule": "weights"}, "needs `curators`"),
        ({"rule": "all", "threshold": 0.3}, "`weights` and `threshold` go with the rule 'weights'"),
        ({"rule": "cascade", "curators": ["some", "whole"], "unsure": [None, None]}, "must have 1 entries"),
        ({"rule": "weights", "curators": ["some"], "min_score": 0.1}, "has a `threshold`"),
        ({"rule": "vote", "votes": 3, "curators": ["some", "whole"]}, "`votes` must be 1 to 2"),
    ]:
        with pytest.raises(ValueError, match=re.escape(message)):
            run.accepted(wrong)
