"""Correlations of two columns of numbers, plain and in many resamples at once."""

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

Kind = str
"""One of `KINDS`."""

KINDS: tuple[Kind, ...] = ("pearson", "spearman", "kendall")
_CELLS = 4_000_000  # of a table that is held at once

Column = Float[Tensor, " items"]
Weights = Float[Tensor, "resamples items"]


def correlation(x: Any, y: Any, kind: Kind = "spearman") -> Float[Tensor, ""]:
    """Pearson's r, Spearman's rho (with mean ranks for ties) or Kendall's tau-b of two columns.

    Args:
        x: one number an item.
        y: another of the same items, in the same order.
        kind: which; the time for "kendall" grows with the square of the number of items.

    Returns:
        in [-1, 1], in double precision.

    Raises:
        ValueError: if there is no such kind, the columns differ in length or have fewer than two items, a
            number is not finite, or all numbers of a column are the same.

    Example:
        >>> correlation([1, 2, 3, 4], [1, 3, 2, 4]), correlation([1, 2, 3, 4], [1, 3, 2, 4], "kendall")
        (tensor(0.8000, dtype=torch.float64), tensor(0.6667, dtype=torch.float64))
    """
    first, second = (torch.as_tensor(values).detach().double().flatten() for values in (x, y))
    if len(first) != len(second) or len(first) < 2:
        raise ValueError(f"Give two columns of at least two items each; got {len(first)} and {len(second)}.")
    for values in (first, second):
        if not torch.isfinite(values).all():
            raise ValueError("A number is NaN or infinite. Leave such items out of both columns.")
        if values.min() == values.max():
            raise ValueError(f"All numbers of a column are {float(values[0]):g}: a correlation has no value.")
    return resampled_correlation(first, second, torch.ones_like(first)[None], kind)[0]


def resampled_correlation(
    x: Column, y: Column, weights: Weights, kind: Kind = "spearman"
) -> Float[Tensor, " resamples"]:
    """The correlation where each item is there so many times, for each row of weights.

    Args:
        x: one finite number an item.
        y: another of the same items.
        weights: how often each item is in each resample.
        kind: as in `correlation`.

    Returns:
        a number for each resample; NaN where one of the columns has one value only.

    Raises:
        ValueError: if there is no such kind.
    """
    if kind == "pearson":
        return _pearson(x.expand_as(weights), y.expand_as(weights), weights)
    if kind == "spearman":
        return _pearson(resampled_ranks(x, weights), resampled_ranks(y, weights), weights)
    if kind == "kendall":
        return _kendall(x, y, weights)
    raise ValueError(f"Unknown correlation {kind!r}. Allowed: {', '.join(KINDS)}.")


def _pearson(x: Weights, y: Weights, weights: Weights) -> Tensor:
    known = varies(x, weights) & varies(y, weights)
    total = weights.sum(1, keepdim=True)
    x, y = (values - (weights * values).sum(1, keepdim=True) / total for values in (x, y))
    spread = [(weights * values**2).sum(1).sqrt() for values in (x, y)]
    found = (weights * x * y).sum(1) / (spread[0] * spread[1])
    return found.clamp(-1, 1).where(known, torch.nan)


def varies(values: Weights, weights: Weights) -> Bool[Tensor, " resamples"]:
    """Whether the items that are in a resample have more than one value."""
    there = weights > 0
    return values.where(there, -torch.inf).amax(1) > values.where(there, torch.inf).amin(1)


def resampled_ranks(values: Column, weights: Weights) -> Weights:
    """The mean rank of each item in each resample, half a rank below the usual.

    Args:
        values: one number an item.
        weights: how often each item is in each resample.
    """
    names, place = torch.unique(values, return_inverse=True)
    counts = weights.new_zeros(len(weights), len(names)).index_add_(1, place, weights)
    return (counts.cumsum(1) - counts / 2)[:, place]


def _kendall(x: Column, y: Column, weights: Weights) -> Tensor:
    """Tau-b: concordant less discordant pairs, over the geometric mean of the pairs untied in x and in y."""
    sums = weights.new_zeros(3, len(weights))
    for part in torch.arange(len(x), device=x.device).split(max(1, _CELLS // len(x))):
        signs = [torch.sign(values[part][:, None] - values) for values in (x, y)]
        for i, table in enumerate((signs[0] * signs[1], signs[0].abs(), signs[1].abs())):
            sums[i] += (weights[:, part] * (weights @ table.T)).sum(1)
    untied = (sums[1] * sums[2]).sqrt()
    return (sums[0] / untied).where(untied > 0, torch.nan)
