"""The study of curators: its numbers against other implementations, its sources, its resuming, its pages."""

import csv
import inspect
import itertools
import json
import random
import xml.etree.ElementTree as ElementTree

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from scipy.stats import mannwhitneyu
from torchmetrics.functional import classification

import dsd
from dsd import grids, teachers
from dsd.cli import main, options
from dsd.curators import Curator, HistogramCurator, Pair, Verdict
from dsd.data.atomic import LockedError, lock
from dsd.evaluation import bootstrap
from dsd.mini import render, world
from dsd.mini.measure import SAME, identity, measure
from dsd.studies import Label, LabelledPairs, compare_curators
from dsd.studies.curators import labelled_pairs
from dsd.studies.curators_mistakes import mistakes
from dsd.studies.curators_results import Results, Verdicts
from dsd.studies.curators_scores import Judged, Resampler, curves, interval, resampled, weighted
from dsd.studies.curators_scores import measure as numbers
from dsd.studies.curators_tables import tables
from dsd.studies.curators_verdicts import Timed, entries, judge_missing, verdicts_of
from dsd.types import Grid
from tests.cheap_world import make_run
from tests.hostile import png_bomb
from tests.test_report import EVIL, check

NUMBERS = ("precision", "recall", "f1", "auroc", "kappa")


def judged(n=300, seed=0, scale=1.0, step=None):
    """Noisy scores of pairs, and decisions that follow another noise; half as many positives."""
    rng = np.random.default_rng(seed)
    same = rng.random(n) < 0.35
    scores = scale * (rng.normal(size=n) + 1.2 * same)
    if step is not None:
        scores = np.round(scores / step) * step
    return Judged(same=same, accepted=scores + rng.normal(size=n) * scale > 0.6 * scale, scores=scores)


def by_hand(x):
    tp, fp = int((x.accepted & x.same).sum()), int((x.accepted & ~x.same).sum())
    fn, tn = int((~x.accepted & x.same).sum()), int((~x.accepted & ~x.same).sum())
    n = tp + fp + fn + tn
    chance = ((tp + fp) / n) * ((tp + fn) / n) + ((fn + tn) / n) * ((fp + tn) / n)
    precision, recall = tp / (tp + fp), tp / (tp + fn)
    u = mannwhitneyu(x.scores[x.same], x.scores[~x.same]).statistic
    return {
        "precision": precision,
        "recall": recall,
        "f1": 2 * precision * recall / (precision + recall),
        "auroc": u / (x.same.sum() * (~x.same).sum()),
        "kappa": ((tp + tn) / n - chance) / (1 - chance),
    }


@pytest.mark.parametrize(
    ("scale", "step"), [(1.0, None), (0.01, None), (100.0, None), (1.0, 0.5), (500.0, 250.0)]
)
def test_numbers_are_those_done_by_hand_and_of_scipy(scale, step):
    """Scores far outside [0, 1] too, which torchmetrics alone would squash until they tie."""
    x = judged(scale=scale, step=step)
    wanted = by_hand(x)
    found = numbers(x)
    assert set(found) == set(NUMBERS)
    for name in NUMBERS:
        assert found[name] == pytest.approx(wanted[name], abs=1e-6), name
    ones = weighted(x, np.ones((1, len(x.same))))
    for name in NUMBERS:
        assert float(ones[name][0]) == pytest.approx(wanted[name], abs=1e-9), name


def test_a_weight_is_the_same_as_so_many_equal_pairs():
    x, rng = judged(seed=2, step=0.25), np.random.default_rng(5)
    weights = rng.integers(0, 4, size=(6, len(x.same)))
    found = weighted(x, weights.astype(float))
    for i, row in enumerate(weights):
        repeated = Judged(
            same=np.repeat(x.same, row), accepted=np.repeat(x.accepted, row), scores=np.repeat(x.scores, row)
        )
        wanted = by_hand(repeated)
        for name in NUMBERS:
            assert float(found[name][i]) == pytest.approx(wanted[name], abs=1e-9), name


def test_numbers_without_a_value_are_none_and_not_zero():
    same = np.array([True, True, False, False])
    none, nan = np.zeros(4, dtype=bool), np.full(4, np.nan)
    nothing = numbers(Judged(same=same, accepted=none, scores=nan))
    assert (nothing["precision"], nothing["auroc"]) == (None, None)
    assert (nothing["recall"], nothing["f1"], nothing["kappa"]) == (0, 0, 0)
    one_kind = numbers(Judged(same=same | True, accepted=~none, scores=np.arange(4.0)))
    assert one_kind == {"precision": 1, "recall": 1, "f1": 1, "auroc": None, "kappa": None}
    empty = Judged(same=none[:0], accepted=none[:0], scores=nan[:0])
    assert numbers(empty) == dict.fromkeys(NUMBERS)
    with_one_score = Judged(same=same, accepted=same, scores=np.array([0.5, np.nan, 0.1, np.nan]))
    assert numbers(with_one_score)["auroc"] == 1
    assert curves(empty) is None
    assert interval(np.full(3, np.nan)) is None


