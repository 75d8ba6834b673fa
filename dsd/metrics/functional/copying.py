"""Whether a picture shows its subject anew, or pastes its reference."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from dsd.metrics.functional.grouped import Average, NanPolicy, grouped_mean
from dsd.metrics.functional.image_similarity import normalized

Embeddings = Float[Tensor, "n d"]


def angle(one: Embeddings, other: Embeddings) -> Float[Tensor, " n"]:
    """The angle between rows in [0, pi]; exact for equal and for opposite ones, as arccos of a cosine is not.

    References:
        Kahan, *How Futile are Mindless Assessments of Roundoff*, 2006, section 12.
    """
    a, b = normalized(one), normalized(other)
    return 2 * torch.atan2((a - b).norm(dim=-1), (a + b).norm(dim=-1))


def copy_paste(
    generated: Embeddings, truth: Embeddings, reference: Embeddings, eps: float = 1e-6
) -> Float[Tensor, " n"]:
    r"""How much nearer each picture is to its reference than to another true view of the subject,
    $(\theta_{gt} - \theta_{gr}) / \max(\theta_{tr}, \epsilon)$ with angles $\theta$ between embeddings.

    Args:
        generated: embeddings of generated pictures.
        truth: of another true view of each subject.
        reference: of what the generator was given.
        eps: least angle between truth and reference.

    Returns:
        numbers in [-1, 1]: 1 for a copy of the reference, -1 for the other view, 0 for what is as near to
        both.

    References:
        Xu et al., *WithAnyone*, 2025, https://arxiv.org/abs/2510.14975 (there M_CP).

    Example:
        >>> import torch
        >>> truth, reference = torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0, 0.0]])
        >>> [round(copy_paste(g, truth, reference).item(), 4) for g in (reference, truth, truth + reference)]
        [1.0, -1.0, 0.0]
    """
    between = angle(truth, reference).clamp_min(eps)
    return ((angle(generated, truth) - angle(generated, reference)) / between).clamp(-1, 1)


def copy_paste_score(
    generated: Embeddings,
    truth: Float[Tensor, "t d"],
    reference: Float[Tensor, "r d"],
    groups: Any = None,
    *,
    min_truth_similarity: float | None = None,
    average: Average = "micro",
    weights: Sequence[float] | None = None,
    nan_policy: NanPolicy = "error",
) -> dict[str, Tensor]:
    """The mean of `copy_paste` over pictures that show their subject at all.

    Args:
        generated: embeddings of generated pictures; a row with NaN is missing.
        truth: of another true view of each subject.
        reference: of what the generator was given.
        groups: (n,) number of each one's group, from 0.
        min_truth_similarity: pictures whose cosine with the truth is below are left out and counted as
            `gated`: a picture of something else is near neither. MultiID-Bench takes .40.
        average: see `dsd.metrics.functional.grouped.Average`.
        weights: of the groups, for "macro".
        nan_policy: see `dsd.metrics.functional.grouped.NanPolicy`.

    Returns:
        what `grouped_mean` returns, `truth_similarity` and `reference_similarity`, the mean cosines with
        both, gated pictures included, and `gated`.

    Raises:
        ValueError: if the shapes differ, or as `grouped_mean`.
    """
    values, to_truth, to_reference, gated = copy_paste_parts(
        generated, truth, reference, min_truth_similarity
    )
    kept = of_kept(groups, ~gated)
    found = grouped_mean(values[~gated], kept, average=average, weights=weights, nan_policy=nan_policy)
    return {
        **found,
        "truth_similarity": to_truth.nanmean(),
        "reference_similarity": to_reference.nanmean(),
        "gated": gated.sum(),
    }


def copy_paste_parts(
    generated: Embeddings,
    truth: Float[Tensor, "t d"],
    reference: Float[Tensor, "r d"],
    min_truth_similarity: float | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of each picture: `copy_paste`, the cosine with the truth and with the reference, and whether it is
    gated.

    Raises:
        ValueError: if the shapes differ.
    """
    shapes = {tuple(x.shape) for x in (generated, truth, reference)}
    if len(shapes) > 1:
        raise ValueError(
            f"Generated, truth and reference differ in shape: {sorted(shapes)}; give one of each."
        )
    values = copy_paste(generated, truth, reference)
    to_truth, to_reference = ((normalized(generated) * normalized(x)).sum(-1) for x in (truth, reference))
    if min_truth_similarity is None:
        return values, to_truth, to_reference, torch.zeros_like(values, dtype=torch.bool)
    return values, to_truth, to_reference, to_truth < min_truth_similarity


def of_kept(groups: Any, kept: Tensor) -> Any:
    """The groups of those that are kept."""
    return None if groups is None else torch.as_tensor(groups).flatten()[kept.cpu()]
