"""Filling the cache of encodings. See `dsd.data.encoded` for what is stored where."""

import hashlib
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from dsd.backbones.base import Backbone, Latents, Pixels, Reference, ReferencePixels, TensorRecord, as_pixels
from dsd.data.encoded import EncodedPairs
from dsd.data.encodings import Encoding, caption_id
from dsd.data.store import Run
from dsd.data.table import Table
from dsd.data.writer import TableWriter
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


def encode_pairs(
    run: Run,
    ids: Sequence[str],
    backbone: Backbone,
    conditioning: Encoder,
    *,
    backbone_name: str,
    conditioning_spec: Mapping[str, Any],
    batch_size: int = 8,
    dtype: str | None = None,
    overwrite: bool = False,
    captions: str | None = None,
    advance: Callable[[int], object] = lambda count: None,
) -> tuple[Table[Encoding], int]:
    """Encode the pairs of those ids that are not cached yet. The caller holds the run's lock.

    Args:
        run: where the pairs are, and the cache.
        ids: of the pairs wanted.
        backbone: with its autoencoder and text encoders.
        conditioning: what encodes references and targets.
        backbone_name: for the name of the cache.
        conditioning_spec: for the name of the cache and its manifest.
        batch_size: pairs encoded at once.
        dtype: to store floating-point tensors in; as they come by default.
        overwrite: discard what this conditioning has cached. Captions are kept: they depend on the backbone
            alone.
        captions: the name of captions that are cached too, beside the pairs' own; the rest of a pair is
            stored once for all its captions.
        advance: told how many pairs more are done.

    Returns:
        the table of encoded pairs, and how many are new.
    """
    stored = torch_dtype(dtype)
    spec: dict[str, Any] = {"backbone": backbone_name, "revision": backbone.revision, "dtype": dtype}
    name = cache_name(backbone_name, backbone.revision, conditioning_spec, dtype)
    cache = EncodedPairs(run.path, name)
    if not overwrite:
        run.check(cache.pairs.kind.stage)
    pairs = run.pairs.manifest
    made_from = {"stage": "pairs", "rows": pairs.rows, "ids": pairs.ids}
    with ExitStack() as stack:
        texts = stack.enter_context(TableWriter(cache.texts, spec))
        spec = {**spec, "conditioning": dict(conditioning_spec)}
        references = stack.enter_context(TableWriter(cache.references, spec, overwrite=overwrite))
        output = stack.enter_context(
            TableWriter(cache.pairs, spec, made_from, overwrite=overwrite, first=(texts, references))
        )
        known_texts, known_references = cache.texts.keys(), cache.references.keys()
        rows = cache.pairs.columns("id", "reference_id", "text_id").to_pydict()
        done = set(rows["id"])
        whole = {
            pair_id
            for pair_id, reference, text in zip(*rows.values(), strict=True)
            if reference in known_references and text in known_texts  # else their shard was set aside
        }
        missing = [pair_id for pair_id in ids if pair_id not in whole]
        advance(len(ids) - len(missing))
        _add_texts(texts, known_texts, [""], backbone, stored)
        items = run.pairs.items(missing)
        while batch := list(itertools.islice(items, batch_size)):
            _add_texts(texts, known_texts, [pair.caption for _, pair in batch], backbone, stored)
            encoded = _encode(batch, references, known_references, backbone, conditioning, stored)
            output.add([pair for pair in encoded if pair.id not in done])
            advance(len(batch))
        if captions is not None:
            written = (row.caption for _, row in run.captions(captions).items(ids))
            while some := list(itertools.islice(written, batch_size)):
                _add_texts(texts, known_texts, some, backbone, stored)
        for writer in (texts, references, output):
            writer.finish()
    return cache.pairs, len(set(missing) - done)


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


def _add_texts(
    writer: TableWriter[Encoding],
    known: set[str],
    captions: Sequence[str],
    backbone: Backbone,
    dtype: torch.dtype | None,
) -> None:
    new = [caption for caption in dict.fromkeys(captions) if caption_id(caption) not in known]
    if not new:
        return
    with torch.no_grad():
        text = backbone.encode_text(new)
    rows = _rows(text, dtype)
    writer.add([Encoding(id=caption_id(c), tensors=row) for c, row in zip(new, rows, strict=True)])
    known.update(caption_id(caption) for caption in new)


@torch.no_grad()
def _encode(
    batch: Sequence[tuple[str, Pair]],
    writer: TableWriter[Encoding],
    known: set[str],
    backbone: Backbone,
    conditioning: Encoder,
    dtype: torch.dtype | None,
) -> Iterator[Encoding]:
    """The pairs' targets, size by size; references that are new go to `writer`."""
    sizes = dict.fromkeys((pair.reference.size, pair.target.size) for _, pair in batch)
    for size in sizes:
        some = [(i, pair) for i, pair in batch if (pair.reference.size, pair.target.size) == size]
        digests = [reference_id(pair) for _, pair in some]
        pictures = as_pixels(torch.stack([to_uint8(pair.reference) for _, pair in some])).to(backbone.device)
        target = as_pixels(torch.stack([to_uint8(pair.target) for _, pair in some])).to(backbone.device)
        reference = conditioning.prepare([pictures], target.shape[-2], target.shape[-1])
        new = {digest: digests.index(digest) for digest in dict.fromkeys(digests) if digest not in known}
        if new:
            rows = _rows(conditioning.encode(backbone, reference[list(new.values())]), dtype)
            writer.add([Encoding(id=digest, tensors=row) for digest, row in zip(new, rows, strict=True)])
            known.update(new)
        latents = _store(conditioning.encode_target(backbone, reference, target), dtype)
        for (pair_id, pair), digest, x in zip(some, digests, latents, strict=True):
            text_id = caption_id(pair.caption)
            yield Encoding(id=pair_id, tensors={"target": x.clone()}, reference_id=digest, text_id=text_id)


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