def test_curves_are_what_each_threshold_gives():
    x = judged(seed=4, scale=30.0, step=10.0)
    found = curves(x)
    for i, threshold in enumerate(found.thresholds):
        accepted = x.scores >= threshold
        assert found.precision[i] == pytest.approx((accepted & x.same).sum() / accepted.sum(), abs=1e-6)
        assert found.recall[i] == pytest.approx((accepted & x.same).sum() / x.same.sum(), abs=1e-6)
        assert found.false_positives[i] == pytest.approx(
            (accepted & ~x.same).sum() / (~x.same).sum(), abs=1e-6
        )
    f1 = classification.binary_f1_score(
        torch.from_numpy((x.scores >= found.thresholds[3]).astype(int)), torch.from_numpy(x.same.astype(int))
    )
    assert found.f1[3] == pytest.approx(float(f1), abs=1e-6)
    area = np.trapezoid(np.r_[0, found.recall[::-1]], np.r_[0, found.false_positives[::-1]])
    assert area == pytest.approx(numbers(x)["auroc"], abs=1e-6)


def test_resamples_are_of_subjects_and_keep_the_shares():
    """15 subjects, 100 pairs within one, 200 across two: each counts once on average."""
    rng = random.Random(0)
    names = [f"s{i}" for i in range(15)]
    subjects = [(rng.choice(names),) for _ in range(100)] + [tuple(rng.sample(names, 2)) for _ in range(200)]
    (weights,) = Resampler(subjects, 4000).weights()
    assert weights.shape == (4000, 300)
    np.testing.assert_allclose(weights.mean(0), 1, atol=0.15)
    assert weights[:, 100:].mean() == pytest.approx(1, abs=0.02)
    own = [subjects.index((name,)) for name in names if (name,) in subjects]
    for pair in (120, 250):
        places = [subjects.index((name,)) for name in subjects[pair]]
        np.testing.assert_allclose(weights[:, pair], weights[:, places].prod(1) / (1 - 1 / 15))
    assert np.allclose(weights[:, own] % 1, 0)
    again = np.concatenate(list(Resampler(subjects, 4000).weights()))
    assert np.array_equal(again, weights)


def test_pairs_without_subjects_are_drawn_singly():
    (weights,) = Resampler([()] * 50, 300).weights()
    assert (weights.sum(1) == 50).all()
    assert (weights.max(1) > 1).all()


def test_intervals_are_those_of_the_plain_bootstrap():
    """One subject a pair, precision: the mean of `same` over the accepted pairs, resampled by hand."""
    x = judged(80, seed=7)
    resampler = Resampler([(f"pair {i:03}",) for i in range(80)], 500, seed=3)
    found = resampled(resampler, {"one": (np.arange(80), x)})["one"]
    picks = bootstrap.resamples(80, 500, 3)
    order = np.array(sorted(range(80), key=lambda i: f"pair {i:03}"))
    by_resample = [x.same[order[row]][x.accepted[order[row]]].mean() for row in picks]
    np.testing.assert_allclose(found["precision"], by_resample)
    low, high = interval(found["precision"])
    assert (low, high) == pytest.approx(tuple(np.quantile(by_resample, [0.025, 0.975])))
    wide = resampled(Resampler([(f"{i // 20}",) for i in range(80)], 500), {"one": (np.arange(80), x)})["one"]
    assert np.ptp(wide["precision"]) > 0


def test_intervals_over_subjects_are_wider_when_pairs_of_a_subject_agree():
    rng = np.random.default_rng(0)
    right = np.repeat(rng.random(15) < 0.6, 20)  # a subject is right in all of its pairs or in none
    same = np.ones(300, dtype=bool)
    x = Judged(same=same, accepted=right, scores=np.full(300, np.nan))
    ends = []
    for subjects in ([(f"{i // 20}",) for i in range(300)], [()] * 300):
        recall = resampled(Resampler(subjects, 1000), {"one": (np.arange(300), x)})["one"]["recall"]
        ends.append(np.ptp(interval(recall)))
    assert ends[0] > 3 * ends[1]


class Scripted(Curator):
    """Says what the caption of a pair tells it to: a status and a score; counts what it judged."""

    def __init__(self, bias: float = 0.0, note: str = "because") -> None:
        self.bias, self.note, self.seen = bias, note, []

    def judge(self, pair):
        self.seen.append(pair.id)
        status, _, score = pair.caption.partition(" ")
        if status == "failed":
            raise RuntimeError("no connection")
        value = None if score == "none" else float(score) + self.bias
        return Verdict(status=status, score=value, reason=f"{self.note} {pair.subject}", cost_usd=0.25)


def picture(i):
    return Image.fromarray(np.random.default_rng(i).integers(0, 255, (48, 48, 3), dtype=np.uint8))


SAID = [
    *[(True, "accepted 0.9"), (True, "accepted 0.8"), (True, "rejected 0.3"), (True, "refused none")],
    *[(False, "rejected 0.1"), (False, "accepted 0.7"), (False, "rejected 0.2"), (False, "unparsable none")],
    *[(True, "accepted 0.6"), (False, "failed none"), (False, "accepted none"), (True, "rejected none")],
]


def scripted_pairs(subject="subject"):
    found = {}
    for i, (same, said) in enumerate(SAID):
        pair = Pair(
            reference=picture(2 * i), target=picture(2 * i + 1), caption=said, subject=f"{subject} {i}"
        )
        group = "same subject" if same else ("same class" if i % 2 else "other class")
        label = Label(pair_id=pair.id, same=same, group=group, subjects=(f"s{i % 4}",))
        found[pair.id] = (label, pair)
    return LabelledPairs(
        source="a script",
        truth="By hand.",
        labels=tuple(label for label, _ in found.values()),
        load=lambda ids: ((i, pair) for i, (_, pair) in found.items() if i in ids),
        hard="same class",
    )


