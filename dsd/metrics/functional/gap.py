"""By how much a mean changes from one way of rating to another, with an interval over subjects."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor


def debias_gap(
    plain: Any,
    penalising: Any,
    subjects: Any,
    *,
    low: float = 0.0,
    high: float = 4.0,
    resamples: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, Tensor]:
    """By how much ratings fall where copies of the reference are penalised, on a scale from 0 to 1.

    A method that pastes its reference falls far; one that draws its subject anew stays, or rises. The
    interval is a percentile bootstrap over subjects, all of whose pairs of ratings come along.

    Args:
        plain: (n,) ratings by the plain rubric; NaN where missing.
        penalising: (n,) ratings of the same pictures by the one that penalises copies; NaN where missing.
        subjects: (n,) numbers of their subjects.
        low: lowest rating of the scale.
        high: highest rating of the scale.
        resamples: of the bootstrap.
        seed: of the bootstrap.
        level: share of resamples inside the interval.

    Returns:
        `gap`, the mean of plain less penalising; `low` and `high`, its interval, NaN with a single subject;
        the two means, `plain` and `penalising`; `n` pictures with both ratings, which alone count, `missing`
        ones, and `subjects`.

    Raises:
        ValueError: if the lengths differ, a rating is outside the scale, no picture has both ratings, or a
            number is out of range.

    Example:
        >>> result = debias_gap([4, 4, 3, 4], [1, 2, 1, float("nan")], [0, 0, 1, 1])
        >>> result["gap"], result["n"], result["missing"]
        (tensor(0.5833, dtype=torch.float64), tensor(3), tensor(1))
    """
    check_scale(low, high)
    if resamples < 1 or not 0 < level < 1:
        raise ValueError(f"Give 1 resample or more and a level in (0, 1); got {resamples} and {level}.")
    first, second = (torch.as_tensor(x).detach().double().flatten() for x in (plain, penalising))
    of_subject = torch.as_tensor(subjects).detach().flatten()
    if not len(first) == len(second) == len(of_subject):
        raise ValueError(
            f"Got {len(first)} plain and {len(second)} penalising ratings of {len(of_subject)} subjects; "
            "give as many of each."
        )
    first, second = (on_unit_scale(x, low, high) for x in (first, second))
    both = ~(torch.isnan(first) | torch.isnan(second))
    if not both.any():
        raise ValueError("No picture has both ratings, so that there is no gap to measure.")
    first, second = first[both], second[both]
    _, cluster = torch.unique(of_subject[both], return_inverse=True)
    counts = torch.bincount(cluster).double()
    falls = torch.zeros_like(counts).index_add_(0, cluster, first - second)
    ends = _interval(falls.cpu().numpy(), counts.cpu().numpy(), resamples, seed, level)
    return {
        "gap": (first - second).mean(),
        "low": torch.tensor(ends[0], dtype=torch.float64),
        "high": torch.tensor(ends[1], dtype=torch.float64),
        "plain": first.mean(),
        "penalising": second.mean(),
        "n": both.sum(),
        "missing": (~both).sum(),
        "subjects": torch.tensor(len(counts)),
    }


def check_scale(low: float, high: float) -> None:
    """Refuse a scale that goes nowhere.

    Raises:
        ValueError: if `low` is not below `high`.
    """
    if not low < high:
        raise ValueError(f"A scale goes from `low` up to `high`; got {low} and {high}.")


def on_unit_scale(ratings: Tensor, low: float, high: float) -> Tensor:
    """Ratings from 0 to 1; NaN stays.

    Raises:
        ValueError: if one is outside the scale.
    """
    outside = (ratings < low) | (ratings > high)
    if outside.any():
        raise ValueError(
            f"A rating is {float(ratings[outside][0]):g}, outside the scale from {low:g} to {high:g}. Give "
            "NaN where a rating is missing."
        )
    return (ratings - low) / (high - low)


def _interval(
    sums: Float[np.ndarray, " clusters"],
    counts: Float[np.ndarray, " clusters"],
    resamples: int,
    seed: int,
    level: float,
) -> tuple[float, float]:
    """Of the mean of all values, from the sum and the number of those of each cluster."""
    if len(sums) < 2:
        return float("nan"), float("nan")
    generator = np.random.default_rng(seed)
    means = []
    for _ in range(resamples):
        picked: Int[np.ndarray, " clusters"] = generator.integers(0, len(sums), len(sums))
        means.append(sums[picked].sum() / counts[picked].sum())
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
