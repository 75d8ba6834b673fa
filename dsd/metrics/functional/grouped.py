"""Means over groups by a stated rule, with what is missing: the part that all metrics of single items share.

The sums are all that need be kept, so that batches, processes and runs add up exactly.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

Average = str
"""`micro`: every item counts alike; `macro`: the means of the groups do, or as the weights say; `none`: one
number a group."""

NanPolicy = str
"""`error`: a missing value is an error; `skip`: it is left out and counted; `zero`: it counts as 0, and is
counted as missing."""

AVERAGES: tuple[Average, ...] = ("micro", "macro", "none")
NAN_POLICIES: tuple[NanPolicy, ...] = ("error", "skip", "zero")

Sums = Float[Tensor, " groups"]
Counts = Int[Tensor, " groups"]


def grouped_mean(
    values: Any,
    groups: Any = None,
    *,
    average: Average = "micro",
    weights: Sequence[float] | None = None,
    nan_policy: NanPolicy = "error",
) -> dict[str, Tensor]:
    """The mean of values over groups.

    Args:
        values: (n,) numbers; NaN where one is missing.
        groups: (n,) number of each one's group, from 0; all in one by default.
        average: see `Average`.
        weights: of the groups, for "macro"; all alike by default. Pass what the groups should count, such as
            how many pictures a benchmark has of each.
        nan_policy: see `NanPolicy`.

    Returns:
        `score`, (groups,) for "none", else one number; `n` that counted and `missing`; the same three
        `..._by_group`, where a group without a value has the score NaN.

    Raises:
        ValueError: if the lengths do not fit, a value is missing under "error" or infinite, the weights do
            not fit, no value is left, or "macro" meets a group without one.

    Example:
        >>> values, groups = [1.0, 0.5, 0.0, float("nan")], [0, 0, 1, 1]
        >>> found = grouped_mean(values, groups, average="macro", nan_policy="skip")
        >>> found["score"], found["n"], found["missing"]
        (tensor(0.3750, dtype=torch.float64), tensor(3), tensor(1))
    """
    return mean_of_sums(*group_sums(values, groups, nan_policy=nan_policy), average=average, weights=weights)


def group_sums(
    values: Any, groups: Any = None, *, num_groups: int | None = None, nan_policy: NanPolicy = "error"
) -> tuple[Sums, Counts, Counts]:
    """Of each group: the sum of its values, how many count, and how many are missing.

    Args:
        values: as in `grouped_mean`.
        groups: likewise.
        num_groups: how many groups there are; as many as are seen by default.
        nan_policy: see `NanPolicy`.

    Raises:
        ValueError: as `grouped_mean`, or if a number is of no group.
    """
    if nan_policy not in NAN_POLICIES:
        raise ValueError(f"Unknown `nan_policy` {nan_policy!r}. Allowed: {', '.join(NAN_POLICIES)}.")
    found = torch.as_tensor(values).detach().double().flatten()
    of_group = group_numbers(groups, len(found), found.device)
    size = (int(of_group.max()) + 1 if len(found) else 1) if num_groups is None else num_groups
    if (strange := of_group[(of_group < 0) | (of_group >= size)]).numel():
        raise ValueError(f"There is no group {int(strange[0])}; there are {size}, counted from 0.")
    gone = found.isnan()
    if (infinite := found.isinf()).any():
        raise ValueError(
            f"Value {int(infinite.nonzero()[0])} is infinite. Give finite numbers, or NaN where missing."
        )
    if nan_policy == "error" and gone.any():
        raise ValueError(
            f"{int(gone.sum())} of {len(found)} values are missing, the first is number "
            f"{int(gone.nonzero()[0])}, counted from 0. Decide by "
            "nan_policy='skip' (left out, counted) or 'zero' (counts as 0)."
        )
    kept = torch.ones_like(gone) if nan_policy == "zero" else ~gone
    sums = found.new_zeros(size).index_add_(0, of_group, found.nan_to_num())
    counts, missing = (torch.bincount(of_group[x], minlength=size) for x in (kept, gone))
    return sums, counts, missing


def mean_of_sums(
    sums: Sums,
    counts: Counts,
    missing: Counts,
    *,
    average: Average = "micro",
    weights: Sequence[float] | None = None,
    names: Sequence[str] | None = None,
) -> dict[str, Tensor]:
    """What `grouped_mean` returns, from `group_sums`; `names` of the groups are for messages.

    Raises:
        ValueError: as `grouped_mean`.
    """
    check_rule(average, weights, len(sums))
    if not counts.sum():
        gone = f": all {int(missing.sum())} are missing" if missing.sum() else ""
        raise ValueError(f"No value was added that counts{gone}. The mean of nothing is not defined.")
    by_group = torch.where(counts > 0, sums / counts, torch.nan)
    if average == "none":
        score = by_group
    elif average == "micro":
        score = sums.sum() / counts.sum()
    else:
        shares = torch.tensor([1.0] * len(sums) if weights is None else list(weights)).to(sums)
        if (empty := (counts == 0) & (shares > 0)).any():
            group = int(empty.nonzero()[0])
            raise ValueError(
                f"The group {names[group] if names else group!r} has no value: a mean over the other "
                "groups would be of something else. Give it values, the weight 0, or average='micro'."
            )
        score = (by_group.nan_to_num() @ shares) / shares.sum()
    return {
        "score": score,
        "n": counts.sum(),
        "missing": missing.sum(),
        "score_by_group": by_group,
        "n_by_group": counts.clone(),
        "missing_by_group": missing.clone(),
    }


def check_rule(average: Average, weights: Sequence[float] | None, num_groups: int) -> None:
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


def group_numbers(groups: Any, count: int, device: torch.device | None = None) -> Int[Tensor, " n"]:
    """The number of each item's group; 0 for all by default.

    Raises:
        ValueError: if there are not as many as items.
    """
    if groups is None:
        return torch.zeros(count, dtype=torch.int64, device=device)
    found = torch.as_tensor(groups, device=device).detach().flatten().long()
    if len(found) != count:
        raise ValueError(f"Got {len(found)} groups for {count} items; give one for each.")
    return found
