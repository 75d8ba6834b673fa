"""Prompts and pictures: their likeness, and a prompt without its subject."""

import re
from collections.abc import Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor

from dsd.metrics.functional.grouped import Average, NanPolicy
from dsd.metrics.functional.image_similarity import image_similarity

_DETERMINERS = r"(?:(?:an?|the|this|that|my|your)\s+)?"


def text_image_similarity(
    generated: Float[Tensor, "n d"],
    prompts: Float[Tensor, "m d"],
    groups: Any = None,
    *,
    average: Average = "micro",
    weights: Sequence[float] | None = None,
    nan_policy: NanPolicy = "error",
) -> dict[str, Tensor]:
    """Mean cosine of pictures and prompts in a space that holds both: CLIP-T.

    Args:
        generated: embeddings of pictures; a row with NaN is missing.
        prompts: embeddings of what each should show.
        groups: (n,) number of each one's group, from 0.
        average: see `dsd.metrics.functional.grouped.Average`.
        weights: of the groups, for "macro".
        nan_policy: see `dsd.metrics.functional.grouped.NanPolicy`.

    Returns:
        what `grouped_mean` returns; scores are in [-1, 1], not clipped at 0.

    Raises:
        ValueError: if the lengths do not fit, or as `grouped_mean`.
    """
    return image_similarity(
        generated, prompts, groups, average=average, weights=weights, nan_policy=nan_policy
    )


def strip_subject(prompt: str, subject: str) -> str:
    """A prompt without the name of its subject, so that CLIP-T does not reward the subject itself.

    Raises:
        ValueError: if there is no subject, or nothing else is left.

    Example:
        >>> strip_subject("A backpack on top of the Eiffel tower", "backpack")
        'on top of the Eiffel tower'
    """
    if not subject.strip():
        raise ValueError("The subject's name is empty.")
    name = r"\s+".join(map(re.escape, subject.split()))
    left = re.sub(rf"(?<!\w){_DETERMINERS}{name}(?!\w)", " ", prompt, flags=re.IGNORECASE)
    left = re.sub(r"\s+([,.;:!?])", r"\1", " ".join(left.split())).strip(" ,;:")
    if not re.search(r"\w", left):
        raise ValueError(f"Nothing is left of the prompt {prompt!r} without its subject {subject!r}.")
    return left
