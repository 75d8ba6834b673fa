"""What a judge's ratings come to: means by a stated rule, over groups and runs."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dsd.metrics.functional.gap import check_scale, on_unit_scale

Average = str
"""`micro`: every rating counts alike; `macro`: the means of the groups do, or as the weights say; `none`: one
number a group."""

Product = str
"""`product_of_means`: of all CP and of all PF, as DreamBench++; `mean_of_products`: picture by picture;
`mean_geometric`: the mean of the pictures' square roots of CP times PF, as VIEScore and OmniContext."""

AVERAGES: tuple[Average, ...] = ("micro", "macro", "none")
PRODUCTS: tuple[Product, ...] = ("product_of_means", "mean_of_products", "mean_geometric")

Table = Float[Tensor, "runs groups"]


def judge_score(
    ratings: Any,
    groups: Any = None,
    runs: Any = None,
    *,
    low: float = 0.0,
    high: float = 4.0,
    average: Average = "micro",
    weights: Sequence[float] | None = None,
) -> dict[str, Tensor]:
    """The mean rating on a scale from 0 to 1, over groups and runs.

    Every run is averaged by itself; the score is the mean of the runs, with their standard deviation (over
    n - 1), as DreamBench++ has it. A missing rating is left out and counted, never taken for a number.

    Args:
        ratings: (n,) ratings; NaN where missing.
        groups: (n,) number of each one's group, from 0; all in one by default.
        runs: (n,) number of each one's run, from 0; all in one by default.
        low: lowest rating of the scale.
        high: highest rating of the scale.
        average: see `Average`.
        weights: of the groups, for "macro"; all alike by default. Pass what the groups should count, such as
            how many pictures a benchmark has of each: DreamBench++'s categories have 45, 20, 65 and 20.

    Returns:
        `score` and `std`, (groups,) for "none", else one number; `std` is NaN with one run. `score_by_group`
        and `std_by_group`, NaN for a group without a rating in a run; `n` and `missing` over all runs, and
        both `..._by_group`; `runs`.

    Raises:
        ValueError: if the lengths do not fit, a rating is outside the scale, a run has no rating at all, the
            weights do not fit, or "macro" meets a group without a rating.

    Example:
        >>> nan = float("nan")
        >>> judge_score([4, 2, 0, nan], [0, 0, 1, 1], average="macro", weights=[45, 20])["score"]
        tensor(0.5192, dtype=torch.float64)
    """
    sums, counts, missing = rating_sums(ratings, groups, runs, low=low, high=high)
    return score_of_sums(sums, counts, missing, average=average, weights=weights)


def rating_sums(
    ratings: Any,
    groups: Any = None,
    runs: Any = None,
    *,
    low: float = 0.0,
    high: float = 4.0,
    shape: tuple[int, int] | None = None,
) -> tuple[Table, Table, Table]:
    """Sums of ratings on a scale from 0 to 1, and how many are there and missing, by run and group.

    Args:
        ratings: as in `judge_score`.
        groups: likewise.
        runs: likewise.
        low: lowest rating of the scale.
        high: highest rating of the scale.
        shape: how many runs and groups there are; as many as are seen by default.

    Raises:
        ValueError: if the lengths do not fit, a rating is outside the scale, or a number is not in `shape`.
    """
    check_scale(low, high)
    values = on_unit_scale(torch.as_tensor(ratings).detach().double().flatten(), low, high)
    of_group, of_run = (_numbers(x, values, what) for x, what in ((groups, "groups"), (runs, "runs")))
    if shape is None:
        shape = (int(of_run.max()) + 1, int(of_group.max()) + 1) if len(values) else (1, 1)
    for numbers, size, what in ((of_run, shape[0], "run"), (of_group, shape[1], "group")):
        if ((numbers < 0) | (numbers >= size)).any():
            wrong = int(numbers[(numbers < 0) | (numbers >= size)][0])
            raise ValueError(f"There is no {what} {wrong}; there are {size}, counted from 0.")
    given = ~torch.isnan(values)
    cell = of_run * shape[1] + of_group
    tables = [
        values.new_zeros(shape[0] * shape[1]).index_add_(0, cell, column).reshape(shape)
        for column in (values.nan_to_num(), given.to(values), (~given).to(values))
    ]
    return tables[0], tables[1], tables[2]


def score_of_sums(
    sums: Table,
    counts: Table,
    missing: Table,
    *,
    average: Average = "micro",
    weights: Sequence[float] | None = None,
    names: Sequence[str] | None = None,
) -> dict[str, Tensor]:
    """What `judge_score` returns, from `rating_sums`; `names` of the groups are for messages.

    Raises:
        ValueError: as `judge_score`.
    """
    by_group = [over_runs(column) for column in (sums / counts).T]
    if average == "none":
        check_rule(average, weights, sums.shape[1])
        score, std = torch.stack([x[0] for x in by_group]), torch.stack([x[1] for x in by_group])
    else:
        score, std = over_runs(averaged(sums, counts, average, weights, names))
    return {
        "score": score,
        "std": std,
        "score_by_group": torch.stack([mean for mean, _ in by_group]),
        "std_by_group": torch.stack([spread for _, spread in by_group]),
        "n": counts.sum().long(),
        "missing": missing.sum().long(),
        "n_by_group": counts.sum(0).long(),
        "missing_by_group": missing.sum(0).long(),
        "runs": torch.tensor(len(sums)),
    }


