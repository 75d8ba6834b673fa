"""The comparison's figures and their intervals against loops over resamples."""

import math

import numpy as np
import pytest

from dsd.evaluation import bootstrap
from dsd.evaluation.comparison.figures import Averages


def ragged(seed=0):
    rng = np.random.default_rng(seed)
    subjects = [f"s{i}" for i in range(12) for _ in range(rng.integers(1, 6))]
    categories = ["a" if int(x[1:]) < 3 else "b" for x in subjects]
    kinds = [f"k{i % 3}" for i in range(len(subjects))]
    values = rng.normal(0.5, 0.2, len(subjects)) + np.array([0.05 * int(x[1:]) for x in subjects])
    values[rng.random(len(subjects)) < 0.15] = np.nan
    return subjects, categories, kinds, values


@pytest.mark.parametrize("average", ["micro", "macro"])
def test_means_and_intervals_are_those_of_a_loop_over_resamples(average):
    subjects, categories, kinds, values = ragged()
    figure = Averages(subjects, categories, kinds, average, resamples=400, seed=3).figure(values)

    def mean(rows):
        if average == "micro":
            found = [values[i] for i in rows if not math.isnan(values[i])]
            return sum(found) / len(found)
        groups = {
            c: [values[i] for i in rows if categories[i] == c and not math.isnan(values[i])] for c in "ab"
        }
        return np.mean([sum(x) / len(x) for x in groups.values() if x])

    every = range(len(values))
    assert figure.value == pytest.approx(mean(every))
    assert (figure.n, figure.missing) == (int(np.isfinite(values).sum()), int(np.isnan(values).sum()))
    names = list(dict.fromkeys(subjects))
    rows_of = {name: [i for i in every if subjects[i] == name] for name in names}
    rng, found = np.random.default_rng(3), []
    for pick in rng.integers(0, len(names), (400, len(names))):
        found.append(mean([i for number in pick for i in rows_of[names[number]]]))
    assert figure.interval == pytest.approx(tuple(np.quantile(found, [0.025, 0.975])))


def test_on_equal_clusters_intervals_are_those_of_the_older_bootstrap():
    values = np.random.default_rng(1).random((20, 4))
    subjects = [f"s{i}" for i in range(20) for _ in range(4)]
    ours = Averages(subjects, [""] * 80, [""] * 80, seed=5).figure(values.ravel())
    theirs = bootstrap.interval(lambda mean: mean, values, picks=bootstrap.resamples(20, seed=5))
    assert ours.interval == pytest.approx(theirs)


def test_groups_have_figures_of_their_own():
    subjects, categories, kinds, values = ragged(2)
    averages = Averages(subjects, categories, kinds)
    figure = averages.figure(values)
    for key, found in figure.by_kind.items():
        rows = np.array(kinds) == key
        assert found.value == pytest.approx(np.nanmean(values[rows]))
        assert found.n + found.missing == rows.sum()
    assert list(figure.by_category) == ["a", "b"]
    assert sum(x.n for x in figure.by_category.values()) == figure.n
    plain = Averages(subjects, [""] * len(subjects), kinds).figure(values)
    assert plain.by_category == {}


def test_empty_groups_have_no_number_and_are_counted():
    values = np.array([np.nan, np.nan, 0.5, 0.7])
    figure = Averages(["s", "s", "t", "u"], ["a", "a", "b", "b"], [""] * 4).figure(values)
    empty = figure.by_category["a"]
    assert (empty.value, empty.interval, empty.n, empty.missing) == (None, None, 0, 2)
    nothing = Averages(["s", "t"], ["", ""], ["", ""]).figure(np.array([np.nan, np.nan]))
    assert (nothing.value, nothing.interval) == (None, None)
    assert (
        Averages(["s", "s"], ["", ""], ["", ""]).figure(np.array([0.1, 0.9])).interval is None
    )  # one subject
    with pytest.raises(ValueError, match="no picture to average"):
        Averages([], [], [])


def test_the_product_is_of_means_and_its_parts_are_resampled_together():
    subjects, categories, kinds, values = ragged(4)
    averages = Averages(subjects, categories, kinds, resamples=300, seed=1)
    other = 1 - np.nan_to_num(values, nan=0.3)
    product = averages.product(values, other)
    assert product.value == pytest.approx(np.nanmean(values) * other.mean())
    assert product.value != pytest.approx(np.nanmean(values * other))
    names, rng = list(dict.fromkeys(subjects)), np.random.default_rng(1)
    found = []
    for pick in rng.integers(0, len(names), (300, len(names))):
        rows = [i for n in pick for i in range(len(subjects)) if subjects[i] == names[n]]
        found.append(np.nanmean(values[rows]) * other[rows].mean())
    assert product.interval == pytest.approx(tuple(np.quantile(found, [0.025, 0.975])))
