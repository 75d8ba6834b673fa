"""CLIP-I, DINO and the like: how alike generated pictures and their references are to a network."""

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchmetrics import Metric

from dsd import extractors


class ImageSimilarity(Metric):
    r"""Mean cosine of the embeddings of generated pictures and references, $\frac1n \sum_i \cos(g_i, r_i)$.

    Copying the reference scores 1, so read it beside something that a copy fails.

    Args:
        extractor: which network, as `dsd.extractors.load` takes it: "mini", `{"kind": "transformers",
            "model": "facebook/dinov2-small"}`, or any function from pictures to (n, d).
        kwargs: of `torchmetrics.Metric`.

    Raises:
        LookupError, TypeError: for an extractor that does not exist.
    """

    is_differentiable: bool = False
    higher_is_better: bool = True
    full_state_update: bool = False
    plot_lower_bound: float = -1.0
    plot_upper_bound: float = 1.0
    total: Tensor
    count: Tensor

    def __init__(self, extractor: Any = "mini", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.extractor = extractors.load(extractor)
        self.add_state("total", torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, generated: Sequence[Image.Image], reference: Sequence[Image.Image]) -> None:
        """Add pictures and what each should be alike.

        Raises:
            ValueError: when the two sequences differ in length.
        """
        if len(generated) != len(reference):
            raise ValueError(
                f"Got {len(generated)} generated pictures and {len(reference)} references; give one of each."
            )
        cosines = (self.extractor(generated).double() * self.extractor(reference)).sum(-1)
        self.total += cosines.sum().to(self.total)
        self.count += len(cosines)

    def compute(self) -> Tensor:
        """The mean over all pairs, in [-1, 1].

        Raises:
            ValueError: when there was no pair.
        """
        if self.count == 0:
            raise ValueError("No pair was added yet: call `update` first.")
        return (self.total / self.count).float()
