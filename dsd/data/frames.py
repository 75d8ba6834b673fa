"""Pictures of pairs as batches of pixels."""

from collections.abc import Hashable, Sequence

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageOps
from torch import Tensor

from dsd.backbones.base import RawBatch
from dsd.data.buckets import Size, nearest

Sizes = int | Sequence[Size] | None
"""The side of a square, or sizes (height, width) of which a pair gets the nearest to its target's; None: as
pictures are."""

Pictures = tuple[Image.Image, Image.Image]
"""The reference and the target of a pair."""


def raw_batch(
    ids: Sequence[str], pictures: Sequence[Pictures], captions: Sequence[str], size_px: Sizes = None
) -> RawBatch:
    """Pairs as one batch of pixels.

    Raises:
        ValueError: if they differ in size and `size_px` is None.
    """
    sizes = [_size(target, size_px) for _, target in pictures]
    references, targets = (
        _stack([_fit(pair[side], size) for pair, size in zip(pictures, sizes, strict=True)])
        for side in (0, 1)
    )
    return RawBatch(ids=list(ids), reference=references, target=targets, captions=list(captions))


def layout(pictures: Pictures, size_px: Sizes = None) -> Hashable:
    """The sizes of a pair's pictures as they come into a batch."""
    size = _size(pictures[1], size_px)
    return tuple(picture.size for picture in pictures) if size is None else size


def _stack(images: Sequence[Image.Image]) -> UInt8[Tensor, "b 3 h w"]:
    if others := sorted({f"{x.width} x {x.height}" for x in images[1:] if x.size != images[0].size}):
        raise ValueError(
            f"The pictures of a batch differ in size: {images[0].width} x {images[0].height} px and "
            f"{', '.join(others)} px. Give `size_px` to cut and resize them, or `buckets`."
        )
    pixels = np.empty((len(images), images[0].height, images[0].width, 3), dtype=np.uint8)
    for place, image in zip(pixels, images, strict=True):  # copied once, from PIL to where it stays
        place[...] = np.asarray(image)
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)  # a view: transposing here would cost a worker's time


def _size(target: Image.Image, size_px: Sizes) -> Size | None:
    if size_px is None or isinstance(size_px, int):
        return None if size_px is None else (size_px, size_px)
    return nearest((target.height, target.width), size_px)


def _fit(image: Image.Image, size: Size | None) -> Image.Image:
    image = image if image.mode == "RGB" else image.convert("RGB")
    return image if size is None else ImageOps.fit(image, size[::-1], Image.Resampling.BICUBIC)
