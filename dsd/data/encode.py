"""Rows of the cache of encodings. See `dsd.data.encoded` for what is stored where."""

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from dsd.backbones.base import Backbone, Latents, Pixels, Reference, ReferencePixels, TensorRecord, as_pixels
from dsd.data.encodings import Encoding, caption_id
from dsd.types import Pair, image_digest


@runtime_checkable
class Encoder(Protocol):
    """What is needed of a conditioning."""

    def prepare(self, references: Sequence[Tensor], height: int, width: int) -> ReferencePixels:
        """References of any size as `encode` takes them beside a target frame of that size."""

    def encode(self, backbone: Backbone, reference: ReferencePixels) -> Reference:
        """The reference as it is cached."""

    def encode_target(self, backbone: Backbone, reference: ReferencePixels, target: Pixels) -> Latents:
        """Latents of the target frame."""


def cache_name(
    backbone_name: str, revision: str, conditioning_spec: Mapping[str, Any], dtype: str | None = None
) -> str:
    """The name of a cache: the same for the same backbone, conditioning and dtype, wherever it is made."""
    name = str(conditioning_spec["name"]).rpartition(":")[2]
    if len(conditioning_spec) > 1:
        text = json.dumps(conditioning_spec, sort_keys=True)
        name = f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    return f"{backbone_name}-{revision[:12]}{f'-{dtype}' if dtype else ''}/{name}"


def reference_id(pair: Pair) -> str:
    """The row of a pair's reference: of its pixels and, as it may be fitted to the target's frame, of that
    frame's size where it differs.
    """
    digest = image_digest(pair.reference)[:20]
    width, height = pair.target.size
    return digest if pair.reference.size == pair.target.size else f"{digest}-{width}x{height}"


def to_uint8(image: Image.Image) -> UInt8[Tensor, "3 h w"]:
    """A picture's pixels as RGB."""
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


@torch.no_grad()
def encoded_captions(
    captions: Sequence[str], backbone: Backbone, dtype: torch.dtype | None
) -> list[Encoding]:
    """The rows of some captions, encoded together."""
    rows = _rows(backbone.encode_text(list(captions)), dtype)
    return [Encoding(id=caption_id(c), tensors=row) for c, row in zip(captions, rows, strict=True)]


@torch.no_grad()
def encoded_pairs(
    batch: Sequence[tuple[str, Pair]],
    backbone: Backbone,
    conditioning: Encoder,
    dtype: torch.dtype | None,
    known: Collection[str] = (),
) -> list[tuple[Encoding, Encoding | None]]:
    """For each pair its row, and that of its reference if it is the first in the batch to have it.

    Targets of one size are encoded together. References are encoded one by one, so that a row does not depend
    on which others were new.

    Args:
        batch: pairs with their ids.
        backbone: with its autoencoder.
        conditioning: what encodes references and targets.
        dtype: to store floating-point tensors in; as they come by default.
        known: ids of references that need no row.
    """
    digests = [reference_id(pair) for _, pair in batch]
    made: dict[int, tuple[Encoding, Encoding | None]] = {}
    for size in dict.fromkeys((pair.reference.size, pair.target.size) for _, pair in batch):
        some = [i for i, (_, pair) in enumerate(batch) if (pair.reference.size, pair.target.size) == size]
        pairs = [batch[i][1] for i in some]
        pictures = as_pixels(torch.stack([to_uint8(pair.reference) for pair in pairs])).to(backbone.device)
        target = as_pixels(torch.stack([to_uint8(pair.target) for pair in pairs])).to(backbone.device)
        reference = conditioning.prepare([pictures], target.shape[-2], target.shape[-1])
        latents = _store(conditioning.encode_target(backbone, reference, target), dtype)
        for place, i in enumerate(some):
            new = None
            if digests[i] not in known and digests.index(digests[i]) == i:
                (row,) = _rows(conditioning.encode(backbone, reference[[place]]), dtype)
                new = Encoding(id=digests[i], tensors=row)
            pair_id, pair = batch[i]
            target_row = Encoding(
                id=pair_id,
                tensors={"target": latents[place].clone()},
                reference_id=digests[i],
                text_id=caption_id(pair.caption),
            )
            made[i] = (target_row, new)
    return [made[i] for i in range(len(batch))]


def _rows(record: TensorRecord, dtype: torch.dtype | None) -> list[dict[str, Tensor]]:
    """Each element of a record, by name of the tensor."""
    tensors = {name: _store(x, dtype) for name, x in vars(record).items() if isinstance(x, Tensor)}
    return [{name: x[i].clone() for name, x in tensors.items()} for i in range(len(record))]


def _store(x: Tensor, dtype: torch.dtype | None) -> Tensor:
    return x.detach().to("cpu", dtype if x.is_floating_point() else None).contiguous()


def torch_dtype(dtype: str | None) -> torch.dtype | None:
    """The dtype of that name; None stands for the one that tensors have.

    Raises:
        ValueError: if there is none of that name.
    """
    found = None if dtype is None else getattr(torch, dtype, None)
    if dtype is not None and not isinstance(found, torch.dtype):
        raise ValueError(f"Unknown dtype {dtype!r}. Use one such as 'bfloat16', 'float16' or 'float32'.")
    return found
