"""Alpha, correlations and their means: published figures, laws, and other implementations."""

import csv

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import stats

from dsd.metrics import KrippendorffAlpha, MetricHumanAlignment
from dsd.metrics.functional import correlation, fisher_z_mean, human_alignment, krippendorff_alpha
from dsd.metrics.functional.agreement import LEVELS, resampled_alpha
from dsd.metrics.functional.correlation import KINDS, resampled_correlation
from dsd.metrics.metric_human_alignment import dreambench_key
from dsd.studies.judge_ratings import EMBEDDED
from tests.metrics.rating_cases import NAN, brute_alpha

SCIPY = {"pearson": stats.pearsonr, "spearman": stats.spearmanr, "kendall": stats.kendalltau}
TABLES = arrays.arrays(
    float, st.tuples(st.integers(2, 4), st.integers(2, 7)), elements=st.sampled_from([0.0, 1, 2, 3, 4, NAN])
)


def usable(table) -> bool:
    units = [column[~np.isnan(column)] for column in table.T]
    pool = [x for unit in units if len(unit) > 1 for x in unit]
    return len(set(pool)) > 1


def test_krippendorffs_own_example():
    """Four observers and twelve units; the figures of *Computing Krippendorff's Alpha-Reliability*."""
    table = [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, NAN, NAN, NAN],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, NAN, 3],
        [NAN, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, NAN],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, NAN],
    ]
    found = {level: round(krippendorff_alpha(table, level).item(), 3) for level in LEVELS}
    assert found == {"nominal": 0.743, "ordinal": 0.815, "interval": 0.849, "ratio": 0.797}


@given(TABLES, st.sampled_from(LEVELS))
def test_alpha_is_what_the_definition_says(table, level):
    assume(usable(table))
    assert krippendorff_alpha(table, level).item() == pytest.approx(brute_alpha(table, level), abs=1e-9)


@given(TABLES, st.sampled_from(LEVELS), st.integers(0, 10**6))
def test_alpha_does_not_depend_on_what_means_nothing(table, level, seed):
    assume(usable(table))
    rng, alpha = np.random.default_rng(seed), krippendorff_alpha(table, level).item()
    others = [
        table[rng.permutation(len(table))][:, rng.permutation(table.shape[1])],
        np.concatenate([table, np.full((len(table), 1), NAN)], axis=1),  # an item that nobody rated
        np.concatenate([table, np.full((1, table.shape[1]), NAN)]),  # a rater who rated nothing
        np.take_along_axis(table, np.argsort(rng.random(table.shape), axis=0), axis=0),  # who said what
        {
            "nominal": (table * 7 + 3) % 11,
            "ordinal": np.exp(table),
            "interval": -3 * table + 5,
            "ratio": 9 * table,
        }[level],
    ]
    for other in others:
        assert krippendorff_alpha(other, level).item() == pytest.approx(alpha, abs=1e-9)


@given(TABLES, st.sampled_from(LEVELS))
def test_alpha_is_one_if_and_only_if_all_agree(table, level):
    assume(usable(table))
    spread = [len(set(column[~np.isnan(column)])) for column in table.T]
    alpha = krippendorff_alpha(table, level).item()
    assert (alpha == pytest.approx(1, abs=1e-12)) == (max(spread) <= 1)
    assert alpha <= 1 + 1e-12


@pytest.mark.parametrize("level", LEVELS)
def test_what_has_no_alpha_is_an_error_and_no_number(level):
    for table in ([[0.1] * 5] * 3, [[0.1] * 10] * 3, [[0.3] * 1000] * 3, [[0.3, 0.3, NAN]] * 2):
        with pytest.raises(ValueError, match="All ratings are the same"):
            krippendorff_alpha(table, level)
        metric = KrippendorffAlpha(level)
        metric.update(table)
        with pytest.raises(ValueError, match="All ratings are the same"):
            metric.compute()
    with pytest.raises(ValueError, match="No item has two ratings"):
        krippendorff_alpha([[1, NAN], [NAN, 2]], level)
    with pytest.raises(ValueError, match=r"shape \(raters, items\); got \(3,\)"):
        krippendorff_alpha([1, 2, 3], level)
    with pytest.raises(ValueError, match="infinite"):
        krippendorff_alpha([[1, float("inf")], [1, 2]], level)


def test_levels_that_there_are_not():
    with pytest.raises(ValueError, match=r"'cardinal'\. Allowed: nominal, ordinal, interval, ratio"):
        krippendorff_alpha([[1, 2], [1, 2]], "cardinal")
    with pytest.raises(ValueError, match="'cardinal'"):
        KrippendorffAlpha("cardinal")
    with pytest.raises(ValueError, match="no rating is below 0; got -1"):
        krippendorff_alpha([[1, -1], [1, 2]], "ratio")


