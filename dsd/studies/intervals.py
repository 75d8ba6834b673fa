"""Intervals for means over references and seeds: both were drawn by chance, so both are resampled."""

import numpy as np
from jaxtyping import Float

from dsd.evaluation.bootstrap import Interval, resamples

Values = Float[np.ndarray, "seeds references items"]


def crossed_interval(values: Values, *, count: int = 2000, seed: int = 0, level: float = 0.95) -> Interval:
    """Percentile bootstrap interval of the mean of values that share references and seeds.

    References and seeds are resampled independently, as both are crossed: every seed has drawn every
    reference. With few seeds their part of the spread is underestimated, by (n - 1) / n of its variance, and
    with one seed it is not there at all.

    Args:
        values: of each item (a scene) of each reference, for each seed. For a difference between two methods
            give the differences of their values: what they share then cancels.
        count: resamples.
        seed: of the bootstrap; the same numbers are drawn for all values of one shape.
        level: share of the resamples inside the interval.

    Returns:
        lower and upper end.
    """
    means = np.asarray(values, dtype=float).mean(axis=-1)
    seeds = resamples(means.shape[0], count, seed + 1)
    references = resamples(means.shape[1], count, seed)
    found = means[seeds[:, :, None], references[:, None, :]].mean(axis=(1, 2))
    low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
