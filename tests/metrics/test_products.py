"""Concept preservation times prompt following over groups, by hand."""

import numpy as np
import pytest
import torch

from dsd import metrics
from dsd.metrics import CPPF
from dsd.metrics.functional import cp_pf

NAN = float("nan")
CONCEPT = [4, 2, 0, 4, 3, NAN]
PROMPT = [2, 4, 4, NAN, 1, 2]
GROUPS = ["animal", "animal", "animal", "object", "object", "object"]
NUMBERS = [0, 0, 0, 1, 1, 1]
# By hand, of ratings over 4.
# animal: CP (1 + .5 + 0) / 3 = .5, PF (.5 + 1 + 1) / 3 = 5 / 6, products (.5 + .5 + 0) / 3;
# object: CP (1 + .75) / 2 = .875, PF (.25 + .5) / 2 = .375, one picture with both, .75 * .25.
CP, PF = (0.5, 0.875), (5 / 6, 0.375)
EACH = {"mean_of_products": (1 / 3, 0.1875), "mean_geometric": ((0.5**0.5 * 2) / 3, 0.1875**0.5)}


def wanted(rule, average, weights):
    if average == "none":
        return [a * b for a, b in zip(CP, PF, strict=True)] if rule == "product_of_means" else EACH[rule]
    if average == "micro":
        cp, pf = (1.5 + 1.75) / 5, (2.5 + 0.75) / 5
        each = None if rule == "product_of_means" else (EACH[rule][0] * 3 + EACH[rule][1]) / 4
        return cp * pf if each is None else each
    shares = np.array(weights or (1, 1)) / sum(weights or (1, 1))
    return (CP @ shares) * (PF @ shares) if rule == "product_of_means" else EACH[rule] @ shares


@pytest.mark.parametrize("rule", ["product_of_means", "mean_of_products", "mean_geometric"])
@pytest.mark.parametrize(
    ("average", "weights"), [("micro", None), ("macro", None), ("macro", (45, 65)), ("none", None)]
)
def test_groups_are_averaged_as_by_hand(rule, average, weights):
    found = cp_pf(CONCEPT, PROMPT, None, NUMBERS, rule=rule, average=average, weights=weights)
    assert found["cp_pf"].tolist() == pytest.approx(wanted(rule, average, weights))
    assert found["cp_pf_by_group"].tolist() == pytest.approx(wanted(rule, "none", None))
    assert found["cp_by_group"].tolist() == pytest.approx(CP)
    assert found["pf_by_group"].tolist() == pytest.approx(PF)
    assert found["n_by_group"].tolist() == [3, 1]
    assert (found["n"], found["missing_cp"], found["missing_pf"]) == (4, 1, 1)
    named = None if weights is None else dict(zip(("animal", "object"), weights, strict=True))
    metric = metrics.create(
        {"name": "cp_pf", "rule": rule, "groups": ["animal", "object"], "average": average, "weights": named}
    )
    keys = [f"item {i}" for i in range(6)]
    metric.update(keys[:4], concept=CONCEPT[:4], groups=GROUPS[:4])
    metric.update(keys[4:], concept=CONCEPT[4:], groups="object")
    metric.update(keys[::-1], prompt=PROMPT[::-1], groups=GROUPS[::-1])
    result = metric.compute()
    assert result["cp_pf"].tolist() == pytest.approx(wanted(rule, average, weights), abs=1e-6)
    assert result["n_by_group"].tolist() == [3, 1]
    assert metric.plot() is not None


@pytest.mark.parametrize("average", ["micro", "macro", "none"])
@pytest.mark.parametrize("rule", ["product_of_means", "mean_of_products", "mean_geometric"])
def test_without_groups_every_average_is_the_same(rule, average):
    plain = cp_pf(CONCEPT, PROMPT, rule=rule)["cp_pf"].item()
    assert plain == pytest.approx(wanted(rule, "micro", None))
    assert cp_pf(CONCEPT, PROMPT, rule=rule, average=average)["cp_pf"].item() == pytest.approx(plain)
    metric = CPPF(rule, average=average)
    metric.update(list("abcdef"), CONCEPT, PROMPT)
    assert metric.compute()["cp_pf"].item() == pytest.approx(plain, abs=1e-6)


def test_runs_are_averaged_group_by_group():
    runs = [0, 0, 1, 1]
    concept, prompt, groups = [4, 0, 2, 0], [4, 4, 4, 2], [0, 1, 0, 1]
    found = cp_pf(concept, prompt, runs, groups, rule="mean_of_products", average="macro")
    by_run = [(1 * 1 + 0 * 1) / 2, (0.5 * 1 + 0 * 0.5) / 2]
    assert found["cp_pf"].item() == pytest.approx(np.mean(by_run))
    assert found["std"].item() == pytest.approx(np.std(by_run, ddof=1))
    assert found["cp_pf_by_group"].tolist() == pytest.approx([0.75, 0])


def test_groups_that_do_not_fit_are_said():
    with pytest.raises(ValueError, match="Unknown `average` 'mean'"):
        cp_pf([1], [1], average="mean")
    with pytest.raises(ValueError, match="Give each of the 1 groups a weight"):
        cp_pf([1], [1], average="macro", weights=[1, 2])
    with pytest.raises(ValueError, match="they go with average='macro'"):
        CPPF(groups=["a"], weights={"a": 1})
    with pytest.raises(ValueError, match="weight of 'b', which is no group"):
        CPPF(groups=["a"], average="macro", weights={"b": 1})
    metric = CPPF(groups=["a", "b"], average="macro")
    with pytest.raises(ValueError, match="Say which group each item is of: a, b"):
        metric.update(["x"], concept=[1])
    with pytest.raises(ValueError, match="There is no group 'c'"):
        metric.update(["x"], concept=[1], groups="c")
    metric.update(["x"], concept=[1], prompt=[1], groups="a")
    with pytest.raises(ValueError, match="The group 'b' has no value"):
        metric.compute()
    metric.update(["y"], concept=[1], groups="a")
    metric.update(["y"], prompt=[1], groups="b")
    with pytest.raises(ValueError, match="'y, run 0' are of two groups"):
        metric.compute()


def test_groups_survive_merging():
    whole, one, other = (CPPF("mean_of_products", groups=["a", "b"], average="macro") for _ in range(3))
    given = [(["x"], [4], [2], "a"), (["y", "z"], [2, 3], [4, 1], "b")]
    for (keys, concept, prompt, groups), part in zip(given, (one, other), strict=True):
        whole.update(keys, concept, prompt, groups=groups)
        part.update(keys, concept, prompt, groups=groups)
    one.merge_state(other)
    for name, value in whole.compute().items():
        torch.testing.assert_close(one.compute()[name], value, equal_nan=True)
