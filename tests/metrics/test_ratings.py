"""Scores over groups and runs, CP times PF and the de-bias gap: published figures, laws, and errors."""

import csv

import numpy as np
import pytest
import torch

from dsd import metrics
from dsd.evaluation.published import PICTURES, PROMPTS, table
from dsd.metrics import CPPF, ConceptPreservation, DebiasGap, JudgeScore, PromptFollowing
from dsd.metrics.functional import cp_pf, debias_gap, judge_score
from dsd.studies.judge_ratings import EMBEDDED
from tests.metrics.rating_cases import NAN

LEADERBOARD = table("dreambench++").rows


@pytest.mark.parametrize("row", LEADERBOARD, ids=lambda row: row.method)
@pytest.mark.parametrize("average", ["micro", "macro"])
def test_the_leaderboard_comes_out_of_its_columns(row, average):
    """150 references with nine prompts each: 45, 20, 65 and 20 of the categories; 4, 3 and 2 of the kinds."""
    found = {}
    for metric_class, columns, counts, each in (
        (ConceptPreservation, row.categories, PICTURES, 9),
        (PromptFollowing, row.kinds, PROMPTS, 150),
    ):
        metric = metric_class(
            groups=list(columns), average=average, weights=counts if average == "macro" else None
        )
        for name, value in columns.items():
            metric.update([4 * value] * (counts[name] * each), groups=name)
        result = metric.compute()
        found[metric_class] = result["score"].item()
        assert (result["n"], result["missing"]) == (1350, 0)
        assert result["n_by_group"].tolist() == [counts[name] * each for name in columns]
    assert found[ConceptPreservation] == pytest.approx(row.cp, abs=1e-3)
    assert found[PromptFollowing] == pytest.approx(row.pf, abs=1e-3)
    assert found[ConceptPreservation] * found[PromptFollowing] == pytest.approx(row.cp_pf, abs=1e-3)


def test_micro_and_macro_differ_and_missing_ratings_do_not_move_macro():
    ratings, groups = [4, 4, 4, 0], ["a", "a", "a", "b"]
    found = {}
    for average in ("micro", "macro", "none"):
        metric = JudgeScore(groups=["a", "b"], average=average)
        metric.update([*ratings, NAN, NAN], [*groups, "a", "b"])
        found[average] = metric.compute()
    assert found["micro"]["score"] == 0.75
    assert found["macro"]["score"] == 0.5
    assert found["none"]["score"].tolist() == [1, 0]
    assert found["none"]["missing_by_group"].tolist() == [1, 1]


def test_a_group_without_ratings_is_no_zero_and_is_not_left_out_silently():
    metric = JudgeScore(groups=["a", "b"], average="macro")
    metric.update([4, NAN], ["a", "b"])
    with pytest.raises(ValueError, match=r"group 'b' has no value: .* of something else"):
        metric.compute()
    metric = JudgeScore(groups=["a", "b"], average="macro", weights={"a": 1})
    metric.update([4, NAN], ["a", "b"])
    result = metric.compute()
    assert result["score"] == 1
    assert torch.isnan(result["score_by_group"][1])
    assert result["missing_by_group"].tolist() == [0, 1]


def test_runs_have_a_mean_and_a_sample_deviation():
    """Three passes, as DreamBench++ has them; a rating that one of them lacks moves that one alone."""
    runs = [[4, 2, 3], [3, 2, 3], [4, 2, NAN]]
    metric = JudgeScore(runs=3)
    for number, ratings in enumerate(runs):
        metric.update(ratings, runs=number)
    means = [np.nanmean(ratings) / 4 for ratings in runs]
    result = metric.compute()
    assert result["score"].item() == pytest.approx(np.mean(means))
    assert result["std"].item() == pytest.approx(np.std(means, ddof=1))
    assert (result["n"], result["missing"], result["runs"]) == (8, 1, 3)
    assert torch.isnan(judge_score([1, 2])["std"])


