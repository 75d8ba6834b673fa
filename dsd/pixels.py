"""Pictures of any kind to the pixels of a frame, and back."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn import functional

Pixels = Float[Tensor, "b 3 height width"]
OutputType = Literal["pil", "np", "pt", "latent"]
ImageLike = Image.Image | np.ndarray | Tensor


def to_pixels(images: ImageLike | Sequence[ImageLike], height: int, width: int) -> Pixels:
    """One picture or several as pixels in [-1, 1], each resized to cover the frame and cut to it around its
    centre.

    Args:
        images: PIL images of any mode (orientation tags are followed, transparency is laid over white);
            tensors (3, h, w) or (b, 3, h, w) and arrays (h, w, 3) or (b, h, w, 3), as uint8 or as floats in
            [0, 1]; or a list of these.
        height: of the frame, in pixels.
        width: of the frame, in pixels.

    Raises:
        TypeError: if it is none of these.
        ValueError: if shape or range is wrong, or there is no picture.
    """
    if isinstance(images, list | tuple):
        if not images:
            raise ValueError("No image given. Give one image or a list of them.")
        return torch.cat([to_pixels(image, height, width) for image in images])
    if isinstance(images, Image.Image):
        image = ImageOps.fit(_rgb(images), (width, height), Image.Resampling.BICUBIC)
        images = np.asarray(image)
    if isinstance(images, np.ndarray):
        if images.ndim not in (3, 4) or images.shape[-1] != 3:
            raise ValueError(f"An image array must be (h, w, 3) or (b, h, w, 3); got {images.shape}.")
        images = torch.from_numpy(np.ascontiguousarray(np.moveaxis(images, -1, -3)))
    if not isinstance(images, Tensor):
        raise TypeError(
            f"An image must be a PIL image, a tensor or an array; got {type(images).__name__}. "
            "Open files first: PIL.Image.open(path)."
        )
    return _fit(_unit(images), height, width) * 2 - 1


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


def _rgb(image: Image.Image) -> Image.Image:
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


def _fit(images: Tensor, height: int, width: int) -> Pixels:
    h, w = images.shape[-2:]
    if (h, w) == (height, width):
        return images
    scale = max(height / h, width / w)
    size = (max(height, round(h * scale)), max(width, round(w * scale)))
    images = functional.interpolate(images, size, mode="bicubic", antialias=True).clamp(0, 1)
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    return images[..., top : top + height, left : left + width]
