"""The study of judges: its numbers against scipy, loops and the plain bootstrap."""

import itertools

import numpy as np
import pytest
from scipy import stats

from dsd.metrics.functional import krippendorff_alpha
from dsd.studies import RatedItems, Scores, compare_judges
from dsd.studies.judge_results import JudgeResults, JudgeScores
from tests.judge_study import NAN, check, noisy, row, vars_of


def results(items, count=50, seed=0):
    judged = [JudgeScores(name=name, scores=x, spec={}) for name, x in items.stored.items()]
    return JudgeResults(items, judged, count=count, seed=seed)


@pytest.mark.parametrize("level", ["interval", "ordinal", "nominal"])
def test_numbers_are_those_of_scipy_and_loops(level):
    items = noisy()
    items = RatedItems(**{**vars_of(items), "level": level})
    there = ~np.isnan(items.people)
    mean = np.where(there.any(0), np.nansum(items.people, axis=0) / np.maximum(there.sum(0), 1), NAN)
    for name, scores in items.stored.items():
        found = row(results(items, 3).agreement, "all", name)
        both = np.isfinite(scores.values) & np.isfinite(mean)
        for kind, function in (
            ("pearson", stats.pearsonr),
            ("spearman", stats.spearmanr),
            ("kendall", stats.kendalltau),
        ):
            assert found[kind] == pytest.approx(function(scores.values[both], mean[both])[0], abs=1e-9), kind
        low, high = scores.range or (scores.values.min(), scores.values.max())
        unit = (scores.values - low) / (high - low)
        alphas = [krippendorff_alpha(np.stack([unit, rater / 4]), level).item() for rater in items.people]
        assert found["alpha"] == pytest.approx(np.mean(alphas), abs=1e-9)
        assert found["items"] == both.sum()
        assert found["missing"] == pytest.approx(1 - both.sum() / np.isfinite(mean).sum())
    people = row(results(items, 3).agreement, "all", "people")
    assert people["alpha"] == pytest.approx(krippendorff_alpha(items.people / 4, level).item())
    one, other = items.people
    shared = np.isfinite(one + other)
    assert people["spearman"] == pytest.approx(stats.spearmanr(one[shared], other[shared])[0])


def test_intervals_are_those_of_the_plain_bootstrap_over_subjects():
    items = noisy(share=0.0)
    found = results(items, 400)
    picks = np.concatenate([weights for weights in found._resampler.weights()])
    assert set(picks.sum(1)) == {60.0}
    assert all((picks[:, i] == picks[:, i - i % 5]).all() for i in range(60))  # subjects come whole
    mean = items.people.mean(0)
    drawn = [
        stats.spearmanr(
            np.repeat(items.stored["good"].values, times.astype(int)), np.repeat(mean, times.astype(int))
        )[0]
        for times in picks
    ]
    wanted = np.quantile(drawn, [0.025, 0.975])
    line = row(found.agreement, "all", "good")
    assert [line["spearman_low"], line["spearman_high"]] == pytest.approx(wanted, abs=1e-9)
    other = row(found.agreement, "all", "bad")
    assert other["ahead"] == pytest.approx(other["spearman"] - line["spearman"])
    assert other["ahead_high"] < 0
    assert "ahead" not in line


def test_the_mean_over_groups_is_on_fishers_scale():
    found = results(noisy(), 5)
    for line in found.averages:
        values = [row(found.agreement, part, line["judge"])["spearman"] for part in ("one", "other")]
        assert line["spearman"] == pytest.approx(np.tanh(np.mean(np.arctanh(values))))


def test_people_by_score_are_means_of_the_items_with_that_score():
    values = np.array([0.0, 1, 1, 2, 2, 2, NAN, 0])
    people = np.array([[0.0, 1, 2, 2, 3, 4, 4, NAN], [0, 3, 2, 2, 3, 4, 4, NAN]])
    items = RatedItems(
        **{
            **vars_of(noisy(n=8)),
            "people": people,
            "groups": [""] * 8,
            "stored": {"judge": Scores(values=values, range=(0.0, 2.0))},
        }
    )
    found = results(items, 20).by_score
    assert [(x["score"], x["items"], x["people"], x["at"]) for x in found] == [
        ("0", 1, 0, 0),
        ("1", 2, 2, 0.5),
        ("2", 3, 3, 1),
    ]
    many = results(noisy(n=60, share=0.0), 5).by_score
    good = [x for x in many if x["judge"] == "good"]
    assert [x["items"] for x in good] == [12] * 5
    assert all(a["to"] < b["from"] for a, b in itertools.pairwise(good))
    assert good[0]["people"] < good[-1]["people"]


def test_numbers_without_a_value_are_none(tmp_path):
    """One rater, one group of a single item, and a judge that says the same of all."""
    items = RatedItems(
        **{
            **vars_of(noisy(n=6, raters=1, share=0.0)),
            "groups": ["a"] * 5 + ["b"],
            "stored": {"flat": Scores(values=np.full(6, 3.0)), "good": Scores(values=np.arange(6.0))},
        }
    )
    content = compare_judges(items, tmp_path / "out", resamples=10, progress=False)
    assert [x["judge"] for x in content["agreement"]] == ["flat", "good"]
    flat = row(content, "agreement", "flat")
    assert flat["spearman"] is flat["pearson"] is flat["kendall"] is None
    assert row(content, "agreement_2", "good")["spearman"] is None
    assert "spearman" not in row(content, "averages", "good")
    check(tmp_path / "out" / "report.html")
