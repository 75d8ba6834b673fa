"""What metrics take as pictures: checked, upright and RGB, or an error that says which one and why."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from dsd.extractors import rgb
from dsd.pixels import from_pixels
from dsd.pixels import read as read_pixels

MAX_PIXELS = 2**27
"""Largest picture that is read, in pixels: 11,585 a side. A larger one is an error."""

Picture = Image.Image | Tensor | np.ndarray | None
Pictures = Sequence[Picture] | Tensor


def read(images: Any, what: str = "generated") -> list[Image.Image | None]:
    """Pictures as RGB, upright, transparency laid over white; None where there is none.

    Args:
        images: a list of PIL images of any mode with 8 bits a channel, of tensors (3, h, w) or arrays (h, w,
            3), of different sizes if need be, and of None; or a tensor (n, 3, h, w). Tensors and arrays are
            uint8 or floats in [0, 1], which are rounded to 8 bits.
        what: to call them in messages.

    Raises:
        TypeError: if it is none of these.
        ValueError: if a picture cannot be read, is too large, has more than 8 bits a channel or is out of
            range.
    """
    if isinstance(images, Tensor) and images.ndim != 4:
        raise ValueError(f"A tensor of {what} pictures is (n, 3, h, w); got {tuple(images.shape)}.")
    if not isinstance(images, list | tuple | Tensor):
        raise TypeError(
            f"Give {what} pictures as a list or as a tensor (n, 3, h, w); got {type(images).__name__}."
        )
    return [_read(image, f"{what} picture {i}") for i, image in enumerate(images)]


def read_sets(images: Any, count: int, index: Any = None) -> tuple[list[list[Image.Image]], list[int]]:
    """Sets of references, and which of them each of `count` items is compared with.

    Args:
        images: one picture for each item, as `read` takes them; or a list of lists, one set for each.
        count: how many items there are.
        index: (count,) the number of each item's picture or set in `images`, which may then be of any number.

    Raises:
        TypeError, ValueError: as `read`, or if a set is empty or the numbers do not fit.
    """
    if isinstance(images, list | tuple) and any(isinstance(item, list | tuple) for item in images):
        if not all(isinstance(item, list | tuple) for item in images):
            raise TypeError(
                "Some references are lists and some single pictures. Put each in a list: [[a, b], [c]]."
            )
        sets = [read(item, f"reference set {i}:") for i, item in enumerate(images)]
    else:
        sets = [[image] for image in read(images, "reference")]
    whole = [[image for image in some if image is not None] for some in sets]
    for i, (some, given) in enumerate(zip(whole, sets, strict=True)):
        if not some or len(some) != len(given):
            raise ValueError(f"Reference {i} is empty or None: there is nothing to compare with.")
    if index is None:
        if len(whole) != count:
            raise ValueError(
                f"Got {count} generated pictures and {len(whole)} references; give one of each, or say which "
                "each is compared with by `reference_index`."
            )
        return whole, list(range(count))
    numbers = [int(i) for i in index]
    if len(numbers) != count or any(not 0 <= i < len(whole) for i in numbers):
        raise ValueError(
            f"`reference_index` needs a number from 0 to {len(whole) - 1} for each of {count} pictures; "
            f"got {numbers[:8]}{' ...' if len(numbers) > 8 else ''}."
        )
    return whole, numbers


def _read(image: Any, name: str) -> Image.Image | None:
    if image is None:
        return None
    if not isinstance(image, Image.Image | Tensor | np.ndarray):
        raise TypeError(
            f"The {name} must be a PIL image, a tensor, an array or None; got {type(image).__name__}. "
            "Open files first: PIL.Image.open(path)."
        )
    if not isinstance(image, Image.Image):
        try:
            (found,) = from_pixels(read_pixels(image)[0][None])
        except ValueError as error:
            raise ValueError(f"The {name}: {error}") from error
        return found
    if image.width * image.height > MAX_PIXELS:
        raise ValueError(
            f"The {name} has {image.width} x {image.height} px; at most {MAX_PIXELS:,} are read. Downscale "
            "it."
        )
    try:
        return rgb(image)
    except ValueError as error:
        raise ValueError(f"The {name}: {error}") from error
    except (OSError, SyntaxError) as error:  # PIL's ways to say that a file is broken
        raise ValueError(
            f"The {name} cannot be read: {error}. Give None in its place if it is missing."
        ) from error