def rows(path):
    with path.open() as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study") / "out"
    facts = compare_curators(
        scripted_pairs(), folder, {"one": Scripted(), "two": Scripted(bias=1.0)}, resamples=200, batch_size=5,
        progress=False,
    )  # fmt: skip
    return folder, facts


def test_only_decided_pairs_enter_the_numbers_and_all_are_counted(study):
    folder, facts = study
    row, _ = facts["costs"]
    counts = {
        name: row[name] for name in ("accepted", "rejected", "refused", "unparsable", "failed", "scored")
    }
    assert counts == {"accepted": 5, "rejected": 4, "refused": 1, "unparsable": 1, "failed": 1, "scored": 7}
    assert (row["cost_usd"], row["cost_known"], row["cost_a_pair"]) == (11 * 0.25, 11, 0.25)
    everything = facts["scores_all"][0]
    assert everything["judged"] == 9
    assert everything["precision"] == pytest.approx(3 / 5)
    assert everything["recall"] == pytest.approx(3 / 5)
    assert everything["auroc"] == pytest.approx(10 / 12)  # 4 x 3 ordered pairs of scores, 2 out of order
    assert everything["kappa"] == pytest.approx((5 / 9 - 41 / 81) / (1 - 41 / 81), abs=1e-6)
    hard = facts["scores_hard"][0]
    assert hard["judged"] == 6  # of the hard negatives one is decided
    assert hard["precision"] == pytest.approx(3 / 4)
    shares = facts["groups"][0]
    assert shares["accepted: same subject"] == pytest.approx(3 / 5)
    assert shares["accepted: other class"] == pytest.approx(1 / 3)
    told = [row for row in rows(folder / "verdicts.csv") if row["curator"] == "one"]
    assert [row["status"] for row in told] == [said.split()[0] for _, said in SAID]


def test_the_first_curator_is_what_the_others_are_compared_with(study):
    _, facts = study
    first, second = facts["scores_all"]
    assert "ahead" not in first
    assert (second["ahead"], second["ahead_low"], second["ahead_high"]) == (0, 0, 0), "only shifted"


def test_every_form_of_the_report_says_the_same(study):
    folder, facts = study
    assert json.loads((folder / "report.json").read_text()) == json.loads(json.dumps(facts))
    told = rows(folder / "scores_all.csv")
    assert [float(row["auroc"]) for row in told] == [row["auroc"] for row in facts["scores_all"]]
    page, text = check((folder / "report.html").read_text()), (folder / "report.md").read_text()
    for row in facts["scores_all"]:
        wanted = f"{row['recall']:.2f} ({row['recall_low']:.2f} to {row['recall_high']:.2f})"
        assert wanted in page.text
        assert wanted in text
    for drawing in folder.glob("plots/*.svg"):
        ElementTree.parse(drawing)
        assert f"plots/{drawing.name}" in text
    with Image.open(folder / "plots" / "curves.png") as drawn:
        assert min(drawn.size) > 400
    points = rows(folder / "curves.csv")
    assert {(p["curator"], p["part"]) for p in points} == set(
        itertools.product(("one", "two"), ("all", "hard"))
    )


def test_the_page_of_mistakes_shows_the_worst_first(study):
    folder, _ = study
    found = check((folder / "mistakes.html").read_text())
    assert len(found.images) == 2 * 2 * (2 + 2)
    order = [found.text.index(f"because subject {i} ") for i in (5, 10, 2, 11)]
    assert order == sorted(order), "accepted by falling score, those without one last; then rejected likewise"
    assert "0.700" in found.text
    assert "no score" in found.text


def test_a_photograph_that_lies_on_its_side_is_shown_upright(tmp_path):
    lying = Image.effect_noise((300, 200), 60).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 6
    lying.save(tmp_path / "lying.jpg", exif=exif)
    with Image.open(tmp_path / "lying.jpg") as turned:
        turned.load()
    pairs = [Pair(reference=turned, target=picture(i), caption="accepted 1") for i in (0, 1)]
    labels = tuple(Label(pair_id=x.id, same=i == 0) for i, x in enumerate(pairs))
    given = LabelledPairs(
        source="x", truth="x", labels=labels, load=lambda ids: ((x.id, x) for x in pairs if x.id in ids)
    )
    compare_curators(given, tmp_path / "out", {"one": Scripted()}, resamples=20, progress=False)
    shown = check((tmp_path / "out" / "mistakes.html").read_text()).images[0]
    assert int(shown["height"]) / int(shown["width"]) == pytest.approx(3 / 2, abs=0.01)


def test_names_too_long_for_a_drawing_stay_apart(tmp_path):
    names = [f"embedding {'x' * 80} {kind} {'y' * 80}" for kind in ("one", "two")]
    compare_curators(
        scripted_pairs(), tmp_path, {name: Scripted(bias=float(i)) for i, name in enumerate(names)},
        resamples=20, progress=False,
    )  # fmt: skip
    for name, letters in (("auroc", 20), ("roc_all", 44)):
        drawn = ElementTree.parse(tmp_path / "plots" / f"{name}.svg").getroot().itertext()
        shown = [text for text in drawn if text.startswith("embed")]
        assert len(set(shown)) == 2
        assert max(map(len, shown)) <= letters


