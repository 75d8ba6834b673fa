"""What turns pictures, and where it can words, into rows of numbers."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn import functional

_ORIENTATION = 0x0112
Forward = Callable[[list[Image.Image]], Any]


class Extractor:
    """Pictures of any mode to embeddings of length 1, on the CPU.

    What else it can do depends on `forward`: patches and words go to the methods of these names that it has.

    Args:
        forward: a function from RGB pictures to an array or tensor (n, d). It may have methods: `patches`,
            from RGB pictures to (n, rows, columns, d); `masks`, from pictures of mode "L" to (n, height,
            width) in [0, 1], seen as the network sees pictures; `texts`, from words to (n, d) that compare
            with pictures; `count_tokens` of words, beside the number `max_tokens`. And `preprocessing`, words
            that say what is done to a picture first.
        name: what to call it in messages.
    """

    def __init__(self, forward: Forward, name: str) -> None:
        self._forward, self._name = forward, name

    def __repr__(self) -> str:
        return f"Extractor({self._name})"

    @property
    def preprocessing(self) -> str:
        """What is done to a picture before the network sees it, as far as it is known."""
        return str(getattr(self._forward, "preprocessing", "its own"))

    @property
    def max_tokens(self) -> int | None:
        """How many tokens of a prompt the network reads; None if that is not known."""
        found = getattr(self._forward, "max_tokens", None)
        return None if found is None else int(found)

    @torch.no_grad()
    def __call__(self, images: Sequence[Image.Image]) -> Float[Tensor, "n d"]:
        """One row a picture, in order.

        Raises:
            ValueError: if there is no picture, or what came back is no such table of finite numbers.
        """
        if not images:
            raise ValueError("No picture given to embed.")
        return self._rows(self._forward([rgb(image) for image in images]), len(images), "pictures", 2)

    @torch.no_grad()
    def patches(self, images: Sequence[Image.Image]) -> Float[Tensor, "n rows columns d"]:
        """One row a patch of each picture, in order.

        Raises:
            TypeError: if the extractor gives no patches.
            ValueError: as when it is called.
        """
        if not images:
            raise ValueError("No picture given to embed.")
        found = self._ability("patches")([rgb(image) for image in images])
        return self._rows(found, len(images), "pictures", 4)

    @torch.no_grad()
    def masks(self, masks: Sequence[Image.Image]) -> Float[Tensor, "n height width"]:
        """Masks resized and cut as the network's pictures are; in [0, 1].

        Raises:
            TypeError: if the extractor does not say how it does that.
        """
        found = self._ability("masks")([mask.convert("L") for mask in masks])
        return torch.as_tensor(found).detach().to("cpu", torch.float32).clamp(0, 1)

    @torch.no_grad()
    def texts(self, texts: Sequence[str]) -> Float[Tensor, "n d"]:
        """One row a text, to be compared with those of pictures. What is beyond `max_tokens` is not read.

        Raises:
            TypeError: if the extractor does not read.
            ValueError: if there is no text, or as when it is called.
        """
        if not texts:
            raise ValueError("No text given to embed.")
        return self._rows(self._ability("texts")(list(texts)), len(texts), "texts", 2)

    def count_tokens(self, texts: Sequence[str]) -> list[int] | None:
        """The tokens of each text, with those that begin and end it; None if the extractor does not tell."""
        count = getattr(self._forward, "count_tokens", None)
        return None if count is None else [int(x) for x in count(list(texts))]

    def can(self, ability: str) -> bool:
        """Whether it has "patches", "masks" or "texts"."""
        return callable(getattr(self._forward, ability, None))

    def _ability(self, name: str) -> Callable[[Any], Any]:
        found: Callable[[Any], Any] | None = getattr(self._forward, name, None)
        if not callable(found):
            raise TypeError(
                f"{self._name} gives no {name}. Take a model that does, such as CLIP or SigLIP for "
                f"texts and any vision transformer for patches, or give your function a method {name!r}."
            )
        return found

    def _rows(self, given: Any, count: int, what: str, ndim: int) -> Tensor:
        embeddings = torch.as_tensor(given).detach().to("cpu", torch.float32)
        if embeddings.ndim != ndim or len(embeddings) != count:
            shape = "(n, d)" if ndim == 2 else "(n, rows, columns, d)"
            raise ValueError(
                f"{self._name} gave {tuple(embeddings.shape)} for {count} {what}. "
                f"It must give one row of numbers for each, {shape}."
            )
        lengths = embeddings.norm(dim=-1)
        if not bool((lengths.isfinite() & (lengths > 0)).all()):
            raise ValueError(
                f"{self._name} gave one of {count} {what} an embedding that is zero or not finite."
            )
        return functional.normalize(embeddings, dim=-1)


def rgb(image: Image.Image) -> Image.Image:
    """A picture as RGB: turned as its orientation tag says, transparency laid over white; itself if it is so.

    Raises:
        ValueError: if its mode has no fixed range of values.
    """
    if image.mode.startswith("I") or image.mode == "F":
        raise ValueError(
            f"A picture of mode {image.mode!r} has no fixed range of values. Convert it to 'L' or 'RGB'."
        )
    if image.mode == "RGB" and not image.has_transparency_data and image.getexif().get(_ORIENTATION, 1) == 1:
        image.load()  # nothing to change; a file that is broken says so now
        return image
    image = ImageOps.exif_transpose(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")
