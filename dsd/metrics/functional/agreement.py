"""How far raters agree: Krippendorff's alpha, and the mean of correlations."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dsd.metrics.functional.correlation import resampled_ranks, varies

Level = str
"""One of `LEVELS`: a difference is none or one; ranks apart; the distance; the distance over the sum."""

LEVELS: tuple[Level, ...] = ("nominal", "ordinal", "interval", "ratio")

Values = Float[Tensor, " ratings"]
Sizes = Int[Tensor, " items"]
Sums = tuple[Tensor, Tensor, Tensor, Tensor]
_CELLS = 4_000_000  # of a table that is held at once


def krippendorff_alpha(ratings: Any, level: Level = "interval") -> Float[Tensor, ""]:
    r"""Krippendorff's alpha, $1 - D_o / D_e$: agreement of any number of raters, any of whose ratings may be
    missing.

    1 is agreement, 0 is what chance gives, and less is disagreement. An item with fewer than two ratings says
    nothing on agreement and is left out.

    Args:
        ratings: (raters, items), NaN where a rating is missing; a tensor, an array or lists.
        level: what the numbers mean: "nominal" (names), "ordinal" (order alone), "interval" (differences) or
            "ratio" (a true zero; no rating may be below it).

    Returns:
        in (-inf, 1], in double precision.

    Raises:
        ValueError: if there is no such level, the shape is another, a rating is infinite, no item has two
            ratings, all ratings are the same (agreement by chance is then certain, and alpha has no value),
            or a rating is negative at the level "ratio".

    References:
        Krippendorff, *Computing Krippendorff's Alpha-Reliability*, 2011. In closed form: with $m_u \ge 2$
        ratings of item u and n of all items, $n D_o = \sum_u 2 (m_u \sum x^2 - (\sum x)^2) / (m_u - 1)$ and
        $D_e = 2 (n \sum x^2 - (\sum x)^2) / (n (n - 1))$. The ordinal level is the same on mean ranks.

    Example:
        >>> nan = float("nan")
        >>> krippendorff_alpha([[1, 2, 3, nan], [1, 2, 4, 4], [nan, 2, 3, nan]])
        tensor(0.8833, dtype=torch.float64)
    """
    check_level(level)
    return alpha_of_items(*items_of(ratings), level)


def check_level(level: str) -> None:
    """Refuse what is no level of measurement.

    Raises:
        ValueError: if it is none of `LEVELS`.
    """
    if level not in LEVELS:
        raise ValueError(f"Unknown level {level!r}. Allowed: {', '.join(LEVELS)}.")


def items_of(ratings: Any) -> tuple[Values, Sizes]:
    """The ratings of items that have at least two, item by item, and how many each has.

    Args:
        ratings: (raters, items), NaN where missing.

    Raises:
        ValueError: if the shape is another, or a rating is infinite.
    """
    table = torch.as_tensor(ratings).detach()
    if table.ndim != 2:
        raise ValueError(f"Ratings have the shape (raters, items); got {tuple(table.shape)}.")
    table = table.double().T
    if torch.isinf(table).any():
        raise ValueError("A rating is infinite. Give NaN where one is missing.")
    given = ~torch.isnan(table)
    sizes = given.sum(1)
    pairable = sizes >= 2
    return table[pairable][given[pairable]], sizes[pairable]


def alpha_of_items(values: Values, sizes: Sizes, level: Level = "interval") -> Float[Tensor, ""]:
    """Alpha from what `items_of` gives, of one or several tables joined.

    Raises:
        ValueError: as `krippendorff_alpha`.
    """
    if level == "ratio":
        return _ratio_alpha(values, sizes)
    if level == "nominal":
        return _nominal_alpha(values, sizes)
    shown = values if level == "interval" else _mean_ranks(values)
    if len(shown):
        shown = shown - shown.mean()  # changes nothing but rounding
    return alpha_of_sums(*interval_sums(shown, sizes))


def interval_sums(values: Values, sizes: Sizes) -> Sums:
    r"""What alpha needs at the level "interval", sums over items: n, $\sum x$, $\sum x^2$, $n D_o$."""
    item = torch.repeat_interleave(torch.arange(len(sizes), device=sizes.device), sizes)
    count = sizes.to(values)
    mean = _by_item(values, item, len(sizes)) / count
    within = _by_item((values - mean[item]) ** 2, item, len(sizes))  # (m sum x^2 - (sum x)^2) / m
    observed = (2 * count * within / (count - 1)).sum()
    return torch.tensor(len(values), device=values.device), values.sum(), (values**2).sum(), observed


def alpha_of_sums(n: Tensor, total: Tensor, squares: Tensor, observed: Tensor) -> Float[Tensor, ""]:
    """Alpha at the level "interval" from `interval_sums`, of one or several tables added up.

    Raises:
        ValueError: if no item has two ratings, or all ratings are the same.
    """
    _check_any(int(n))
    expected = 2 * (n * squares - total**2) / (n - 1)
    if expected <= 1e-14 * n * squares.abs():
        raise ValueError(_ALL_THE_SAME)
    return 1 - observed / expected


def resampled_alpha(
    ratings: Any, weights: Float[Tensor, "resamples items"], level: Level = "interval"
) -> Float[Tensor, " resamples"]:
    """Alpha where each item is there so many times, for each row of weights; for intervals.

    Args:
        ratings: (raters, items), NaN where missing.
        weights: how often each item is in each resample, a whole number.
        level: as in `krippendorff_alpha`; "nominal" and "ratio" take much longer.

    Returns:
        a number for each resample; NaN where it has no value.

    Raises:
        ValueError: if there is no such level, the shape is another, or a rating is infinite.
    """
    check_level(level)
    table = torch.as_tensor(ratings).detach().double()
    values, sizes = items_of(table)
    times = weights[:, (~torch.isnan(table)).sum(0) >= 2].double()
    item = torch.repeat_interleave(torch.arange(len(sizes), device=sizes.device), sizes)
    if level in ("nominal", "ratio"):
        return torch.stack([_repeated_alpha(values, sizes, row.long(), level) for row in times])
    each = times[:, item]
    shown = values.expand_as(each) if level == "interval" else resampled_ranks(values, each)
    known = varies(shown, each) if len(values) else torch.zeros(len(times), dtype=torch.bool)
    n = each.sum(1)
    shown = shown - ((each * shown).sum(1) / n)[:, None]
    count = sizes.to(values)
    mean = torch.zeros_like(times).index_add_(1, item, shown) / count
    within = torch.zeros_like(times).index_add_(1, item, (shown - mean[:, item]) ** 2)
    observed = (times * 2 * count * within / (count - 1)).sum(1)
    expected = 2 * (n * (each * shown**2).sum(1) - (each * shown).sum(1) ** 2) / (n - 1)
    return (1 - observed / expected).where(known, torch.nan)


def _repeated_alpha(values: Values, sizes: Sizes, times: Int[Tensor, " items"], level: Level) -> Tensor:
    rows = torch.repeat_interleave(torch.arange(len(sizes), device=sizes.device), times)
    starts = (sizes.cumsum(0) - sizes)[rows]
    counts = sizes[rows]
    within = torch.arange(int(counts.sum()), device=sizes.device)
    first = torch.repeat_interleave(counts.cumsum(0) - counts, counts)
    repeated = values[torch.repeat_interleave(starts, counts) + within - first]
    if not len(repeated) or repeated.min() == repeated.max():
        return values.new_tensor(torch.nan)
    return alpha_of_items(repeated, counts, level)


def fisher_z_mean(r: Any, weights: Any = None) -> Float[Tensor, ""]:
    r"""The mean of correlations on Fisher's scale, $\tanh(\sum w_i \operatorname{artanh} r_i / \sum w_i)$.

    The plain mean of correlations is too small; applying the inverse alone, as VIEScore does, is wrong.

    Args:
        r: correlations in [-1, 1]; those within 1e-12 of an end are moved there.
        weights: of each, not negative; the numbers of items less 3 are usual. All alike by default.

    Raises:
        ValueError: if there is no correlation, one is NaN or outside [-1, 1], or the weights do not fit.

    Example:
        >>> fisher_z_mean([0.5521, 0.2051, 0.1210, 0.3185])  # VIEScore prints .2906
        tensor(0.3097, dtype=torch.float64)
    """
    values = torch.as_tensor(r).detach().double().flatten()
    if not len(values):
        raise ValueError("There is no correlation to average.")
    if torch.isnan(values).any() or (values.abs() > 1 + 1e-6).any():
        raise ValueError(
            f"Correlations are in [-1, 1]; got {values.tolist()}. Leave out those without a value."
        )
    shares = torch.ones_like(values) if weights is None else torch.as_tensor(weights).to(values).flatten()
    if len(shares) != len(values) or not (shares >= 0).all() or not 0 < float(shares.sum()) < float("inf"):
        raise ValueError(
            f"Give each of the {len(values)} correlations a weight of 0 or more, not all 0; got "
            f"{shares.tolist()}."
        )
    clipped = values.clamp(-1 + 1e-12, 1 - 1e-12)
    return torch.tanh((shares * torch.atanh(clipped)).sum() / shares.sum())


_ALL_THE_SAME = (
    "All ratings are the same, so that agreement by chance is certain and Krippendorff's alpha has no value. "
    "Give items that are rated differently."
)


def _check_any(n: int) -> None:
    if n == 0:
        raise ValueError("No item has two ratings or more, so that there is no agreement to measure.")


def _by_item(values: Tensor, item: Tensor, num_items: int) -> Tensor:
    return values.new_zeros(num_items).index_add_(0, item, values)


def _mean_ranks(values: Values) -> Values:
    """Ranks, the same for ties; half a step apart from usual ones, which changes no difference."""
    _, place, counts = torch.unique(values, return_inverse=True, return_counts=True)
    return (counts.cumsum(0) - counts.double() / 2)[place]


def _nominal_alpha(values: Values, sizes: Sizes) -> Tensor:
    _check_any(len(values))
    names, place, counts = torch.unique(values, return_inverse=True, return_counts=True)
    if len(names) == 1:
        raise ValueError(_ALL_THE_SAME)
    item = torch.repeat_interleave(torch.arange(len(sizes), device=sizes.device), sizes)
    cells, times = torch.unique(item * len(names) + place, return_counts=True)
    alike = _by_item(times.double() ** 2, cells // len(names), len(sizes))
    observed = ((sizes**2 - alike) / (sizes - 1)).sum()
    expected = (len(values) ** 2 - (counts.double() ** 2).sum()) / (len(values) - 1)
    return 1 - observed / expected


def _ratio_alpha(values: Values, sizes: Sizes) -> Tensor:
    _check_any(len(values))
    if (values < 0).any():
        raise ValueError(f"At the level 'ratio' no rating is below 0; got {float(values.min()):g}.")
    names, counts = torch.unique(values, return_counts=True)
    if len(names) == 1:
        raise ValueError(_ALL_THE_SAME)
    observed = values.new_zeros(())
    starts = sizes.cumsum(0) - sizes
    for size in torch.unique(sizes).tolist():  # items with as many ratings, as a table
        rows = starts[sizes == size][:, None] + torch.arange(size, device=sizes.device)
        for part in rows.split(max(1, _CELLS // size**2)):
            table = values[part]
            observed = observed + _apart(table[:, :, None], table[:, None, :]).sum() / (size - 1)
    weights = counts.double()
    expected = values.new_zeros(())
    for some, of_some in zip(*(x.split(max(1, _CELLS // len(names))) for x in (names, weights)), strict=True):
        expected = expected + (of_some[:, None] * weights * _apart(some[:, None], names)).sum()
    return 1 - observed * (len(values) - 1) / expected


def _apart(one: Tensor, other: Tensor) -> Tensor:
    """The squared difference of ratio numbers; 0 of two zeros."""
    return torch.nan_to_num((one - other) / (one + other)) ** 2
