"""The study of curators: its numbers against other implementations and by hand."""

import random

import numpy as np
import pytest
import torch
from scipy.stats import mannwhitneyu
from torchmetrics.functional import classification

from dsd.evaluation import bootstrap
from dsd.studies.curators_scores import Judged, Resampler, curves, interval, resampled, weighted
from dsd.studies.curators_scores import measure as numbers
from tests.curators_study import judged

NUMBERS = ("precision", "recall", "f1", "auroc", "kappa")


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
