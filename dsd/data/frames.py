"""Pictures of pairs as batches of pixels."""

from collections.abc import Hashable, Iterable, Sequence

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
    ids: Sequence[str], pictures: Iterable[Pictures], captions: Sequence[str], size_px: Sizes = None
) -> RawBatch:
    """Pairs as one batch of pixels. Pictures are taken one by one, and let go of before the next.

    Raises:
        ValueError: if they differ in size and `size_px` is None.
    """
    rooms: list[UInt8[Tensor, "b h w 3"]] = []
    found: list[set[tuple[int, int]]] = [set(), set()]
    for number, pair in enumerate(pictures):
        size = _size(pair[1], size_px)
        for side, image in enumerate(pair):
            fitted = _fit(image, size)
            found[side].add(fitted.size)
            if number == 0:
                rooms.append(torch.empty(len(ids), fitted.height, fitted.width, 3, dtype=torch.uint8))
            if len(found[side]) == 1:  # else it ends in an error, which names all sizes
                rooms[side].numpy()[number] = np.asarray(fitted)  # copied once, to where it stays
    for sizes in found:
        if len(sizes) > 1:
            told = " and ".join(f"{width} x {height} px" for width, height in sorted(sizes))
            raise ValueError(
                f"The pictures of a batch differ in size: {told}. Give `size_px` to cut and resize them, or "
                "`buckets`."
            )
    # Views: transposing here would cost a worker's time.
    references, targets = (room.permute(0, 3, 1, 2) for room in rooms)
    return RawBatch(ids=list(ids), reference=references, target=targets, captions=list(captions))


def layout(pictures: Pictures, size_px: Sizes = None) -> Hashable:
    """The sizes of a pair's pictures as they come into a batch."""
    size = _size(pictures[1], size_px)
    return tuple(picture.size for picture in pictures) if size is None else size


def _size(target: Image.Image, size_px: Sizes) -> Size | None:
    if size_px is None or isinstance(size_px, int):
        return None if size_px is None else (size_px, size_px)
    return nearest((target.height, target.width), size_px)


def _fit(image: Image.Image, size: Size | None) -> Image.Image:
    image = image if image.mode == "RGB" else image.convert("RGB")
    return image if size is None else ImageOps.fit(image, size[::-1], Image.Resampling.BICUBIC)
