"""How well the subject's parts are found again in a generated picture, wherever they are."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from dsd.extractors.sharing import shared
from dsd.metrics.functional.patches import masked_patch_similarity, on_grid
from dsd.metrics.grouped import GroupedMean
from dsd.metrics.images import read


class MaskedPatchSimilarity(GroupedMean):
    """Mean over the patches of the subject in the reference of their greatest cosine with any patch of the
    generated picture, as MaSC has it; see `dsd.metrics.functional.masked_patch_similarity`.

    Masks go through the same resizing and cutting as the pictures. A subject of no patch is missing.

    Args:
        extractor: a network that gives patches, as `dsd.extractors.load` takes it: vision transformers of
            transformers and timm do, and functions with a method `patches`.
        kwargs: of `dsd.metrics.GroupedMean` and `torchmetrics.Metric`.

    Raises:
        LookupError, TypeError: for an extractor that does not exist.
    """

    plot_lower_bound: float = -1.0
    plot_upper_bound: float = 1.0

    def __init__(self, extractor: Any = "dinov2", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.encoder = shared(extractor)

    @property
    def preprocessing(self) -> str:
        """What is done to a picture before the network sees it; loads the network."""
        return self.encoder.preprocessing

    def update(self, generated: Any, reference: Any, masks: Any, groups: Any = None) -> None:
        """Add pictures, references and where the subject is in the latter.

        Args:
            generated: n pictures, as `dsd.metrics.images.read` takes them; None where one is missing.
            reference: as many.
            masks: of each reference: PIL images (over half is inside), or tensors or arrays (height, width),
                of booleans, uint8 (over 127 is inside) or floats in [0, 1]; of its size.
            groups: the name of each one's group, or one for all.

        Raises:
            TypeError, ValueError: if the lengths or sizes do not fit, or a picture cannot be read.
        """
        images, references = read(generated), read(reference, "reference")
        shapes = list(masks)
        if not len(images) == len(references) == len(shapes):
            raise ValueError(
                f"Got {len(images)} generated pictures, {len(references)} references and {len(shapes)} "
                "masks; "
                "give one of each."
            )
        values = torch.full((len(images),), torch.nan, dtype=torch.float64)
        for i, (image, other, mask) in enumerate(zip(images, references, shapes, strict=True)):
            if other is None:
                raise ValueError(f"Reference {i} is None: there is nothing to compare with.")
            if image is not None:
                values[i] = self._value(image, other, _mask(mask, other, i))
        self.add(values, groups)

    def _value(self, image: Image.Image, reference: Image.Image, mask: Image.Image) -> Float[Tensor, ""]:
        theirs, ours = self.encoder.patches([reference, image])
        if self.encoder.can("masks"):
            seen = self.encoder.masks([mask])
        else:
            seen = torch.from_numpy(np.asarray(mask, dtype=np.float32) / 255)[None]
        inside = on_grid(seen, *theirs.shape[:2])[0]
        return masked_patch_similarity(ours.flatten(0, 1), theirs.flatten(0, 1), inside)


def _mask(given: Any, reference: Image.Image, number: int) -> Image.Image:
    """White inside, black outside."""
    if isinstance(given, Image.Image):
        array = np.asarray(given.convert("L")) > 127
    else:
        array = given.detach().cpu().numpy() if isinstance(given, Tensor) else np.asarray(given)
        array = array > (127 if array.dtype == np.uint8 else 0.5)
    if array.shape != (reference.height, reference.width):
        raise ValueError(
            f"Mask {number} must be of its reference's height and width, {reference.height} and "
            f"{reference.width}; got {array.shape}."
        )
    return Image.fromarray(array.astype(np.uint8) * 255)