def test_mistakes_are_sorted_by_how_far_off_they_are():
    said = {0.2: False, 0.9: False, 0.5: False, None: False, 0.6: True, 0.1: True, 0.4: True}
    verdicts = [Verdict(keep=not same, score=score) for score, same in said.items()]
    labels = tuple(Label(pair_id=str(i), same=same) for i, same in enumerate(said.values()))
    pairs = LabelledPairs(source="x", truth="x", labels=labels, load=lambda ids: iter(()))
    (entry,) = entries({"one": Scripted()})
    timed = [Timed(pair_id=str(i), verdict=verdict, seconds=0.1) for i, verdict in enumerate(verdicts)]
    found = mistakes(pairs, Verdicts(entry=entry, timed=timed))
    assert found.accepted == [1, 2, 0, 3]
    assert found.rejected == [5, 6, 4]


def test_what_names_reasons_and_groups_say_is_shown_and_not_obeyed(tmp_path):
    pairs = scripted_pairs(subject=EVIL)
    labels = tuple(
        Label(pair_id=x.pair_id, same=x.same, group=EVIL if not x.same else "same subject", subjects=(EVIL,))
        for x in pairs.labels
    )
    pairs = LabelledPairs(source=EVIL, truth=EVIL, labels=labels, load=pairs.load, hard=EVIL)
    long = Scripted()
    long.note = EVIL + "x" * 100_000  # not in its spec, which is shown as it is
    compare_curators(pairs, tmp_path, {f"{EVIL} $x_1^2$ _": long}, resamples=20, progress=False)
    for name in ("report.html", "mistakes.html"):
        text = (tmp_path / name).read_text()
        found = check(text)
        assert all(image["src"].startswith("data:image/") for image in found.images)
        assert "alert('x')" in found.text
        assert "x" * 700 not in text, "a reason is cut"
    assert "<script" not in (tmp_path / "report.md").read_text()
    for drawing in tmp_path.glob("plots/*.svg"):
        ElementTree.parse(drawing)


class PowerFailureError(BaseException):
    """Nothing that a program could catch."""


def test_stopped_anywhere_it_goes_on_and_asks_for_nothing_twice(study, tmp_path):
    whole, _ = study
    pairs, curator, judge = scripted_pairs(), Scripted(), Scripted.judge
    stops = iter((3, 8, 13))
    stop_at = next(stops)

    def failing(self, pair):
        if len(self.seen) >= stop_at:
            raise PowerFailureError
        return judge(self, pair)

    Failing = type(
        "Scripted", (Scripted,), {"judge": failing, "__qualname__": "Scripted", "__module__": __name__}
    )
    curator = Failing()
    for _ in range(4):
        try:
            compare_curators(pairs, tmp_path, {"one": curator}, batch_size=2, resamples=50, progress=False)
            break
        except PowerFailureError:
            stop_at = next(stops, 1000)
    assert len(set(curator.seen)) == len(SAID)
    assert len(curator.seen) <= len(SAID) + 3, "at most the running batch again, at each stop"
    ours = [row["status"] + row["score"] for row in rows(tmp_path / "verdicts.csv")]
    theirs = [row["status"] + row["score"] for row in rows(whole / "verdicts.csv") if row["curator"] == "one"]
    assert ours == theirs


def test_a_second_call_asks_only_what_is_missing(tmp_path):
    pairs, first, second = scripted_pairs(), Scripted(), Scripted(bias=2.0)
    given = {"resamples": 20, "progress": False}
    facts = compare_curators(pairs, tmp_path, {"one": first}, **given)
    compare_curators(pairs, tmp_path, {"one": first, "two": second}, **given)
    assert len(first.seen) == len(second.seen) == len(SAID)
    again = compare_curators(pairs, tmp_path, {"one": first}, retry_failed=True, **given)
    assert len(first.seen) == len(SAID) + 1
    assert again["scores_all"] == facts["scores_all"]
    assert not list(tmp_path.rglob("*.tmp"))


class Paid(Scripted):
    """Has a budget, keeps answers, and can have more pairs in hand than a batch of the study."""

    pairs_at_once = 7

    def __init__(self, max_cost_usd: float | None = None, rpm: int | None = None, bias: float = 0.0) -> None:
        super().__init__(bias)
        self.told, self.batches, self.closed = [], [], 0

    def judge_batch(self, pairs):
        self.batches.append(len(pairs))
        return [Verdict(status=x.status, score=x.score, raw="long " * 1000) for x in map(self.judge, pairs)]

    def judge(self, pair):
        return super().judge(pair) if not pair.caption.startswith("failed") else Verdict(status="failed")

    def keep_answers(self, path):
        self.told.append(path)

    def close(self):
        self.closed += 1


def test_a_larger_budget_goes_on_with_the_same_verdicts(tmp_path):
    """What a stop at `max_cost_usd` leaves is taken up by the same command with another budget."""
    pairs, first, second = scripted_pairs(), Paid(max_cost_usd=1.0), Paid(max_cost_usd=2.0, rpm=60)
    (one,), (two,) = entries([first]), entries([second])
    assert (one.name, one.spec) == (two.name, two.spec)
    assert entries([Paid(bias=1.0, rpm=7)])[0].name == "Paid bias=1.0"
    given = {"resamples": 20, "progress": False}
    facts = compare_curators(pairs, tmp_path, [first], batch_size=2, **given)
    assert compare_curators(pairs, tmp_path, [second], **given)["scores_all"] == facts["scores_all"]
    assert (len(first.seen), len(second.seen)) == (len(SAID) - 1, 0)  # one fails before it is seen
    assert first.batches == [7, 5]
    assert first.told == second.told == [tmp_path / "answers.sqlite"]
    assert first.closed == 0, "it is the caller's"


