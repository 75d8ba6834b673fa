"""Intervals for means of values that come in clusters: pictures of one character stand or fall together."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int

Interval = tuple[float, float]
"""Lower and upper end."""

Means = Float[np.ndarray, " resamples"]


def resamples(num_clusters: int, count: int = 2000, seed: int = 0) -> Int[np.ndarray, "resamples clusters"]:
    """Which clusters are in each resample: as many as there are, drawn with replacement.

    Share one table among all values of the same clusters, so that differences between them are resampled
    together.
    """
    return np.random.default_rng(seed).integers(0, num_clusters, (count, num_clusters))


def interval(
    statistic: Callable[..., Means],
    *values: Float[np.ndarray, "clusters items"],
    picks: Int[np.ndarray, "resamples clusters"],
    level: float = 0.95,
) -> Interval:
    """Percentile bootstrap interval of a statistic of cluster means.

    Args:
        statistic: from the mean of each of `values` in every resample to one number for each resample.
        values: of each item of each cluster.
        picks: from `resamples`.
        level: share of resamples inside the interval.

    Returns:
        lower and upper end; NaN where the statistic has no value in any resample.
    """
    means = [np.asarray(x, dtype=float).mean(1)[picks].mean(1) for x in values]
    found = statistic(*means)
    found = found[np.isfinite(found)]
    if not len(found):
        return float("nan"), float("nan")
    low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
