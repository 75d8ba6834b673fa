"""The base of metrics that look at pictures through an extractor."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from dsd.extractors import Extractor
from dsd.extractors.sharing import shared
from dsd.metrics.grouped import GroupedMean


class EmbeddedMean(GroupedMean):
    """A mean over items that are seen through an extractor.

    Derive from it and call `embed` and `add` in `update`. The extractor is loaded at the first picture,
    shared with all metrics that ask for the same one, and remembers what it saw.

    Args:
        extractor: which network, as `dsd.extractors.load` takes it: "mini", a preset such as "dreambooth",
            `{"kind": "transformers", "model": "facebook/dinov2-small"}`, or any function from pictures to
            (n, d).
        kwargs: of `GroupedMean`: `groups`, `average`, `weights`, `nan_policy`, `scale`; and of
            `torchmetrics.Metric`.

    Raises:
        LookupError, TypeError: for an extractor that does not exist.
    """

    def __init__(self, extractor: Any = "mini", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.extractor = shared(extractor)

    @property
    def preprocessing(self) -> str:
        """What is done to a picture before the network sees it; loads the network."""
        return self.extractor.preprocessing

    def embed(self, images: Sequence[Image.Image | None]) -> Float[Tensor, "n d"]:
        """The embedding of each picture, of length 1; NaN where there is none."""
        return embed(self.extractor, images)


def embed(extractor: Extractor, images: Sequence[Image.Image | None]) -> Float[Tensor, "n d"]:
    """The embedding of each picture, of length 1; NaN where there is none, (n, 1) if there is none at all."""
    given = [image for image in images if image is not None]
    if not given:
        return torch.full((len(images), 1), torch.nan)
    rows = extractor(given)
    found = rows.new_full((len(images), rows.shape[1]), torch.nan)
    found[torch.tensor([image is not None for image in images])] = rows
    return found
