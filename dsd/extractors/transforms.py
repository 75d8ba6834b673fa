"""Pictures to the pixels that a network was trained on, each step named, so that figures come out again."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
_IMAGENET: dict[str, Any] = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
_CLIP: dict[str, Any] = {
    "mean": (0.48145466, 0.4578275, 0.40821073),
    "std": (0.26862954, 0.26130258, 0.27577711),
}


@dataclass(frozen=True, kw_only=True)
class Transform:
    """Resize with PIL, cut around the centre, scale to [0, 1], subtract the mean, divide by the deviation.

    Attributes:
        resize_px: length of the shorter side; of both, if the picture is squashed.
        crop_px: sides of the square that is cut out, or None for no cut. What a small picture lacks is black.
        squash: to a square, whatever the aspect.
        interpolation: "bicubic" or "bilinear".
        mean: of each channel.
        std: of each channel.
        offset: where an odd margin goes: "round", half to even, as torchvision does; or "floor", as
            transformers does. The cuts are one pixel apart then.
    """

    resize_px: int
    crop_px: int | None = None
    squash: bool = False
    interpolation: str = "bicubic"
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)
    offset: Literal["round", "floor"] = "round"

    def __post_init__(self) -> None:
        if self.interpolation not in _FILTERS:
            raise ValueError(f"Unknown interpolation {self.interpolation!r}. Allowed: {', '.join(_FILTERS)}.")
        if self.resize_px < 1 or (self.crop_px is not None and self.crop_px < 1):
            raise ValueError(f"Sides must be at least 1 px; got {self.resize_px} and {self.crop_px}.")

    def __str__(self) -> str:
        """What is done, in words, for reports."""
        sides = "both sides, squashed" if self.squash else "shorter side"
        cut = "" if self.crop_px is None else f", centre crop {self.crop_px} px ({self.offset})"
        scale = ", ".join(f"{x:g}" for x in self.mean), ", ".join(f"{x:g}" for x in self.std)
        resized = f"resize {self.resize_px} px ({sides}, {self.interpolation}, PIL)"
        return f"{resized}{cut}, mean ({scale[0]}), std ({scale[1]})"

    def picture(self, image: Image.Image) -> Image.Image:
        """Resized and cut, still of its mode."""
        width, height = image.size
        if self.squash:
            size = (self.resize_px, self.resize_px)
        else:
            short, long = sorted(image.size)
            other = int(self.resize_px * long / short)
            size = (self.resize_px, other) if width <= height else (other, self.resize_px)
        if size != image.size:
            image = image.resize(size, _FILTERS[self.interpolation])
        if self.crop_px is None:
            return image
        left, top = (self._margin(side, self.crop_px) for side in size)
        return image.crop((left, top, left + self.crop_px, top + self.crop_px))

    def __call__(self, image: Image.Image) -> Float[Tensor, "3 height width"]:
        """The pixels of an RGB picture, as the network takes them."""
        array = np.asarray(self.picture(image), dtype=np.uint8)
        pixels = torch.from_numpy(array.copy()).permute(2, 0, 1).float() / 255
        mean, std = (torch.tensor(x).reshape(-1, 1, 1) for x in (self.mean, self.std))
        return (pixels - mean) / std

    def _margin(self, side: int, crop: int) -> int:
        if side < crop:
            return -((crop - side) // 2)
        return round((side - crop) / 2) if self.offset == "round" else (side - crop) // 2


TRANSFORMS: Mapping[str, Transform] = {
    "dino": Transform(resize_px=256, crop_px=224, **_IMAGENET),
    "dinov2": Transform(resize_px=256, crop_px=224, offset="floor", **_IMAGENET),
    "clip": Transform(resize_px=224, crop_px=224, offset="floor", **_CLIP),
    "siglip2": Transform(resize_px=384, squash=True),
}
"""By name: `dino`, the evaluation of the official DINO (github.com/facebookresearch/dino, with torchvision's
steps); `dinov2` and `clip`, what transformers' processors of facebook/dinov2-* and openai/clip-* do on PIL;
`siglip2`, as open_clip's configuration of SigLIP 2 has it."""


def named(transform: "str | Mapping[str, Any] | Transform") -> Transform:
    """The transform of a name, or of the fields of one.

    Raises:
        LookupError: if there is no such name.
        TypeError, ValueError: if a field does not exist or is wrong.
    """
    if isinstance(transform, Transform):
        return transform
    if isinstance(transform, Mapping):
        return Transform(**transform)
    if transform not in TRANSFORMS:
        raise LookupError(f"No transform is named {transform!r}. Known: {', '.join(TRANSFORMS)}.")
    return TRANSFORMS[transform]