def test_a_curator_built_from_a_spec_is_closed_also_when_it_fails(table, tmp_path, monkeypatch):
    closed = []
    monkeypatch.setattr(HistogramCurator, "close", lambda self: closed.append(self))
    given = {"resamples": 20, "progress": False}
    compare_curators(table(*GOOD), tmp_path / "out", "histogram", **given)
    assert len(closed) == 1
    monkeypatch.setattr(HistogramCurator, "judge_some", lambda self, pairs: [])
    with pytest.raises(ValueError, match="HistogramCurator gave 0 verdicts for 3 pairs"):
        compare_curators(table(*GOOD), tmp_path / "other", "histogram", **given)
    assert len(closed) == 2


def test_raw_answers_stay_on_the_disk(tmp_path):
    pairs = scripted_pairs()
    (entry,) = entries({"one": Paid()})
    said = judge_missing(tmp_path, entry, pairs, progress=False)
    assert {x.verdict.raw for x in said.values()} == {""}
    assert {x.verdict.raw for x in verdicts_of(tmp_path, entry)} == {"long " * 1000}


def test_curators_are_compared_on_the_pairs_that_both_scored():
    """The second refuses what it finds hard; on the rest it is no better than the first."""
    pairs, x = scripted_pairs(), judged(12, seed=1)
    labels = tuple(Label(pair_id=str(i), same=bool(same)) for i, same in enumerate(x.same))
    pairs = LabelledPairs(source="x", truth="x", labels=labels, load=pairs.load)
    hard = {int(i) for i in np.flatnonzero(x.same)[:2]} | {int(np.flatnonzero(~x.same)[-1])}
    scores = {i: -5.0 if i in hard and x.same[i] else float(score) for i, score in enumerate(x.scores)}
    found = []
    for refused in (set(), hard):
        said = [
            Verdict(status="refused") if i in refused else Verdict(keep=scores[i] > 0, score=scores[i])
            for i in range(12)
        ]
        (entry,) = entries({f"refuses {len(refused)}": Scripted()})
        timed = [Timed(pair_id=str(i), verdict=verdict, seconds=0.1) for i, verdict in enumerate(said)]
        found.append(Verdicts(entry=entry, timed=timed))
    first, second = Results(pairs, found, count=50).scores["all"]
    assert second["auroc"] > first["auroc"] + 0.05
    assert (second["ahead"], second["ahead_low"], second["ahead_high"]) == (0, 0, 0)
    backwards = Results(pairs, found[::-1], count=50).scores["all"][1]
    assert backwards["ahead"] == 0


def test_another_spec_or_other_pairs_are_refused(tmp_path):
    pairs, given = scripted_pairs(), {"resamples": 20, "progress": False}
    compare_curators(pairs, tmp_path, {"one": Scripted()}, **given)
    before = {path: path.read_bytes() for path in tmp_path.rglob("part-*")}
    with pytest.raises(
        ValueError, match=r"verdicts of 'one' by another spec: bias was None, now 1.0. Give this"
    ):
        compare_curators(pairs, tmp_path, {"one": Scripted(bias=1.0)}, **given)
    for changed in (
        pairs.labels[1:],
        (Label(pair_id=pairs.labels[0].pair_id, same=False, group="same class"), *pairs.labels[1:]),
    ):
        other = LabelledPairs(source="x", truth="x", labels=changed, load=pairs.load, hard="same class")
        with pytest.raises(ValueError, match="begun with other arguments: pairs was '12 labelled pairs"):
            compare_curators(other, tmp_path, {"one": Scripted()}, **given)
    assert {path: path.read_bytes() for path in tmp_path.rglob("part-*")} == before
    with lock(tmp_path, "another"), pytest.raises(LockedError):
        compare_curators(pairs, tmp_path, {"one": Scripted()}, **given)


def test_names_come_from_specs_and_must_differ():
    found = entries(["heuristic", {"name": "histogram", "crop": 0.25}, "histogram"])
    assert [x.name for x in found] == ["heuristic", "histogram crop=0.25", "histogram"]
    assert [x.name for x in entries("heuristic, histogram")] == ["heuristic", "histogram"]
    assert [x.spec for x in entries({"a": {"name": "histogram", "low": 0.5}})] == [
        {"name": "histogram", "low": 0.5}
    ]
    assert [x.name for x in entries({"name": "histogram", "low": 0.5})] == ["histogram low=0.5"]
    assert "batch_size" not in entries([{"name": "embedding", "batch_size": 3}])[0].spec
    for wrong, error, message in (
        ([], ValueError, "There is no curator"),
        (["heuristic", "heuristic"], ValueError, "Two curators are called 'heuristic'"),
        ("heuristik", LookupError, "Did you mean 'heuristic'"),
    ):
        with pytest.raises(error, match=message):
            entries(wrong)


# --- sources


