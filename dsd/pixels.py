"""Pictures of any kind to the pixels of a frame, and back."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, cast

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn import functional

from dsd.opening import check_size

Picture = Float[Tensor, "3 _ _"]
Pixels = Float[Tensor, "b 3 height width"]
FramePixels = Float[Tensor, "b 3 frame_height frame_width"]
OutputType = Literal["pil", "np", "pt", "latent"]
ImageLike = Image.Image | np.ndarray | Tensor
Fit = Literal["cover", "contain"]
BLACK = -1.0


def read(images: ImageLike | Sequence[ImageLike]) -> list[Picture]:
    """Each picture as pixels in [-1, 1], in its own size.

    Args:
        images: PIL images of any mode (orientation tags are followed, transparency is laid over white);
            tensors (3, h, w) or (b, 3, h, w) and arrays (h, w, 3) or (b, h, w, 3), as uint8 or as floats in
            [0, 1]; or a list of these.

    Raises:
        TypeError: if it is none of these.
        ValueError: if shape or range is wrong, or there is no picture.
    """
    if isinstance(images, list | tuple):
        if not images:
            raise ValueError("No image given. Give one image or a list of them.")
        return [pixels for image in images for pixels in read(image)]
    if isinstance(images, Image.Image):
        images = np.asarray(_rgb(images))
    if isinstance(images, np.ndarray):
        if images.ndim not in (3, 4) or images.shape[-1] != 3:
            raise ValueError(f"An image array must be (h, w, 3) or (b, h, w, 3); got {images.shape}.")
        images = torch.from_numpy(np.ascontiguousarray(np.moveaxis(images, -1, -3)))
    if not isinstance(images, Tensor):
        raise TypeError(
            f"An image must be a PIL image, a tensor or an array; got {type(images).__name__}. "
            "Open files first: PIL.Image.open(path)."
        )
    return list(_unit(images) * 2 - 1)


def read_sets(images: ImageLike | Sequence[ImageLike] | Sequence[Sequence[ImageLike]]) -> list[list[Picture]]:
    """References as `read` gives them, set by set: [[a, b], [c, d]] is two sets of two, and every other kind
    of input is sets of one.

    Raises:
        TypeError, ValueError: as `read`, or if only some of a list's items are lists.
    """
    if isinstance(images, list | tuple) and any(isinstance(item, list | tuple) for item in images):
        if not all(isinstance(item, list | tuple) for item in images):
            raise TypeError(
                "Some of the images are lists of references and some are single ones. Put each in a list: "
                "[[a, b], [c]]."
            )
        return [read(item) for item in images]
    return [[pixels] for pixels in read(cast(Sequence[ImageLike], images))]


def to_pixels(images: ImageLike | Sequence[ImageLike], height: int, width: int) -> Pixels:
    """Pictures as `read` takes them, as pixels in [-1, 1], each resized to cover the frame and cut to it
    around its centre.

    Args:
        images: one picture or several.
        height: of the frame, in pixels.
        width: of the frame, in pixels.

    Raises:
        TypeError, ValueError: as `read`.
    """
    return torch.cat([cover(pixels[None], height, width) for pixels in read(images)])


def cover(pixels: Pixels, height: int, width: int) -> FramePixels:
    """Resized so that it just covers the frame, and cut to it around its centre."""
    h, w = pixels.shape[-2:]
    scale = max(height / h, width / w)
    size = (max(height, round(h * scale)), max(width, round(w * scale)))
    return _cut(_resize(pixels, *size), height, width)


def contain(pixels: Pixels, height: int, width: int) -> FramePixels:
    """Resized so that all of it just fits into the frame, in the middle, between black bars."""
    h, w = pixels.shape[-2:]
    scale = min(height / h, width / w)
    size = (max(1, min(height, round(h * scale))), max(1, min(width, round(w * scale))))
    top, left = (height - size[0]) // 2, (width - size[1]) // 2
    bars = (left, width - size[1] - left, top, height - size[0] - top)
    return functional.pad(_resize(pixels, *size), bars, value=BLACK)


def fill_area(pixels: Pixels, height: int, width: int, unit: int) -> FramePixels:
    """Resized to about the frame's area in its own aspect, and cut to multiples of `unit`."""
    h, w = pixels.shape[-2:]
    scale = (height * width / (h * w)) ** 0.5
    sides = [max(unit, round(side * scale / unit) * unit) for side in (h, w)]
    return cover(pixels, *sides)


def keep(pixels: Pixels, unit: int) -> FramePixels:
    """In its own size, cut around its centre to multiples of `unit`.

    Raises:
        ValueError: if a side is shorter than that.
    """
    h, w = pixels.shape[-2:]
    if min(h, w) < unit:
        raise ValueError(f"A picture of {w} x {h} px is too small: give one of at least {unit} px a side.")
    return _cut(pixels, h // unit * unit, w // unit * unit)


def from_pixels(pixels: Pixels, output_type: OutputType = "pil") -> Any:
    """Pixels about in [-1, 1] as a list of PIL images, an array (b, h, w, 3) in [0, 1] or a tensor (b, 3, h,
    w) in [0, 1].
    """
    unit = (pixels.float() / 2 + 0.5).clamp(0, 1)
    if output_type == "pt":
        return unit
    array = unit.permute(0, 2, 3, 1).cpu().numpy()
    if output_type == "np":
        return array
    return [Image.fromarray(image) for image in (array * 255).round().astype(np.uint8)]


FITS: Mapping[str, Callable[[Pixels, int, int], FramePixels]] = {"cover": cover, "contain": contain}
"""The ways of bringing a picture of any shape into a frame."""


def _rgb(image: Image.Image) -> Image.Image:
    try:
        check_size(image)  # before its pixels are read: the file may have been opened and no more
    except ValueError as error:
        raise ValueError(f"The picture cannot be used: {error}") from error
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I") or image.mode == "F":
        raise ValueError(
            f"An image of mode {image.mode!r} has no fixed range of values. Convert it to 'RGB' or 'L' first."
        )
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def _unit(images: Tensor) -> Tensor:
    """Checked (b, 3, h, w) floats in [0, 1]."""
    if images.ndim not in (3, 4) or images.shape[-3] != 3:
        raise ValueError(f"An image tensor must be (3, h, w) or (b, 3, h, w); got {tuple(images.shape)}.")
    images = images if images.ndim == 4 else images[None]
    if images.dtype == torch.uint8:
        return images.float() / 255
    if not images.is_floating_point():
        raise ValueError(f"An image tensor must be uint8 or float in [0, 1]; got {images.dtype}.")
    low, high = images.aminmax()
    if not (low >= 0 and high <= 1):
        raise ValueError(
            f"A float image must be in [0, 1]; got values from {float(low):.3g} to {float(high):.3g}. "
            "Pixels in [-1, 1] become so by `x / 2 + 0.5`."
        )
    return images.float()


def _resize(pixels: Pixels, height: int, width: int) -> FramePixels:
    if pixels.shape[-2:] == (height, width):
        return pixels
    return functional.interpolate(pixels, (height, width), mode="bicubic", antialias=True).clamp(-1, 1)


def _cut(pixels: Pixels, height: int, width: int) -> FramePixels:
    top, left = (pixels.shape[-2] - height) // 2, (pixels.shape[-1] - width) // 2
    return pixels[..., top : top + height, left : left + width]
