"""What a judge's ratings come to: means by a stated rule, over groups and runs."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dsd.metrics.functional.gap import check_scale, on_unit_scale
from dsd.metrics.functional.grouped import Average, check_rule, group_numbers, group_sums, mean_of_sums

Product = str
"""`product_of_means`: of all CP and of all PF, as DreamBench++; `mean_of_products`: picture by picture;
`mean_geometric`: the mean of the pictures' square roots of CP times PF, as VIEScore and OmniContext."""

PRODUCTS: tuple[Product, ...] = ("product_of_means", "mean_of_products", "mean_geometric")

Sums = Float[Tensor, "runs groups"]
Counts = Int[Tensor, "runs groups"]


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
        average: "micro", "macro" or "none", see `dsd.metrics.functional.grouped_mean`.
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
) -> tuple[Sums, Counts, Counts]:
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
    of_group, of_run = (group_numbers(x, len(values), values.device) for x in (groups, runs))
    if shape is None:
        shape = (int(of_run.max()) + 1, int(of_group.max()) + 1) if len(values) else (1, 1)
    for numbers, size, what in ((of_run, shape[0], "run"), (of_group, shape[1], "group")):
        if (strange := numbers[(numbers < 0) | (numbers >= size)]).numel():
            raise ValueError(f"There is no {what} {int(strange[0])}; there are {size}, counted from 0.")
    cell = of_run * shape[1] + of_group
    sums, counts, missing = group_sums(values, cell, num_groups=shape[0] * shape[1], nan_policy="skip")
    return sums.reshape(shape), counts.reshape(shape), missing.reshape(shape)


def score_of_sums(
    sums: Sums,
    counts: Counts,
    missing: Counts,
    *,
    average: Average = "micro",
    weights: Sequence[float] | None = None,
    names: Sequence[str] | None = None,
) -> dict[str, Tensor]:
    """What `judge_score` returns, from `rating_sums`; `names` of the groups are for messages.

    Raises:
        ValueError: as `judge_score`.
    """
    by_run = [
        mean_of_sums(
            *(x[run] for x in (sums, counts, missing)), average=average, weights=weights, names=names
        )
        for run in _runs_with_ratings(counts)
    ]
    found: dict[str, Tensor] = {}
    for name in ("score", "score_by_group"):
        mean, std = over_runs(torch.stack([result[name] for result in by_run]))
        found |= {name: mean, name.replace("score", "std"): std}
    return {
        **found,
        "n": counts.sum(),
        "missing": missing.sum(),
        "n_by_group": counts.sum(0),
        "missing_by_group": missing.sum(0),
        "runs": torch.tensor(len(sums)),
    }


def _runs_with_ratings(counts: Counts) -> range:
    if (empty := counts.sum(1) == 0).any():
        raise ValueError(f"Run {int(empty.nonzero()[0])} has no rating at all, so that it has no mean.")
    return range(len(counts))


def over_runs(values: Float[Tensor, " runs *groups"]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (over n - 1) of the runs; the latter is NaN with one run."""
    return values.mean(0), values.std(0) if len(values) > 1 else torch.full_like(values[0], torch.nan)


def cp_pf(
    concept: Any,
    prompt: Any,
    runs: Any = None,
    groups: Any = None,
    *,
    rule: Product = "product_of_means",
    low: float = 0.0,
    high: float = 4.0,
    average: Average = "micro",
    weights: Sequence[float] | None = None,
    names: Sequence[str] | None = None,
) -> dict[str, Tensor]:
    """Concept preservation and prompt following as one number, by a stated rule.

    The rules differ: a method that keeps half of its subjects and follows the other half of its prompts gets
    .25 by "product_of_means", and 0 by the others.

    Args:
        concept: (n,) ratings of concept preservation; NaN where missing.
        prompt: (n,) ratings of prompt following of the same pictures; NaN where missing.
        runs: (n,) number of each one's run, from 0; all in one by default.
        groups: (n,) number of each one's group, from 0; all in one by default, where every `average` gives
            the same.
        rule: see `Product`. By "product_of_means" each side counts all its ratings, and the means over runs
            are multiplied; by the others only pictures with both ratings count.
        low: lowest rating of both scales.
        high: highest rating of both scales.
        average: "micro", "macro" or "none", see `dsd.metrics.functional.grouped_mean`: of each side's
            ratings by "product_of_means", of the pictures' products by the others.
        weights: of the groups, for "macro"; all alike by default.
        names: of the groups, which are then all that there are; for messages.

    Returns:
        `cp_pf`, and `std` over runs (NaN with one); the sides' own means `cp` and `pf`; all four (groups,)
        for "none", else one number. The first three `..._by_group`, NaN for a group without a rating in a
        run. `n`, pictures with both ratings, over all runs, and `n_by_group`; `missing_cp`, `missing_pf`, and
        `runs`.

    Raises:
        ValueError: if the lengths differ, a rating is outside the scale, there is no such rule, a run has no
            rating that counts, the weights do not fit, or "macro" meets a group without a rating that counts.

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
    of_run, of_group = (group_numbers(x, len(first), first.device) for x in (runs, groups))
    size = len(names) if names is not None else (int(of_group.max()) + 1 if len(of_group) else 1)
    check_rule(average, weights, size)
    shape = (int(of_run.max()) + 1 if len(of_run) else 1, size)

    def means(values: Float[Tensor, " n"]) -> tuple[Tensor, Tensor]:
        """Of each run, and of each run and group."""
        sums, counts, gone = rating_sums(values, of_group, of_run, low=0, high=1, shape=shape)
        found = [
            mean_of_sums(
                *(x[run] for x in (sums, counts, gone)), average=average, weights=weights, names=names
            )
            for run in _runs_with_ratings(counts)
        ]
        score, by_group = (torch.stack([x[name] for x in found]) for name in ("score", "score_by_group"))
        return score, by_group

    sides = [means(x) for x in (first, second)]
    (cp, cp_by_group), (pf, pf_by_group) = ((score.mean(0), by_group.mean(0)) for score, by_group in sides)
    if rule == "product_of_means":
        score, by_group = cp * pf, cp_by_group * pf_by_group
        _, std = over_runs(sides[0][0] * sides[1][0])
    else:
        products, by_run_and_group = means(
            first * second if rule == "mean_of_products" else (first * second).sqrt()
        )
        score, std = over_runs(products)
        by_group = by_run_and_group.mean(0)
    gone = [torch.isnan(x) for x in (first, second)]
    both = ~(gone[0] | gone[1])
    return {
        "cp_pf": score,
        "std": std,
        "cp": cp,
        "pf": pf,
        "cp_pf_by_group": by_group,
        "cp_by_group": cp_by_group,
        "pf_by_group": pf_by_group,
        "n": both.sum(),
        "n_by_group": torch.bincount(of_group[both], minlength=size),
        "missing_cp": gone[0].sum(),
        "missing_pf": gone[1].sum(),
        "runs": torch.tensor(shape[0]),
    }
