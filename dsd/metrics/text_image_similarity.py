"""CLIP-T: how alike pictures and prompts are to a network that knows both."""

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from dsd.extractors.sharing import shared
from dsd.metrics.embedded import embed
from dsd.metrics.functional.image_similarity import reference_cosines
from dsd.metrics.functional.texts import strip_subject
from dsd.metrics.grouped import GroupedMean
from dsd.metrics.images import read


class TextImageSimilarity(GroupedMean):
    """Mean cosine of pictures and their prompts (CLIP-T), not clipped at 0.

    A prompt beyond the network's limit, 77 tokens for CLIP, is read up to there, with a warning that says how
    many were, and counted in what `compute` returns; or it is an error.

    Args:
        extractor: a network that reads, as `dsd.extractors.load` takes it: "dreambench++/clip", "siglip2", a
            CLIP or SigLIP of transformers or open_clip, or a function with a method `texts`.
        long_prompts: "truncate" or "error".
        kwargs: of `dsd.metrics.GroupedMean` and `torchmetrics.Metric`.

    Raises:
        LookupError, TypeError: for an extractor that does not exist.
        ValueError: for an unknown way with long prompts, or as `GroupedMean`.
    """

    plot_lower_bound: float = -1.0
    plot_upper_bound: float = 1.0
    truncated: Tensor

    def __init__(
        self,
        extractor: Any = "dreambench++/clip",
        long_prompts: str = "truncate",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if long_prompts not in ("truncate", "error"):
            raise ValueError(f"Unknown `long_prompts` {long_prompts!r}. Allowed: truncate, error.")
        self.encoder, self.long_prompts = shared(extractor), long_prompts
        self.add_state("truncated", torch.tensor(0), dist_reduce_fx="sum")

    @property
    def preprocessing(self) -> str:
        """What is done to a picture before the network sees it; loads the network."""
        return self.encoder.preprocessing

    def update(
        self,
        generated: Any,
        prompts: Sequence[str],
        groups: Any = None,
        subjects: Sequence[str] | str | None = None,
    ) -> None:
        """Add pictures and their prompts.

        Args:
            generated: n pictures, as `dsd.metrics.images.read` takes them; None where one is missing.
            prompts: what each should show.
            groups: the name of each one's group, or one for all.
            subjects: names of subjects, one for each or one for all, that are taken out of the prompts.

        Raises:
            TypeError, ValueError: if the lengths do not fit, a picture cannot be read, nothing is left of a
                prompt, or one is too long under "error".
        """
        images, texts = read(generated), [prompts] if isinstance(prompts, str) else list(prompts)
        names = [subjects] * len(texts) if isinstance(subjects, str) else subjects
        if len(images) != len(texts) or (names is not None and len(names) != len(texts)):
            told = "" if names is None else f" and {len(names)} subjects"
            raise ValueError(
                f"Got {len(images)} generated pictures, {len(texts)} prompts{told}; give one of each."
            )
        if not texts:
            return
        if names is not None:
            texts = [strip_subject(text, name) for text, name in zip(texts, names, strict=True)]
        too_long = self._too_long(texts)
        rows, words = embed(self.encoder, images), self.encoder.texts(texts)
        if bool(rows.isnan().all()):
            rows = words * torch.nan
        self.add(reference_cosines(rows, words), groups)
        self.truncated = self.truncated + too_long

    def compute(self) -> dict[str, Tensor]:
        """As `GroupedMean.compute`, and `truncated`: prompts that were not read to their end, if the
        extractor counts tokens.
        """
        return {**super().compute(), "truncated": self.truncated}

    def _too_long(self, texts: Sequence[str]) -> int:
        counts, limit = self.encoder.count_tokens(texts), self.encoder.max_tokens
        if counts is None or limit is None:
            return 0
        long = [i for i, count in enumerate(counts) if count > limit]
        if not long:
            return 0
        told = (
            f"{len(long)} of {len(texts)} prompts have more than the {limit} tokens that the network reads; "
            "the "
            f"longest has {max(counts)}"
        )
        if self.long_prompts == "error":
            raise ValueError(
                f"{told}. The first is number {long[0]}: {texts[long[0]][:80]!r} ... Shorten them."
            )
        warnings.warn(f"{told}. What is beyond is not read.", stacklevel=4)
        return len(long)
