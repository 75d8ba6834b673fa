"""Copies of a picture that were turned over, moved or cut a little: found by correlation of pixels."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

SIDE_PX = 64
SHIFT_PX = 4
ZOOMS = (1.0, 0.9, 0.8)
_FLAT = 2 / 255


def near_copy_similarity(
    generated: Image.Image,
    reference: Image.Image,
    shift: float = SHIFT_PX / SIDE_PX,
    zooms: Sequence[float] = ZOOMS,
) -> float:
    """The greatest normalised cross-correlation of two pictures over mirror images, small shifts and cuts.

    Both are squashed to 64 x 64 px, so that a picture of another aspect is still a copy. The middle of one is
    moved over the other; each channel's mean is taken off, so that a change of brightness, contrast or tint
    is still a copy. A picture of one colour is a copy of one of the same colour alone.

    Args:
        generated: an RGB picture.
        reference: likewise.
        shift: how far one may be moved against the other, as a share of the side; at most .25.
        zooms: shares of the width and of the height around the middle that either may have been cut to.

    Returns:
        a number in [-1, 1]; 1 for a copy.

    Raises:
        ValueError: if a share is out of range.
    """
    if not 0 <= shift <= 0.25 or not all(0 < zoom <= 1 for zoom in zooms):
        raise ValueError(f"`shift` must be in [0, .25] and `zooms` in (0, 1]; got {shift} and {list(zooms)}.")
    if generated.mode != "RGB" or reference.mode != "RGB":
        raise ValueError(f"Give RGB pictures; got modes {generated.mode!r} and {reference.mode!r}.")
    reach = round(shift * SIDE_PX)
    return max(_correlation(one, other, reach) for one, other in _views(generated, reference, zooms))


def _views(
    generated: Image.Image, reference: Image.Image, zooms: Sequence[float]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Both pictures, either cut, and one mirrored."""
    for zoom in zooms:
        for one, other in {(zoom, 1.0), (1.0, zoom)}:
            window, whole = _pixels(generated, one), _pixels(reference, other)
            yield window, whole
            yield window.flip(-1), whole


def _pixels(image: Image.Image, zoom: float) -> Float[Tensor, "3 64 64"]:
    """In [0, 1], from the middle of a picture."""
    width, height = image.size
    left, top = width * (1 - zoom) / 2, height * (1 - zoom) / 2
    box = (left, top, width - left, height - top)
    sized = image.resize((SIDE_PX, SIDE_PX), Image.Resampling.BILINEAR, box=box)
    return torch.from_numpy(np.asarray(sized, dtype=np.float32) / 255).permute(2, 0, 1)


def _correlation(one: Tensor, other: Tensor, reach: int) -> float:
    """The greatest one of the middle of `one` with every window of its size in `other`."""
    side = SIDE_PX - 2 * reach
    middle = one[:, reach : reach + side, reach : reach + side]
    windows = other.unfold(1, side, 1).unfold(2, side, 1).permute(1, 2, 0, 3, 4).reshape(-1, 3, side, side)
    a, b = (x - x.mean((-2, -1), keepdim=True) for x in (middle, windows))
    lengths = a.norm(), b.flatten(1).norm(dim=1)
    least = _FLAT * (3 * side * side) ** 0.5  # as if every value were off the mean by two grey levels
    if float(lengths[0]) < least:
        apart = (windows.mean((-2, -1)) - middle.mean((-2, -1))).abs().amax(1)
        return float(((lengths[1] < least) & (apart < _FLAT)).any())
    found = (b.flatten(1) @ a.flatten()) / (lengths[0] * lengths[1].clamp_min(1e-12))
    return float(torch.where(lengths[1] < least, 0.0, found).max().clamp(-1, 1))