def test_interval_alpha_keeps_four_numbers_however_much_comes():
    rng = np.random.default_rng(0)
    table = rng.integers(0, 5, (3, 6000)).astype(float) + 1000
    metric = KrippendorffAlpha()
    for part in np.array_split(table, 40, axis=1):
        metric.update(part)
    assert all(state.numel() == 1 for state in metric.metric_state.values())
    assert metric.compute()["alpha"].item() == pytest.approx(krippendorff_alpha(table).item(), abs=1e-6)


@pytest.mark.parametrize("level", LEVELS)
def test_alpha_in_resamples_is_that_of_repeated_items(level):
    rng = np.random.default_rng(1)
    table = rng.integers(0, 4, (3, 20)).astype(float)
    table[rng.random(table.shape) < 0.25] = NAN
    times = rng.multinomial(20, [1 / 20] * 20, size=12)
    found = resampled_alpha(table, torch.tensor(times, dtype=torch.float64), level)
    for row, alpha in zip(times, found, strict=True):
        assert alpha.item() == pytest.approx(brute_alpha(np.repeat(table, row, axis=1), level), abs=1e-9)
    alike = resampled_alpha([[1.0, 2], [1, 2]], torch.tensor([[2.0, 0], [1, 1]]), level)
    assert torch.isnan(alike[0])
    assert alike[1] == 1


@pytest.mark.parametrize("kind", KINDS)
def test_correlations_are_scipys_in_resamples_too(kind):
    rng = np.random.default_rng(2)
    x = rng.integers(0, 5, 40).astype(float)
    y = x + rng.integers(-3, 4, 40)
    assert correlation(x, y, kind).item() == pytest.approx(SCIPY[kind](x, y)[0], abs=1e-12)
    times = rng.multinomial(40, [1 / 40] * 40, size=10)
    found = resampled_correlation(*(torch.tensor(v).double() for v in (x, y, times)), kind)
    for row, value in zip(times, found, strict=True):
        wanted = SCIPY[kind](np.repeat(x, row), np.repeat(y, row))[0]
        assert value.item() == pytest.approx(wanted, abs=1e-10)
    one = torch.zeros(1, 40, dtype=torch.float64)
    one[0, 3] = 40
    assert torch.isnan(resampled_correlation(torch.tensor(x), torch.tensor(y), one, kind)[0])


def test_correlations_that_have_no_value():
    for x, y, message in (
        ([1, 2], [1, 2, 3], "got 2 and 3"),
        ([1, NAN], [1, 2], "NaN or infinite"),
        ([1, 2], [3, 3], "All numbers of a column are 3"),
    ):
        with pytest.raises(ValueError, match=message):
            correlation(x, y)
    with pytest.raises(ValueError, match=r"'rank'\. Allowed: pearson, spearman, kendall"):
        correlation([1, 2], [1, 2], "rank")


def test_fisher_means_that_were_published():
    """NearID's mean over the seven methods of DreamBench++, of people, GPT, DINO and CLIP-I."""
    rows = {
        0.648: (0.684, 0.731, 0.651, 0.630, 0.763, 0.530, 0.485),
        0.597: (0.625, 0.722, 0.637, 0.466, 0.777, 0.424, 0.401),
        0.492: (0.611, 0.632, 0.446, 0.311, 0.774, 0.212, 0.261),
        0.493: (0.610, 0.623, 0.481, 0.290, 0.744, 0.262, 0.283),
    }
    for mean, values in rows.items():
        assert fisher_z_mean(values).item() == pytest.approx(mean, abs=1e-3)


def test_fisher_mean_is_not_what_viescore_prints():
    """It applied the inverse transform to correlations that had not been transformed."""
    values = [0.5521, 0.2051, 0.1210, 0.3185]
    assert round(float(np.tanh(np.mean(values))), 4) == 0.2906  # as printed
    assert round(fisher_z_mean(values).item(), 4) == 0.3097


def test_fisher_mean_with_weights_and_without_a_value():
    assert fisher_z_mean([0.2, 0.9], [1, 0]).item() == pytest.approx(0.2)
    wanted = np.tanh((3 * np.arctanh(0.2) + np.arctanh(0.9)) / 4)
    assert fisher_z_mean([0.2, 0.9], [3, 1]).item() == pytest.approx(wanted)
    assert 0.99 < fisher_z_mean([1.0, 1.0]).item() <= 1
    for r, weights, message in (
        ([], None, "no correlation"),
        ([0.1, NAN], None, r"in \[-1, 1\]"),
        ([1.2], None, r"in \[-1, 1\]"),
        ([0.1, 0.2], [1], "each of the 2"),
        ([0.1, 0.2], [0, 0], "not all 0"),
        ([0.1, 0.2], [1, -1], "0 or more"),
    ):
        with pytest.raises(ValueError, match=message):
            fisher_z_mean(r, weights)


def imagenhub(method):
    with EMBEDDED.open() as file:
        return [row for row in csv.DictReader(file) if row["method"] == method]


