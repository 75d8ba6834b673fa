"""How different the pictures of one prompt are."""

from collections.abc import Callable
from itertools import combinations
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from dsd.metrics.embedded import EmbeddedMean
from dsd.metrics.functional.diversity import diversity
from dsd.metrics.images import read

Distance = Callable[[list[Image.Image], list[Image.Image]], Any]


class IntraPromptDiversity(EmbeddedMean):
    """Mean over prompts of the mean distance of their pictures, over all pairs.

    A generator that answers every prompt with one picture has 0. Read it beside a measure of identity:
    pictures of other subjects are diverse too.

    Args:
        extractor: whose embeddings are compared, by 1 - cosine; as `dsd.extractors.load` takes it.
        distance: another distance instead, such as LPIPS or DreamSim: a function from two lists of RGB
            pictures to (n,) numbers.
        kwargs: of `dsd.metrics.GroupedMean` and `torchmetrics.Metric`.

    Raises:
        LookupError, TypeError: for an extractor that does not exist.
    """

    plot_lower_bound: float = 0.0
    plot_upper_bound: float | None = None

    def __init__(
        self, extractor: Any = "dreambooth", distance: Distance | None = None, **kwargs: Any
    ) -> None:
        super().__init__(extractor, **kwargs)
        self.distance = distance

    def update(self, generated: Any, groups: Any = None) -> None:
        """Add the pictures of prompts.

        Args:
            generated: for each of n prompts all of its pictures, as `dsd.metrics.images.read` takes them. A
                None among them is left out; with fewer than two pictures a prompt is missing.
            groups: the name of each prompt's group, or one for all.

        Raises:
            TypeError, ValueError: if a picture cannot be read, or the lengths do not fit.
        """
        if isinstance(generated, Tensor) and generated.ndim != 5:
            raise ValueError(
                f"Give the pictures of each prompt: (n, k, 3, h, w); got {tuple(generated.shape)}."
            )
        sets = [read(images, f"prompt {i}:") for i, images in enumerate(generated)]
        whole = [[image for image in images if image is not None] for images in sets]
        if self.distance is None:
            rows = [self.embed(images) if len(images) > 1 else torch.zeros(0, 1) for images in whole]
            self.add(diversity(rows), groups)
        else:
            self.add([self._mean(images) for images in whole], groups)

    def _mean(self, images: list[Image.Image]) -> float:
        if self.distance is None or len(images) < 2:
            return float("nan")
        pairs = list(combinations(images, 2))
        found = (
            torch.as_tensor(self.distance([a for a, _ in pairs], [b for _, b in pairs])).detach().flatten()
        )
        if len(found) != len(pairs):
            raise ValueError(f"The distance gave {len(found)} numbers for {len(pairs)} pairs of pictures.")
        return float(found.double().mean())