@pytest.fixture
def table(tmp_path):
    """A table of pairs beside its pictures, and a function that writes it anew."""
    (tmp_path / "images").mkdir()
    for i in range(6):
        picture(100 + i).save(tmp_path / "images" / f"{i}.png")
    (tmp_path / "subjects.csv").write_text(
        "image,subject\n" + "".join(f"{i}.png,s{i // 2}\n" for i in range(6))
    )

    def write(*lines, head="reference,target,same_subject,kind"):
        (tmp_path / "pairs.csv").write_text("\n".join([head, *lines]) + "\n")
        return tmp_path / "pairs.csv"

    return write


GOOD = (
    "0.png,1.png,1,same subject",
    '2.png,4.png,0,"same class, other subject"',
    "1.png,5.png,0,other class",
)


def test_a_table_of_pictures_is_read(table, tmp_path):
    path = table(*GOOD, "3.png,5.png,unsure,other class")
    for source in (path, path.parent):
        found = labelled_pairs(source)
        assert [(x.same, x.group, x.subjects) for x in found.labels] == [
            (True, "same subject", ("s0",)),
            (False, "same class, other subject", ("s1", "s2")),
            (False, "other class", ("s0", "s2")),
        ]
        assert (found.hard, found.left_out) == ("same class, other subject", 1)
    pairs = dict(found.load([x.pair_id for x in found.labels]))
    told = {(x.subject, x.caption, x.kind, x.source, x.grid_id) for x in pairs.values()}
    assert told == {("", "", "object", tmp_path.name, "")}, "nothing that a judge may read tells the label"
    assert list(pairs) == [x.pair_id for x in found.labels]
    assert np.array_equal(np.asarray(pairs[found.labels[1].pair_id].target), np.asarray(picture(104)))
    assert list(dict(found.load({found.labels[2].pair_id}))) == [found.labels[2].pair_id]


def test_pairs_that_share_a_picture_are_drawn_together_where_subjects_are_unknown(table, tmp_path):
    (tmp_path / "subjects.csv").unlink()
    path = table(*GOOD, "0.png,4.png,0,other class")
    found = labelled_pairs(path)
    assert not any(x.subjects for x in found.labels)
    facts = compare_curators(path, tmp_path / "out", "histogram", resamples=20, progress=False)
    assert facts["pairs"]["resampled"] == 5  # pictures 0, 1, 2, 4 and 5
    assert "over 5 pictures;" in (tmp_path / "out" / "report.md").read_text()
    first, second, _, last = (set(x.pictures) for x in found.labels)
    assert (len(first & last), len(second & last), len(first & second)) == (1, 1, 0)


@pytest.mark.parametrize(
    ("subjects", "unit"),
    [
        ({"0": ("a", "b"), "1": ("c",)}, "3 subjects;"),
        ({"0": ("a",)}, "2 subjects and pairs;"),
        ({}, "2 pairs;"),
    ],
)
def test_the_report_says_what_the_intervals_are_over(subjects, unit):
    labels = tuple(Label(pair_id=i, same=i == "0", subjects=subjects.get(i, ())) for i in "01")
    pairs = LabelledPairs(source="x", truth="x", labels=labels, load=lambda ids: iter(()))
    (entry,) = entries({"one": Scripted()})
    timed = [Timed(pair_id=i, verdict=Verdict(keep=True, score=0.1), seconds=0.1) for i in "01"]
    found = tables(Results(pairs, [Verdicts(entry=entry, timed=timed)], count=10))
    assert f"over {unit}" in found["scores_all"].text


def test_a_pair_shows_two_at_most():
    with pytest.raises(ValueError, match="has 3 subjects: a, b, c"):
        Label(pair_id="x", same=False, subjects=("a", "b", "c"))


def test_a_table_with_other_columns_and_folders_is_read(table, tmp_path):
    (tmp_path / "subjects.csv").unlink()
    path = table(
        "images/0.png,images/1.png,Same,a,a", "images/2.png,images/4.png,different,b,c", head="x,y,z,u,v"
    )
    columns = {"reference": "x", "target": "y", "label": "z", "reference_subject": "u", "target_subject": "v"}
    found = labelled_pairs(path, columns=columns, images=tmp_path)
    assert [(x.same, x.group, x.subjects) for x in found.labels] == [
        (True, "", ("a",)),
        (False, "", ("b", "c")),
    ]
    assert found.hard == ""


@pytest.mark.parametrize(
    ("lines", "given", "message"),
    [
        (("0.png,9.png,1,x",), {}, r"1 pictures that cannot be used: 9.png: No such file"),
        (("0.png,../secret.png,1,x",), {}, r"../secret.png: leads out of the folder"),
        (("0.png,/etc/passwd,1,x",), {}, r"/etc/passwd: leads out of the folder"),
        (
            ("0.png,1.png,perhaps,x",),
            {},
            r"line 2, column 'same_subject': 'perhaps' is no label. Allowed: same",
        ),
        (("0.png,,1,x",), {}, r"line 2 does not name two pictures"),
        ((*GOOD, GOOD[0]), {}, r"line 5 shows the same two pictures as line 2"),
        (("0.png,2.png,1,x",), {}, r"line 2 says '1', but the pictures show 's0' and 's1'"),
        ((GOOD[0],), {}, r"has 1 pairs of the same subject and 0 of different ones"),
        (
            GOOD,
            {"columns": {"label": "truth"}},
            r"no column 'truth'. It has: reference, target, same_subject, kind",
        ),
        (GOOD, {"columns": {"group": "gruop"}}, r"no column 'gruop'"),
        (GOOD, {"columns": {"picture": "x"}}, r"`columns` names 'picture'. Allowed: reference, target"),
        (
            GOOD,
            {"hard": "twins"},
            r"no different pairs of the group 'twins'. Groups: other class, same class",
        ),
        (GOOD, {"labels": "x.csv"}, r"`labels` go with a run"),
    ],
)
def test_a_table_that_cannot_be_used_says_where(table, lines, given, message):
    path = table(*lines)
    with pytest.raises(ValueError, match=message):
        labelled_pairs(path, **given)