@pytest.mark.parametrize(
    ("method", "ordinal", "interval"), [("DreamBooth", 0.6392, 0.6352), ("TextualInversion", 0.5821, 0.6018)]
)
def test_alpha_of_imagenhubs_people(method, ordinal, interval):
    rows = imagenhub(method)
    table = np.array([[float(row[f"human{i}_sc"]) for row in rows] for i in (1, 2, 3)])
    for level, wanted in (("ordinal", ordinal), ("interval", interval)):
        assert round(krippendorff_alpha(table, level).item(), 4) == wanted
        metric = KrippendorffAlpha(level)
        for part in np.array_split(table, 7, axis=1):
            metric.update(part)
        assert round(metric.compute()["alpha"].item(), 4) == wanted


def test_scores_and_ratings_are_joined_by_key_and_never_by_order():
    keys = [f"object_{i:02d}_vase-{i % 9}" for i in range(20)]
    rng = np.random.default_rng(4)
    scores, people = rng.random(20), rng.integers(0, 5, (2, 20)).astype(float)
    wanted = human_alignment(scores, people)
    metric = MetricHumanAlignment(canonical=dreambench_key)
    order = rng.permutation(20)
    metric.add_scores([f"{keys[i]}_0" for i in order], scores[order])
    for i in range(20):
        metric.add_ratings([keys[i]], people[:, i : i + 1])
    found = metric.compute()
    for name in wanted:
        assert torch.allclose(found[name].double(), wanted[name].double(), atol=1e-6), name
    metric.add_scores(["object_99_lamp-0_0"], [0.5])
    metric.add_ratings(["object_98_lamp-0"], [[1], [NAN]])
    found = metric.compute()
    assert (found["missing_scores"], found["missing_ratings"]) == (1, 1)
    assert found["n"].tolist() == [20, 20]


def test_keys_that_are_there_twice_are_named():
    metric = MetricHumanAlignment()
    metric.add_scores(["a", "b", " a"], [1, 2, 3])
    metric.add_ratings(["a", "b"], [1, 2])
    with pytest.raises(ValueError, match="1 items have several scores, the first 'a'"):
        metric.compute()
    metric = MetricHumanAlignment()
    metric.add_scores(["a", "b"], [1, 2])
    metric.add_ratings(["b", "a"], [1, 2])
    metric.add_ratings(["b"], [1])
    with pytest.raises(ValueError, match="several ratings, the first 'b'"):
        metric.compute()


def test_alpha_with_people_depends_on_the_scale_that_is_given():
    """DreamBench++'s: scores by the lowest and highest of all methods, ratings by their scale."""
    scores, people = [0.6, 0.7, 0.9], [[0, 2, 4]]
    ours = human_alignment(scores, people)["alpha"].item()
    assert ours == pytest.approx(brute_alpha(np.array([[0, 1 / 3, 1], [0, 0.5, 1]]), "interval"))
    wide = human_alignment(scores, people, score_range=(0, 1))["alpha"].item()
    assert wide == pytest.approx(brute_alpha(np.array([scores, [0, 0.5, 1]]), "interval"))
    with pytest.raises(ValueError, match=r"0.9, outside the scale from 0 to 0.8"):
        human_alignment(scores, people, score_range=(0, 0.8))


def test_alignment_says_what_does_not_fit():
    metric = MetricHumanAlignment()
    for given_, message in (
        ({}, "Give `scores`, `ratings` or both"),
        ({"scores": [1.0]}, r"scores of shape \(1,\) for 2 keys"),
        ({"ratings": [[1, 2, 3]]}, r"ratings of shape \(1, 3\) for 2 keys"),
        ({"ratings": [[1, 9]]}, "9, outside the scale from 0 to 4"),
        ({"scores": [1.0, float("inf")]}, "infinite"),
    ):
        with pytest.raises(ValueError, match=message):
            metric.update(["a", "b"], **given_)
    metric.add_ratings(["a", "b"], [[1, 2]])
    with pytest.raises(ValueError, match="2 groups of raters after 1"):
        metric.add_ratings(["c"], [[1], [2]])
    with pytest.raises(ValueError, match="No score was added"):
        metric.compute()
    metric.add_scores(["c", "d"], [1, 2])
    with pytest.raises(ValueError, match=r"shares 0 items with the metric.*keys are the same"):
        metric.compute()
    with pytest.raises(ValueError, match="two different scores"):
        human_alignment([1, 1], [[1, 2]])


@pytest.mark.parametrize(
    ("key", "wanted"),
    [
        ("live_subject_animal_03_cotton-top_tamarin-8_0", "live_subject_animal_03_cotton-top_tamarin-8"),
        ("style_10_ukiyo-e-5", "style_10_ukiyo-e-5"),
        ("object_20_rubik's_cube-0_0", "object_20_magic_cube-0"),
        ("no_hyphen", "no_hyphen"),
    ],
)
def test_keys_of_dreambench(key, wanted):
    assert dreambench_key(key) == wanted
