"""The share of pictures that are their reference over again."""

from typing import Any

import torch
from PIL import Image, ImageOps
from torch import Tensor

from dsd.extractors.sharing import shared
from dsd.metrics.functional.near_copies import near_copy_similarity
from dsd.metrics.grouped import GroupedMean
from dsd.metrics.images import read, read_sets


class NearCopyRate(GroupedMean):
    """The share of pictures that are a near copy of a reference: turned over, moved, cut or recoloured a
    little.

    By default pixels are correlated, see `dsd.metrics.functional.near_copy_similarity`; with an extractor,
    the cosine of embeddings with the reference or its mirror image is taken. Lower is better. The threshold
    for a network's cosine is the network's own: measure it on pairs of photographs.

    Args:
        threshold: a picture above it is a near copy.
        extractor: which network, as `dsd.extractors.load` takes it, or None for pixels.
        kwargs: of `dsd.metrics.GroupedMean` and `torchmetrics.Metric`.

    Raises:
        ValueError: if the threshold is outside [-1, 1], or as `GroupedMean`.
        LookupError, TypeError: for an extractor that does not exist.
    """

    higher_is_better: bool = False
    plot_lower_bound: float = 0.0
    plot_upper_bound: float = 1.0
    likeness: Tensor
    seen: Tensor

    def __init__(self, threshold: float = 0.9, extractor: Any = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not -1 <= threshold <= 1:
            raise ValueError(f"`threshold` must be in [-1, 1]; got {threshold}.")
        self.threshold, self.encoder = threshold, None if extractor is None else shared(extractor)
        self.add_state("likeness", torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("seen", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, generated: Any, reference: Any, groups: Any = None, reference_index: Any = None) -> None:
        """Add pictures and references.

        Args:
            generated: n pictures, as `dsd.metrics.images.read` takes them; None where one is missing.
            reference: as many pictures, or a list with a set of pictures for each, any of which may be
                copied.
            groups: the name of each one's group, or one for all.
            reference_index: (n,) numbers; then `reference` holds each picture or set once, and these say
                which belongs to each.

        Raises:
            TypeError, ValueError: if the lengths do not fit, or a picture cannot be read.
        """
        images = read(generated)
        sets, numbers = read_sets(reference, len(images), reference_index)
        found = torch.tensor(
            [
                float("nan") if image is None else max(self._likeness(image, other) for other in sets[number])
                for image, number in zip(images, numbers, strict=True)
            ],
            dtype=torch.float64,
        )
        self.add(torch.where(found.isnan(), torch.nan, (found > self.threshold).double()), groups)
        self.likeness = self.likeness + found.nan_to_num().sum().to(self.likeness)
        self.seen = self.seen + int((~found.isnan()).sum())

    def compute(self) -> dict[str, Tensor]:
        """As `GroupedMean.compute`, and `likeness`, the mean of what the threshold is applied to."""
        return {**super().compute(), "likeness": (self.likeness / self.seen).float()}

    def _likeness(self, image: Image.Image, reference: Image.Image) -> float:
        if self.encoder is None:
            return near_copy_similarity(image, reference)
        rows = self.encoder([image, ImageOps.mirror(image), reference]).double()
        return float((rows[:2] @ rows[2]).max())