def averaged(
    sums: Table,
    counts: Table,
    average: Average = "micro",
    weights: Sequence[float] | None = None,
    names: Sequence[str] | None = None,
) -> Float[Tensor, " runs"]:
    """The mean of each run by a rule.

    Raises:
        ValueError: if a run has no rating, or "macro" meets a group that has none in a run and a weight.
    """
    check_rule(average, weights, sums.shape[1])
    if not (empty := counts.sum(1) == 0).logical_not().all():
        raise ValueError(f"Run {int(empty.nonzero()[0])} has no rating at all, so that it has no mean.")
    if average == "micro":
        return sums.sum(1) / counts.sum(1)
    shares = torch.tensor([1.0] * sums.shape[1] if weights is None else list(weights)).to(sums)
    without = (counts == 0) & (shares > 0)
    if without.any():
        run, group = (int(i) for i in without.nonzero()[0])
        name = repr(names[group]) if names else str(group)
        raise ValueError(
            f"The group {name} has no rating in run {run}: a mean over the other groups would be of other "
            "pictures. Rate it, give it the weight 0, or average='micro'."
        )
    means = torch.where(counts > 0, sums / counts, 0.0)
    return means @ shares / shares.sum()


def check_rule(average: str, weights: Sequence[float] | None, num_groups: int) -> None:
    """Refuse a rule of averaging that there is not, or weights that do not go with it.

    Raises:
        ValueError: saying which.
    """
    if average not in AVERAGES:
        raise ValueError(f"Unknown `average` {average!r}. Allowed: {', '.join(AVERAGES)}.")
    if weights is None:
        return
    if average != "macro":
        raise ValueError(f"Weights are of groups' means, so they go with average='macro', not {average!r}.")
    finite = all(0 <= weight < float("inf") for weight in weights)
    if len(weights) != num_groups or not finite or not sum(weights) > 0:
        raise ValueError(
            f"Give each of the {num_groups} groups a weight of 0 or more, not all 0; got {list(weights)}."
        )


def over_runs(values: Float[Tensor, " runs"]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (over n - 1) of the runs; the latter is NaN with one run."""
    return values.mean(), values.std() if len(values) > 1 else values.new_tensor(torch.nan)


def cp_pf(
    concept: Any,
    prompt: Any,
    runs: Any = None,
    *,
    rule: Product = "product_of_means",
    low: float = 0.0,
    high: float = 4.0,
) -> dict[str, Tensor]:
    """Concept preservation and prompt following as one number, by a stated rule.

    The rules differ: a method that keeps half of its subjects and follows the other half of its prompts gets
    .25 by "product_of_means", and 0 by the others.

    Args:
        concept: (n,) ratings of concept preservation; NaN where missing.
        prompt: (n,) ratings of prompt following of the same pictures; NaN where missing.
        runs: (n,) number of each one's run, from 0; all in one by default.
        rule: see `Product`. By "product_of_means" each side counts all its ratings, and the means over runs
            are multiplied; by the others only pictures with both ratings count.
        low: lowest rating of both scales.
        high: highest rating of both scales.

    Returns:
        `cp_pf`, and `std` over runs (NaN with one); the sides' own means `cp` and `pf`; `n`, pictures with
        both ratings, over all runs; `missing_cp`, `missing_pf`, and `runs`.

    Raises:
        ValueError: if the lengths differ, a rating is outside the scale, there is no such rule, or a run has
            no rating that counts.

    Example:
        >>> for rule in PRODUCTS:
        ...     print(rule, cp_pf([4, 0, 2], [0, 4, 2], rule=rule)["cp_pf"].item())
        product_of_means 0.25
        mean_of_products 0.0833
        mean_geometric 0.1667
    """
    if rule not in PRODUCTS:
        raise ValueError(f"Unknown rule {rule!r}. Allowed: {', '.join(PRODUCTS)}.")
    check_scale(low, high)
    first, second = (
        on_unit_scale(torch.as_tensor(x).detach().double().flatten(), low, high) for x in (concept, prompt)
    )
    if len(first) != len(second):
        raise ValueError(
            f"Got {len(first)} ratings of concept preservation and {len(second)} of prompt following; give "
            "one of each a picture."
        )
    of_run = _numbers(runs, first, "runs")
    means = [averaged(*rating_sums(x, None, of_run, low=0, high=1)[:2]) for x in (first, second)]
    by_run = means[0] * means[1]
    score, std = over_runs(by_run)
    if rule == "product_of_means":
        score = means[0].mean() * means[1].mean()
    else:
        each = first * second if rule == "mean_of_products" else (first * second).sqrt()
        score, std = over_runs(averaged(*rating_sums(each, None, of_run, low=0, high=1)[:2]))
    gone = [torch.isnan(x) for x in (first, second)]
    return {
        "cp_pf": score,
        "std": std,
        "cp": means[0].mean(),
        "pf": means[1].mean(),
        "n": (~(gone[0] | gone[1])).sum(),
        "missing_cp": gone[0].sum(),
        "missing_pf": gone[1].sum(),
        "runs": torch.tensor(len(by_run)),
    }


def _numbers(numbers: Any, values: Tensor, what: str) -> Int[Tensor, " n"]:
    if numbers is None:
        return torch.zeros(len(values), dtype=torch.int64, device=values.device)
    found = torch.as_tensor(numbers, device=values.device).detach().flatten().long()
    if len(found) != len(values):
        raise ValueError(f"Got {len(found)} numbers of {what} for {len(values)} ratings; give one for each.")
    return found