def test_pictures_that_are_damaged_or_bombs_are_found_before_anything_is_judged(table, tmp_path):
    path = table(*GOOD)
    file = tmp_path / "images" / "4.png"
    file.write_bytes(file.read_bytes()[:900])
    curator = Scripted()
    with pytest.raises(ValueError, match=r"4.png: .*truncated"):
        compare_curators(path, tmp_path / "out", {"one": curator}, progress=False)
    assert not curator.seen
    file.write_bytes(png_bomb(8_000))
    with pytest.raises(ValueError, match=r"names 1 pictures.*4.png: .*at most 50,000,000 pixels"):
        labelled_pairs(path)
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        labelled_pairs(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError, match="no table of subjects"):
        labelled_pairs(path, subjects=tmp_path / "nothing.csv")


def test_characters_that_are_drawn_have_known_labels():
    found = labelled_pairs("mini")
    kinds = [x.group for x in found.labels]
    assert [kinds.count(kind) for kind in ("same character", "relative", "other character")] == [120, 60, 60]
    assert (found.hard, labelled_pairs("mini").digest) == ("relative", found.digest)
    pairs = dict(found.load([x.pair_id for x in found.labels]))
    some = found.labels[:120]
    alike = np.array(
        [identity(measure(pairs[x.pair_id].reference), measure(pairs[x.pair_id].target)) for x in some]
    )
    group = np.array([x.group for x in some])
    assert (alike[group == "same character"] >= SAME).mean() > 0.9
    assert (alike[group == "other character"] < SAME).all()
    positive, negative = alike[group == "same character"], alike[group == "relative"]
    area = mannwhitneyu(positive, negative).statistic / (len(positive) * len(negative))
    assert area > 0.9, "the measure, which sees only pixels, puts relatives below"
    with pytest.raises(ValueError, match="are drawn here"):
        labelled_pairs("mini", hard="twins")


@pytest.fixture
def run(tmp_path):
    return make_run(tmp_path / "run", count=3, size=128, curator=None)


def test_a_run_is_labelled_by_measurement(tmp_path, monkeypatch):
    """Grids of the renderer: in each, panels 0 and 1 show one character, and 2 and 3 two others."""
    rng, of_grid = random.Random(0), {}

    class Renderer(teachers.Teacher):
        batch_size = 8

        def draw(self, prompts, seeds):
            drawn = []
            for prompt, seed in zip(prompts, seeds, strict=True):
                one, two, three = (world.sample_character(rng) for _ in range(3))
                panels = [render.render_image(x, world.sample_context(rng)) for x in (one, one, two, three)]
                of_grid[prompt.id] = panels
                image = grids.compose(panels, prompt.layout)
                drawn.append(Grid(image=image, prompt=prompt, seed=seed, teacher="renderer"))
            return drawn

    run = dsd.Run(tmp_path / "run")
    dsd.write_prompts(run, count=5, progress=False)
    dsd.draw_grids(run, teacher=Renderer(), progress=False)
    dsd.make_pairs(run, progress=False)
    found = labelled_pairs(run, workers=1)
    monkeypatch.setattr("dsd.studies.curators_pairs._MEASURED_AT_ONCE", 3)
    assert labelled_pairs(run, workers=1).labels == found.labels
    assert found.units == "grids"
    drawn = dict(run.pairs.items())
    truth = {i: {p.reference_panel, p.target_panel} == {0, 1} for i, p in drawn.items()}
    assert sum(truth.values()) == 10
    assert np.mean([truth[x.pair_id] == x.same for x in found.labels]) > 0.9
    for x in found.labels:
        pair = drawn[x.pair_id]
        assert x.same == (identity(measure(pair.reference), measure(pair.target)) >= SAME)
        assert x.subjects == (pair.grid_id,)


