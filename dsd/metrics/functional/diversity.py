"""How different the pictures of one prompt are."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from dsd.metrics.functional.grouped import Average, NanPolicy, grouped_mean
from dsd.metrics.functional.image_similarity import normalized


def intra_prompt_diversity(
    sets: Sequence[Float[Tensor, "_ _"]],
    groups: Any = None,
    *,
    average: Average = "micro",
    weights: Sequence[float] | None = None,
    nan_policy: NanPolicy = "error",
) -> dict[str, Tensor]:
    """The mean of `diversity` over prompts.

    Args:
        sets: embeddings of the pictures of each prompt; with fewer than two, a prompt is missing.
        groups: (n,) number of each prompt's group, from 0.
        average: see `dsd.metrics.functional.grouped.Average`.
        weights: of the groups, for "macro".
        nan_policy: see `dsd.metrics.functional.grouped.NanPolicy`.

    Returns:
        what `grouped_mean` returns; scores are in [0, 2], and `n` counts prompts.

    Raises:
        ValueError: as `grouped_mean`.
    """
    return grouped_mean(diversity(sets), groups, average=average, weights=weights, nan_policy=nan_policy)


def diversity(sets: Sequence[Float[Tensor, "_ _"]]) -> Float[Tensor, " n"]:
    r"""The mean distance of the pictures of each prompt, $1 - \cos$, over all pairs; NaN with fewer than two.

    Example:
        >>> import torch
        >>> diversity([torch.eye(2), torch.ones(3, 2), torch.ones(1, 2)])
        tensor([1., 0., nan], dtype=torch.float64)
    """
    found = []
    for rows in sets:
        unit = normalized(rows)
        k = len(unit)
        cosines = (unit.sum(0).square().sum() - unit.square().sum()) / max(k * (k - 1), 1)
        found.append(1 - cosines if k > 1 else cosines.new_tensor(torch.nan))
    return torch.stack(found) if found else torch.zeros(0, dtype=torch.float64)
