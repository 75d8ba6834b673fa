"""How alike embeddings of generated pictures and of their references are."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from dsd.metrics.functional.grouped import Average, NanPolicy, grouped_mean

Reduction = str
"""Of several references: `mean` of the similarities, as DreamBooth has it, or `max`."""

REDUCTIONS: tuple[Reduction, ...] = ("mean", "max")
Embeddings = Float[Tensor, "n d"]


def image_similarity(
    generated: Embeddings,
    reference: Float[Tensor, "m d"] | Sequence[Float[Tensor, "_ _"]],
    groups: Any = None,
    *,
    reduction: Reduction = "mean",
    average: Average = "micro",
    weights: Sequence[float] | None = None,
    nan_policy: NanPolicy = "error",
) -> dict[str, Tensor]:
    r"""Mean cosine of generated pictures and their references, $\frac1n \sum_i \cos(g_i, r_i)$: CLIP-I, DINO.

    Args:
        generated: embeddings of generated pictures, of any length; a row with NaN is missing.
        reference: embeddings of what each should be alike, one row each, or a set (r, d) for each.
        groups: (n,) number of each one's group, from 0.
        reduction: see `Reduction`.
        average: see `dsd.metrics.functional.grouped.Average`.
        weights: of the groups, for "macro".
        nan_policy: see `dsd.metrics.functional.grouped.NanPolicy`.

    Returns:
        what `grouped_mean` returns; scores are in [-1, 1].

    Raises:
        ValueError: if the lengths do not fit, or as `grouped_mean`.

    Example:
        >>> import torch
        >>> a, b = torch.tensor([[1.0, 0.0], [1.0, 1.0]]), torch.tensor([[2.0, 0.0], [0.0, 1.0]])
        >>> image_similarity(a, b)["score"]
        tensor(0.8536, dtype=torch.float64)
    """
    found = reference_cosines(generated, reference, reduction)
    return grouped_mean(found, groups, average=average, weights=weights, nan_policy=nan_policy)


def reference_cosines(
    generated: Embeddings,
    reference: Float[Tensor, "m d"] | Sequence[Float[Tensor, "_ _"]],
    reduction: Reduction = "mean",
) -> Float[Tensor, " n"]:
    """The cosine of each row with its reference, or with its set of references, reduced.

    Raises:
        ValueError: if the lengths do not fit, a set is empty, or there is no such reduction.
    """
    check_reduction(reduction)
    if len(generated) != len(reference):
        raise ValueError(
            f"Got {len(generated)} generated pictures and {len(reference)} references; give one of each."
        )
    first = normalized(generated)
    if isinstance(reference, Tensor):
        return (first * normalized(reference)).sum(-1)
    if any(len(some) == 0 for some in reference):
        raise ValueError("A set of references is empty: there is nothing to compare with.")
    sizes = torch.tensor([len(some) for some in reference], dtype=torch.int64)
    owner = torch.repeat_interleave(torch.arange(len(sizes)), sizes).to(first.device)
    if not len(owner):
        return first.new_zeros(0)
    cosines = (first[owner] * normalized(torch.cat([some.to(first.device) for some in reference]))).sum(-1)
    if reduction == "mean":
        return first.new_zeros(len(sizes)).index_add_(0, owner, cosines) / sizes.to(first)
    return first.new_full((len(sizes),), -torch.inf).scatter_reduce(0, owner, cosines, "amax")


def normalized(rows: Float[Tensor, "*n d"]) -> Float[Tensor, "*n d"]:
    """Rows of length 1 in double precision; a row of zeros has no direction and becomes NaN."""
    found = rows.double()
    lengths = found.norm(dim=-1, keepdim=True)
    return torch.where(lengths > 0, found / lengths, torch.nan)


def check_reduction(reduction: Reduction) -> None:
    """Refuse a reduction that there is not.

    Raises:
        ValueError: saying which.
    """
    if reduction not in REDUCTIONS:
        raise ValueError(f"Unknown `reduction` {reduction!r}. Allowed: {', '.join(REDUCTIONS)}.")