def test_a_run_of_other_sizes_needs_labels_of_people(tmp_path):
    run = make_run(tmp_path / "run", count=1, size=64, curator=None)
    with pytest.raises(ValueError, match=r"panels of \(32, 32\) px, not 64 x 64.*Give `labels`"):
        labelled_pairs(run.path)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_what_people_said_of_a_run_is_read(run, tmp_path, kind):
    ids = run.pairs.ids()
    said = [
        *[(ids[0], "same"), (ids[1], "different"), (ids[2], "unsure")],
        *[(ids[3], "same"), (ids[3], "same"), (ids[3], "different")],  # most say so
        *[(ids[4], "same"), (ids[4], "different")],  # nobody knows
    ]
    path = tmp_path / f"labels.{kind}"
    if kind == "csv":
        path.write_text("pair_id,label\n" + "".join(f"{i},{x}\n" for i, x in said))
    else:
        pq.write_table(pa.table({"pair_id": [i for i, _ in said], "label": [x for _, x in said]}), path)
    found = labelled_pairs(run.path, labels=path)
    assert {x.pair_id: x.same for x in found.labels} == {ids[0]: True, ids[1]: False, ids[3]: True}
    assert found.left_out == 2
    grid_of = {i: pair.grid_id for i, pair in run.pairs.items()}
    assert all(x.subjects == (grid_of[x.pair_id],) for x in found.labels)
    assert dict(found.load({ids[1]}))[ids[1]].id == ids[1]
    path = tmp_path / "bad.csv"
    for text, message in (
        ("pair_id,label\nnobody,same\n", "labels 1 pairs that .* does not have, such as 'nobody'"),
        (f"pair_id,label\n{ids[0]},maybe\n", "row 1: 'maybe' is no label"),
        (f"id,label\n{ids[0]},same\n", "no column 'pair_id'. It has: id, label"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            labelled_pairs(run.path, labels=path)
    path.write_bytes(b"pair_id,label\n\xff\xfe,same\n")
    with pytest.raises(ValueError, match="is no CSV file in UTF-8"):
        labelled_pairs(run.path, labels=path)
    path.write_text(f"pair_id,label\n{'x' * 200_000},same\n")
    with pytest.raises(ValueError, match="is no CSV file in UTF-8: field larger than"):
        labelled_pairs(run.path, labels=path)
    (tmp_path / "bad.parquet").write_bytes(b"no table")
    with pytest.raises(ValueError, match=r"is no Parquet file .*called \.csv"):
        labelled_pairs(run.path, labels=tmp_path / "bad.parquet")
    with pytest.raises(FileNotFoundError, match="no such file"):
        labelled_pairs(run.path, labels=tmp_path / "none.csv")


def test_what_was_judged_before_the_money_was_spent_is_kept(tmp_path):
    from dsd.llm.records import Stopped

    class Costly(Scripted):
        def judge_some(self, pairs):
            verdicts = super().judge_batch(pairs[:3])
            return [*verdicts, *(Stopped("the money is spent") for _ in pairs[3:])]

    pairs, curator = scripted_pairs(), Costly()
    with pytest.raises(Stopped, match="spent"):
        compare_curators(pairs, tmp_path, {"one": curator}, progress=False)
    assert len(curator.seen) == 3
    cheap = Scripted()
    Costly.judge_some = lambda self, given: cheap.judge_batch(given)
    compare_curators(pairs, tmp_path, {"one": curator}, resamples=20, progress=False)
    assert sorted(curator.seen + cheap.seen) == sorted(x.pair_id for x in pairs.labels)


def test_a_price_that_is_unknown_is_not_zero():
    class Free(Scripted):
        free = True

        def judge(self, pair):
            return Verdict(keep=True)

    class Unknown(Free):
        free = False

    pairs = scripted_pairs()
    found = []
    for curator in (Free(), Unknown()):
        (entry,) = entries({"one": curator})
        timed = [Timed(pair_id=x.pair_id, verdict=curator.judge(None), seconds=0.5) for x in pairs.labels]
        (row,) = Results(pairs, [Verdicts(entry=entry, timed=timed)], count=10).costs
        found.append((row["cost_usd"], row["cost_known"], row["seconds_a_pair"]))
    assert found == [(0, 12, 0.5), (None, 0, 0.5)]


def test_the_command(table, tmp_path, capsys, caplog):
    path = table(*GOOD)
    out = tmp_path / "out"
    given = [
        "study",
        "curators",
        "--pairs",
        str(path),
        "--out",
        str(out),
        "--no_progress",
        "--resamples",
        "20",
    ]
    spec = "[heuristic, {name: histogram, crop: 0.25}]"
    assert main([*given, "--curators", spec]) == 0
    assert capsys.readouterr().out.strip() == str(out / "report.html")
    assert [row["curator"] for row in rows(out / "scores_all.csv")] == ["heuristic", "histogram crop=0.25"]
    assert main([*given, "--curators", "{mine: {name: histogram, low: 0.5}}", "--columns.group", "kind"]) == 0
    assert [row["curator"] for row in rows(out / "scores_all.csv")] == ["mine"]
    assert main([*given, "--curators", "heuristic,histogram", "--hard", "other class"]) == 2
    assert "begun with other arguments" in capsys.readouterr().err
    for wrong, message in (
        (["--run", "r"], "--run is no option of `dsd study curators`"),
        (["--seeds", "4"], "--seeds is no option of `dsd study curators`"),
        (["--curators", "heuristik"], "Did you mean 'heuristic'"),
    ):
        assert main([*given, *wrong]) == 2
        assert message in capsys.readouterr().err
    assert main(["study", "curators", "--out", "x"]) == 2
    assert "--pairs must be given" in capsys.readouterr().err
    assert main(["study", "architectures", "--out", "x"]) == 2
    assert "--run must be given" in capsys.readouterr().err
    assert main(["study", "architectures", "--out", "x", "--run", "r", "--mistakes", "3"]) == 2
    assert "--mistakes is no option of `dsd study architectures`" in capsys.readouterr().err


def test_every_argument_is_an_option():
    found = {option.name: option for option in options.read("dsd.cli.study:study")[1]}
    for name, parameter in inspect.signature(compare_curators).parameters.items():
        assert name in found
        if name not in ("pairs", "out"):
            assert found[name].default == parameter.default, name
