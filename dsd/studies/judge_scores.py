"""How far a judge's scores agree with people's ratings: single numbers, and the same in resamples."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float

from dsd.metrics.functional.agreement import Level, krippendorff_alpha, resampled_alpha
from dsd.metrics.functional.correlation import KINDS, Kind, resampled_correlation
from dsd.studies.judge_ratings import Scores

NUMBERS = ("alpha", *KINDS)
"""Krippendorff's alpha with each rater, and Pearson's, Spearman's and Kendall's correlation with the mean of
the raters."""

Column = Float[np.ndarray, " items"]
Raters = Float[np.ndarray, "raters items"]
Weights = Float[np.ndarray, "resamples items"]
Drawn = Float[np.ndarray, " resamples"]


def on_unit(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """From 0 to 1."""
    return (values - low) / (high - low)


def scaled(scores: Scores) -> Column:
    """A judge's scores from 0 to 1, by its range; by the lowest and highest that it gave if it has none. 1 is
    always the best.
    """
    ends = scores.range or (float(np.nanmin(scores.values)), float(np.nanmax(scores.values)))
    if not ends[0] < ends[1]:
        return np.where(np.isnan(scores.values), np.nan, 0.0)
    unit = on_unit(scores.values, *ends)
    return unit if scores.higher_is_better else 1 - unit


def mean_of(people: Raters) -> Column:
    """The mean rating of each item, of those that are there; NaN without one."""
    there = ~np.isnan(people)
    with np.errstate(invalid="ignore"):
        return np.nansum(people, axis=0) / there.sum(0)


def agreement(judge: Column, people: Raters, weights: Weights, level: Level) -> dict[str, Drawn]:
    """`NUMBERS` of a judge where each item is there so many times, for each row of weights; NaN where a
    number has no value.

    Args:
        judge: its scores from 0 to 1; NaN where missing.
        people: their ratings from 0 to 1; NaN where missing.
        weights: whole numbers.
        level: of measurement, for alpha.
    """
    found = {"alpha": _mean([_alpha(np.stack([judge, rater]), weights, level) for rater in people])}
    return {**found, **_correlations(judge, mean_of(people), weights)}


def agreement_of_people(people: Raters, weights: Weights, level: Level) -> dict[str, Drawn]:
    """The same of people among each other: alpha of all, and the correlations of each rater with the mean of
    the others, on average.
    """
    found: dict[str, Drawn] = {"alpha": _alpha(people, weights, level)}
    each = [
        _correlations(rater, mean_of(np.delete(people, i, axis=0)), weights) for i, rater in enumerate(people)
    ]
    return {**found, **{kind: _mean([x[kind] for x in each]) for kind in KINDS}}


def spearman(judge: Column, people: Raters, weights: Weights) -> Drawn:
    """Spearman's rho of `agreement` alone."""
    return _correlations(judge, mean_of(people), weights, ("spearman",))["spearman"]


def plain(judge: Column, people: Raters, level: Level) -> dict[str, float | None]:
    """`NUMBERS` of a judge, each item once; None where one has no value."""
    return _numbers(agreement(judge, people, np.ones((1, people.shape[1])), level))


def plain_of_people(people: Raters, level: Level) -> dict[str, float | None]:
    """`NUMBERS` of people, each item once; None where one has no value."""
    if len(people) < 2:
        return dict.fromkeys(NUMBERS)
    return _numbers(agreement_of_people(people, np.ones((1, people.shape[1])), level))


def fisher_mean(values: Sequence[Drawn]) -> Drawn:
    """The mean of correlations on Fisher's scale, in every resample."""
    table = np.clip(np.stack(values), -1 + 1e-12, 1 - 1e-12)
    return np.tanh(np.arctanh(table).mean(0))


def pairwise_alpha(people: Raters, level: Level) -> float | None:
    """The mean of alpha over pairs of raters: what a judge's alpha is to be measured by; None if none has a
    value.
    """
    found = []
    for i in range(len(people)):
        for j in range(i + 1, len(people)):
            try:
                found.append(float(krippendorff_alpha(people[[i, j]], level)))
            except ValueError:  # the two share no item, or say the same of all
                continue
    return float(np.mean(found)) if found else None


def _alpha(table: Raters, weights: Weights, level: Level) -> Drawn:
    return resampled_alpha(torch.from_numpy(table), torch.from_numpy(weights), level).numpy()


def _correlations(
    one: Column, other: Column, weights: Weights, kinds: Sequence[Kind] = KINDS
) -> dict[str, Drawn]:
    both = np.isfinite(one) & np.isfinite(other)
    if both.sum() < 2:
        return {kind: np.full(len(weights), np.nan) for kind in kinds}
    x, y, w = (torch.from_numpy(np.ascontiguousarray(v)) for v in (one[both], other[both], weights[:, both]))
    return {kind: resampled_correlation(x, y, w, kind).numpy() for kind in kinds}


def _mean(values: Sequence[Drawn]) -> Drawn:
    """Over raters; one that has no value in a resample is left out of it."""
    table = np.stack(values)
    there = np.isfinite(table)
    with np.errstate(invalid="ignore"):
        return np.where(there, table, 0.0).sum(0) / there.sum(0)


def _numbers(found: dict[str, Drawn]) -> dict[str, float | None]:
    return {name: float(x[0]) if np.isfinite(x[0]) else None for name, x in found.items()}