def test_what_a_score_refuses():
    for given, message in (
        ({"groups": ["a", "a"]}, "each once"),
        ({"groups": ["a"], "weights": {"b": 1}, "average": "macro"}, "'b', which is no group"),
        ({"groups": ["a"], "weights": {"a": 1}}, "average='macro', not 'micro'"),
        ({"groups": ["a", "b"], "weights": {}, "average": "macro"}, "not all 0"),
        ({"average": "mean"}, "'mean'. Allowed: micro, macro, none"),
        ({"low": 4, "high": 0}, "from `low` up to `high`; got 4 and 0"),
        ({"runs": 0}, "at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            JudgeScore(**given)
    metric = JudgeScore(groups=["a", "b"], runs=2)
    for given, message in (
        (([5], "a"), "5, outside the scale from 0 to 4. Give NaN"),
        (([-1], "a"), "-1, outside the scale"),
        (([1], "c"), "no group 'c'. Known: a, b"),
        (([1],), "Say which group"),
        (([1, 2], ["a"]), "1 groups for 2 items"),
        (([1], "a", 2), "no run 2; there are 2"),
    ):
        with pytest.raises(ValueError, match=message):
            metric.update(*given)
    metric.update([1], "a")
    with pytest.raises(ValueError, match="Run 1 has no rating at all"):
        metric.compute()


def test_the_three_rules_of_the_product_on_ratings_of_people():
    """Semantic consistency and quality of ImagenHub, whose overall score is the mean geometric one."""
    with EMBEDDED.open() as file:
        rows = [row for row in csv.DictReader(file) if row["method"] == "DreamBooth"]
    sc, pq = (np.array([float(row[f"human1_{x}"]) for row in rows]) for x in ("sc", "pq"))
    found = {
        rule: cp_pf(sc, pq, rule=rule, low=0, high=1) for rule in ("product_of_means", "mean_of_products")
    }
    assert found["product_of_means"]["cp_pf"].item() == pytest.approx(sc.mean() * pq.mean())
    assert found["mean_of_products"]["cp_pf"].item() == pytest.approx((sc * pq).mean())
    geometric = cp_pf(sc, pq, rule="mean_geometric", low=0, high=1)["cp_pf"].item()
    assert geometric == pytest.approx(np.sqrt(sc * pq).mean())
    assert (sc * pq).mean() < geometric


def test_a_product_over_runs_is_of_the_runs_means():
    concept, prompt, runs = [4, 2, 3, 3], [2, 2, 4, 0], [0, 0, 1, 1]
    found = cp_pf(concept, prompt, runs)
    assert found["cp_pf"].item() == pytest.approx(0.75 * 0.5)
    assert found["std"].item() == pytest.approx(np.std([0.75 * 0.5, 0.75 * 0.5], ddof=1))
    by_key = CPPF()
    by_key.update(["a", "b", "a", "b"], concept=concept, runs=runs)
    by_key.update(["b", "a", "b", "a"], prompt=[2, 2, 0, 4], runs=runs)
    assert by_key.compute()["cp_pf"].item() == pytest.approx(0.75 * 0.5)


def test_products_are_joined_by_key_and_each_key_counts_once():
    metric = CPPF("mean_of_products")
    metric.update(["a", "b", "c"], concept=[4, 0, 2])
    metric.update(["b", "a", "d"], prompt=[0, 4, 3])
    result = metric.compute()
    assert result["cp_pf"].item() == pytest.approx(0.5)  # by order it would be (0 + 0 + 2 * 3 / 16) / 3
    assert (result["n"], result["missing_cp"], result["missing_pf"]) == (2, 1, 1)
    metric.update(["a"], concept=[1])
    with pytest.raises(ValueError, match=r"several ratings of concept preservation, the first 'a, run 0'"):
        metric.compute()
    for given, message in (
        ((["a"],), "`concept`, `prompt` or both"),
        ((["a"], [1, 2]), "2 ratings of concept for 1 keys"),
        ((["a"], [9]), "outside the scale"),
    ):
        with pytest.raises(ValueError, match=message):
            metric.update(*given)
    with pytest.raises(ValueError, match="Unknown rule 'sum'"):
        CPPF("sum")
    with pytest.raises(ValueError, match="Run 0 has no rating"):
        cp_pf([NAN, 1], [1, NAN], rule="mean_of_products")


@pytest.mark.parametrize(("method", "gap"), [("ip_adapter_plus", 0.330), ("dsd", -0.158)])
def test_published_gaps(method, gap):
    """A method that copies falls; one that does not rises: the paper's table, printed CP less its own dCP."""
    plain, penalising = (
        next(row for row in table(name).rows if row.method == method).cp for name in ("dsd", "dsd_debiased")
    )
    metric = DebiasGap()
    for subject in range(10):
        shift = 0.02 * (subject - 4.5) / 4.5
        metric.update([4 * (plain + shift)], [4 * (penalising + shift)], subjects=f"subject {subject}")
    result = metric.compute()
    assert result["gap"].item() == pytest.approx(gap, abs=1e-6)
    assert result["low"] <= result["gap"] + 1e-6
    assert result["high"] >= result["gap"] - 1e-6
    assert (result["high"] - result["low"]).item() < 1e-5  # the shift is in both, and pairs are resampled


def test_the_interval_of_a_gap_is_over_subjects():
    """Ten pictures of each of eight subjects that fall or stay together are not eighty."""
    rng = np.random.default_rng(0)
    subjects = np.repeat(np.arange(8), 10)
    plain = np.full(80, 3.0)
    penalising = np.where(rng.permutation(8) < 4, 1.0, 3.0)[subjects]
    clustered = debias_gap(plain, penalising, subjects, seed=1)
    alone = debias_gap(plain, penalising, np.arange(80), seed=1)
    assert clustered["gap"] == alone["gap"] == 0.25
    widths = [(x["high"] - x["low"]).item() for x in (clustered, alone)]
    assert widths[0] > 2 * widths[1]
    means = (plain - penalising).reshape(8, 10).mean(1) / 4
    picks = np.random.default_rng(7).integers(0, 8, (20_000, 8))
    wanted = np.quantile(means[picks].mean(1), [0.025, 0.975])
    assert clustered["low"].item() == pytest.approx(wanted[0], abs=0.04)
    assert clustered["high"].item() == pytest.approx(wanted[1], abs=0.04)
    assert torch.isnan(debias_gap([4, 3], [1, 1], [0, 0])["low"])


def test_what_a_gap_refuses():
    metric = DebiasGap()
    for given, message in (
        (([1, 2], [1], ["a", "a"]), "2 plain and 1 penalising"),
        (([5], [1], ["a"]), "outside the scale"),
        (([1], [1], ["a", "b"]), "2 subjects for 1 items"),
    ):
        with pytest.raises(ValueError, match=message):
            metric.update(*given)
    metric.update([1, NAN], [NAN, 1], ["a", "a"])
    with pytest.raises(ValueError, match="No picture has both ratings"):
        metric.compute()
    with pytest.raises(ValueError, match="1 resample or more"):
        debias_gap([1], [1], [0], resamples=0)


def test_all_have_names_and_the_contract_of_torchmetrics():
    names = {
        "concept_preservation", "cp_pf", "debias_gap", "judge_score", "krippendorff_alpha",
        "metric_human_alignment", "prompt_following",
    }  # fmt: skip
    assert names <= set(metrics.names())
    for name in names:
        metric = metrics.create(name)
        assert metric.full_state_update is False
        assert metric.is_differentiable is False
        assert isinstance(metric.higher_is_better, bool)
        assert metric.plot_lower_bound < metric.plot_upper_bound
