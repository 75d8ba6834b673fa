"""How well a metric agrees with people."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from dsd.metrics.functional.agreement import Level, krippendorff_alpha
from dsd.metrics.functional.correlation import KINDS, correlation
from dsd.metrics.functional.gap import check_scale, on_unit_scale


def human_alignment(
    scores: Any,
    ratings: Any,
    *,
    low: float = 0.0,
    high: float = 4.0,
    score_range: tuple[float, float] | None = None,
    level: Level = "interval",
) -> dict[str, Tensor]:
    r"""Correlations of a metric with each group of raters, and alpha between the two.

    Each number is the mean over the groups of raters, with half the distance between the lowest and the
    highest group; DreamBench++ reports two groups in this way. Alpha depends on the scale, so both sides are
    brought to [0, 1] first: ratings by their scale, scores by `score_range`.

    Args:
        scores: (items,) of the metric; NaN where missing.
        ratings: (groups, items) of people, in the same order; NaN where missing.
        low: lowest rating of the people's scale.
        high: highest rating of it.
        score_range: the scores that stand for 0 and 1; by default the lowest and the highest of `scores`. To
            compare methods, give those of all methods together.
        level: of measurement, for alpha.

    Returns:
        `pearson`, `spearman`, `kendall` and `alpha`, and of each `..._half_range` and `..._by_group`
        (groups,); `n`, (groups,) items that a group rated and that have a score; `missing_scores` and
        `missing_ratings`, items without a score, and without any rating.

    Raises:
        ValueError: if the shapes do not fit, a rating is outside the scale, a score is infinite or outside
            its range, a group shares fewer than two items with the metric, or all numbers of one side are
            the same.

    Example:
        >>> result = human_alignment([0.2, 0.5, 0.9, 0.7], [[0, 2, 4, 3], [1, 1, 4, 4]])
        >>> result["spearman_by_group"]
        tensor([1.0000, 0.8944], dtype=torch.float64)
    """
    check_scale(low, high)
    metric, people = (torch.as_tensor(x).detach().double() for x in (scores, ratings))
    if people.ndim == 1:
        people = people[None]
    if metric.ndim != 1 or people.ndim != 2 or people.shape[1] != len(metric) or not len(people):
        raise ValueError(
            f"Scores have the shape (items,) and ratings (groups, items); got {tuple(metric.shape)} and "
            f"{tuple(people.shape)}."
        )
    if torch.isinf(metric).any():
        raise ValueError("A score is infinite. Give NaN where one is missing.")
    people = on_unit_scale(people, low, high)
    bounds = score_bounds(metric) if score_range is None else score_range
    check_scale(*bounds)
    scaled = on_unit_scale(metric, *bounds)
    there = ~torch.isnan(scaled)
    rated = ~torch.isnan(people)
    found: dict[str, list[Tensor]] = {name: [] for name in (*KINDS, "alpha")}
    for group, given in zip(people, rated, strict=True):
        both = given & there
        if both.sum() < 2:
            raise ValueError(
                f"A group of raters shares {int(both.sum())} items with the metric; at least 2 are needed. "
                "Check that the items' keys are the same on both sides."
            )
        for kind in KINDS:
            found[kind].append(correlation(scaled[both], group[both], kind))
        found["alpha"].append(krippendorff_alpha(torch.stack([scaled[both], group[both]]), level))
    result: dict[str, Tensor] = {}
    for name, values in found.items():
        groups: Float[Tensor, " groups"] = torch.stack(values)
        result[name] = groups.mean()
        result[f"{name}_half_range"] = (groups.max() - groups.min()) / 2
        result[f"{name}_by_group"] = groups
    return result | {
        "n": (rated & there).sum(1),
        "missing_scores": (~there).sum(),
        "missing_ratings": (~rated.any(0)).sum(),
    }


def score_bounds(scores: Tensor) -> tuple[float, float]:
    """The lowest and the highest score.

    Raises:
        ValueError: if there is none, or all are the same.
    """
    known = scores[~torch.isnan(scores)]
    if not len(known) or known.min() == known.max():
        raise ValueError("A metric needs two different scores or more to be compared with people.")
    return float(known.min()), float(known.max())
