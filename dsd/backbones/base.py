"""What a denoiser family must offer, and the records of tensors that travel to it."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, TypeVar

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn

from dsd.registry import Recorded

Latents = Float[Tensor, "b c h w"]
Pixels = Float[Tensor, "b 3 height width"]
ReferencePixels = Float[Tensor, "b *k 3 reference_height reference_width"]
"""One reference for each picture, or k of one size."""
Index = int | slice | Sequence[int] | Tensor
R = TypeVar("R", bound="TensorRecord")


class TensorRecord:
    """A frozen dataclass of tensors with a common first axis, and of lists as long; it moves and is indexed
    as one.
    """

    def map(self: R, function: Callable[[Tensor], Tensor]) -> R:
        """The same record with `function` applied to each tensor."""
        changed = {
            field.name: value.map(function) if isinstance(value, TensorRecord) else function(value)
            for field in fields(self)  # type: ignore[arg-type]
            if isinstance(value := getattr(self, field.name), TensorRecord | Tensor)
        }
        return replace(self, **changed)  # type: ignore[type-var]

    def to(self: R, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> R:
        """The record on another device; `dtype` changes floating-point tensors only."""
        return self.map(lambda x: x.to(device=device, dtype=dtype if x.is_floating_point() else None))

    @classmethod
    def joined(cls: type[R], records: Sequence[R]) -> R:
        """One record with all elements of several, one after the other."""
        joined: dict[str, Any] = {}
        for field in fields(cls):  # type: ignore[arg-type]
            values = [getattr(record, field.name) for record in records]
            if isinstance(values[0], TensorRecord):
                joined[field.name] = type(values[0]).joined(values)
            elif isinstance(values[0], Tensor):
                joined[field.name] = torch.cat(values)
            else:
                joined[field.name] = (
                    None if values[0] is None else [item for value in values for item in value]
                )
        return cls(**joined)

    def pin_memory(self: R) -> R:
        """The record in page-locked memory, for quick copies to a GPU; a DataLoader asks for it."""
        return self.map(Tensor.pin_memory)

    def __getitem__(self: R, index: Index) -> R:
        """Some elements as a record; a single number keeps the first axis."""
        if isinstance(index, int):
            index = [index]
        picked = self.map(lambda x: x[index])
        lists = {
            field.name: _pick(value, index)
            for field in fields(self)  # type: ignore[arg-type]
            if isinstance(value := getattr(self, field.name), list)
        }
        return replace(picked, **lists)  # type: ignore[type-var]

    def __len__(self) -> int:
        for field in fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if value is not None:
                return len(value)
        return 0


def _pick(items: list[str], index: slice | Sequence[int] | Tensor) -> list[str]:
    if isinstance(index, slice):
        return items[index]
    numbers = index.nonzero()[:, 0] if isinstance(index, Tensor) and index.dtype == torch.bool else index
    return [items[int(i)] for i in numbers]


@dataclass(frozen=True, kw_only=True)
class Text(TensorRecord):
    """Encoded captions.

    Attributes:
        tokens: one embedding for each text token.
        pooled: one embedding for the whole caption.
    """

    tokens: Float[Tensor, "b length dim"]
    pooled: Float[Tensor, "b pooled"]

    def where(self, keep: Bool[Tensor, " b"], other: "Text") -> "Text":
        """These captions where `keep` holds, elsewhere those of `other`, which may be a single one."""
        tokens = other.tokens[:, : self.tokens.shape[1]].to(self.tokens)
        return Text(
            tokens=torch.where(keep[:, None, None], self.tokens, tokens),
            pooled=torch.where(keep[:, None], self.pooled, other.pooled.to(self.pooled)),
        )


@dataclass(frozen=True, kw_only=True)
class Reference(TensorRecord):
    """An encoded reference: what a conditioning's `encode` returns, and all that it reads of the reference
    later.

    Attributes:
        latents: of an autoencoder, for k references of one picture along a second axis; what the frame shows
            is the conditioning's own.
        tokens: of an image encoder.
    """

    latents: Latents | Float[Tensor, "b k c h w"] | None = None
    tokens: Float[Tensor, "b m d"] | None = None

    def masked(self, keep: Bool[Tensor, " b"]) -> "Reference":
        """Zeros instead of the references for which `keep` does not hold: "no image" for guidance and for
        dropout.
        """
        return self.map(lambda x: x * keep.reshape(-1, *[1] * (x.ndim - 1)).to(x))

    def zero(self) -> "Reference":
        """Zeros instead of every reference."""
        return self.map(torch.zeros_like)


@dataclass(frozen=True, kw_only=True)
class Batch(TensorRecord):
    """Encoded pairs.

    Attributes:
        ids: of the pairs.
        reference: as the conditioning's `encode` returns it.
        target: latents of the target frame.
        text: the encoded captions.
    """

    ids: list[str]
    reference: Reference
    target: Latents
    text: Text


@dataclass(frozen=True, kw_only=True)
class RawBatch(TensorRecord):
    """Pairs as pictures and words, to be encoded on the fly.

    Attributes:
        ids: of the pairs.
        reference: pixels, uint8 or float in [-1, 1]; several for each target along a second axis.
        target: pixels, uint8 or float in [-1, 1].
        captions: what each target shows.
    """

    ids: list[str]
    reference: ReferencePixels | UInt8[Tensor, "b *k 3 reference_height reference_width"]
    target: Float[Tensor, "b 3 h w"] | UInt8[Tensor, "b 3 h w"]
    captions: list[str]

    @property
    def references(self) -> list[Pixels]:
        """Floats in [-1, 1], one item for each reference of a pair."""
        pixels = as_pixels(self.reference)
        return list(pixels.unbind(1)) if pixels.ndim == 5 else [pixels]


class Backbone(Recorded, nn.Module, ABC):
    """A text-to-image model taken apart: denoiser, autoencoder, text encoders, scheduler.

    Everything but the denoiser is frozen and stays in evaluation mode. Parts may be absent until they are
    needed: training on cached latents needs the denoiser alone, filling the cache all but the denoiser.

    Attributes:
        denoiser: predicts velocities; None until loaded.
        scheduler: the sampler's time steps, in diffusers' interface.
        lora_targets: named sets of the denoiser's layers, as regular expressions that match whole module
            names.
        pixels_per_token: side of the square of pixels that one image token stands for; frames are multiples
            of it.
        pixels_per_latent: side of the square of pixels that one latent stands for.
        quantization: what the denoiser's weights are stored in, if in fewer bits; see `dsd.quantization`.
        execution_device: where the parts are brought to work, if they lie elsewhere in between (offload).
    """

    denoiser: nn.Module | None
    quantization: str | Mapping[str, Any] | None = None
    scheduler: Any
    lora_targets: ClassVar[Mapping[str, str]]
    pixels_per_token: ClassVar[int]
    pixels_per_latent: ClassVar[int]
    execution_device: torch.device | None = None

    @abstractmethod
    def load(self, *parts: str) -> None:
        """Load those of "denoiser", "vae" and "text" that are not there yet."""

    @property
    @abstractmethod
    def loaded(self) -> frozenset[str]:
        """Those of "denoiser", "vae" and "text" that are there."""

    @abstractmethod
    def release(self, *parts: str) -> None:
        """Forget those parts, to free memory; they load again when they are needed."""

    @abstractmethod
    def encode_image(self, pixels: Pixels) -> Latents:
        """Pixels in [-1, 1] to latents as the denoiser expects them; the same each time (the mode, not a
        sample).
        """

    @abstractmethod
    def decode(self, latents: Latents) -> Pixels:
        """Latents to pixels, about in [-1, 1]."""

    @abstractmethod
    def encode_text(self, captions: Sequence[str]) -> Text:
        """Captions to embeddings, exactly as the stock pipeline has them."""

    @abstractmethod
    def call(
        self,
        tokens: Float[Tensor, "b n d"],
        t: Float[Tensor, " b"],
        text: Text,
        ids: Float[Tensor, "n 3"],
        guidance: float | Float[Tensor, " b"] = 1.0,
        **extra: Any,
    ) -> Float[Tensor, "b n k"]:
        """Run the denoiser.

        Args:
            tokens: packed latents, noisy or not: the conditioning's business.
            t: time of each element, in [0, 1].
            text: encoded captions.
            ids: positions of the tokens.
            guidance: the value that a guidance-distilled denoiser is told; others ignore it.
            extra: further arguments of the denoiser's `forward`.
        """

    def prediction(self, name: str) -> AbstractContextManager[None]:
        """A context for one `call`, which caches in the denoiser know predictions of one kind by; by default
        nothing is told.
        """
        return nullcontext()

    @abstractmethod
    def schedule(self, num_steps: int, num_tokens: int, device: torch.device) -> Any:
        """A fresh scheduler with its `timesteps` set for that many steps and image tokens."""

    @abstractmethod
    def time_shift(self, num_tokens: int) -> float:
        """How far the schedule for that many image tokens is moved towards noise: the argument of
        `flow.shift_times`.
        """

    @abstractmethod
    def components(self) -> dict[str, Any]:
        """All parts by the names that the stock diffusers pipeline gives them, loaded if need be."""

    @abstractmethod
    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """Channels, height and width of the latents of a frame of that many pixels."""

    @property
    def settings(self) -> dict[str, Any]:
        """Constructor arguments that pictures must be drawn with as in training; saved with a student."""
        return {}

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where the parts are."""

    @property
    @abstractmethod
    def revision(self) -> str:
        """Hash of all that decides what `encode_image` and `encode_text` return: the key of caches."""


def as_pixels(pixels: Tensor) -> Float[Tensor, "b *k 3 height width"]:
    """uint8 pixels, in any layout of memory, to floats in [-1, 1]; floats stay as they are."""
    return pixels.contiguous().float() / 255 * 2 - 1 if pixels.dtype == torch.uint8 else pixels
