"""The stage of encodings: captions first, then pairs with their references; each is stored once."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dsd.backbones.base import Backbone
from dsd.data.encode import Encoder, cache_name, encoded_captions, encoded_pairs, torch_dtype
from dsd.data.encoded import EncodedPairs
from dsd.data.encodings import Encoding, caption_id, encodings
from dsd.data.ids import Ids
from dsd.data.part import captions_of
from dsd.data.store import Run
from dsd.data.table import Table
from dsd.data.writer import TableWriter
from dsd.engines.base import Aligned, Batch, Engine, Job, Result, Work
from dsd.engines.fill import state_of

_KIND = encodings("")


_TEXT = "text:"


class CaptionsAndPairs:
    """A source of captions, each by "text:" and itself, and of pairs, by their ids."""

    def __init__(self, pairs: Table[Any]) -> None:
        self._pairs = pairs

    def items(self, ids: Collection[str] | None = None) -> Iterator[tuple[str, Any]]:
        """The captions among those ids, then the pairs."""
        names = list(ids or ())
        captions = [name for name in names if name.startswith(_TEXT)]
        yield from ((name, self[name]) for name in captions)
        if len(captions) < len(names):
            yield from self._pairs.items([name for name in names if not name.startswith(_TEXT)])

    def __getitem__(self, name: str) -> Any:
        return name.removeprefix(_TEXT) if name.startswith(_TEXT) else self._pairs[name]


@dataclass(frozen=True)
class EncodingWork(Work):
    """A batch of captions to rows of the table of texts; or one of pairs to those of pairs and references.

    Attributes:
        known: references that this process has rows of. Other processes make rows of all, and the first is
            taken.
    """

    backbone: Backbone
    conditioning: Encoder
    dtype: str | None
    device: str | None
    known: set[str] = field(default_factory=set, metadata={"here": True})

    def __call__(self, batch: Batch) -> list[Result]:
        """The row of each caption or pair and, if it is a new one, that of the pair's reference."""
        if self.device is not None:
            self.backbone.to(self.device)
        dtype = torch_dtype(self.dtype)
        if batch[0][0].startswith(_TEXT):
            rows = encoded_captions([caption for _, caption in batch], self.backbone, dtype)
            return [_KIND.to_rows([row]) for row in rows]
        made = encoded_pairs(batch, self.backbone, self.conditioning, dtype, known=self.known)
        return [_KIND.to_rows([pair] if new is None else [pair, new]) for pair, new in made]


def encode_pairs(
    run: Run,
    ids: Sequence[str],
    backbone: Backbone,
    conditioning: Encoder,
    *,
    engine: Engine,
    backbone_name: str,
    conditioning_spec: Mapping[str, Any],
    batch_size: int = 8,
    dtype: str | None = None,
    device: str | None = None,
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
        engine: where they do so.
        backbone_name: for the name of the cache.
        conditioning_spec: for the name of the cache and its manifest.
        batch_size: pairs encoded at once.
        dtype: to store floating-point tensors in; as they come by default.
        device: to encode on; where the backbone is by default.
        overwrite: discard what this conditioning has cached. Captions are kept: they depend on the backbone
            alone.
        captions: the name of captions that are cached too, beside the pairs' own; the rest of a pair is
            stored once for all its captions.
        advance: told how many pairs more are done.

    Returns:
        the table of encoded pairs, and how many are new.
    """
    spec: dict[str, Any] = {"backbone": backbone_name, "revision": backbone.revision, "dtype": dtype}
    name = cache_name(backbone_name, backbone.revision, conditioning_spec, dtype)
    cache = EncodedPairs(run.path, name)
    if not overwrite:
        run.check(cache.pairs.kind.stage)
    source = run.earlier(cache.pairs.kind.stage)
    assert source is not None, "encodings are made of pairs"
    with ExitStack() as stack:
        texts = stack.enter_context(TableWriter(cache.texts, spec))
        spec = {**spec, "conditioning": dict(conditioning_spec)}
        references = stack.enter_context(TableWriter(cache.references, spec, overwrite=overwrite))
        output = stack.enter_context(
            TableWriter(cache.pairs, spec, state_of(source), overwrite=overwrite, first=(texts, references))
        )
        known_texts, known = cache.texts.keys(), cache.references.keys()
        names = [_TEXT + caption for caption in _captions(run, source, ids, captions)]
        done_texts = {name for name in names if caption_id(name.removeprefix(_TEXT)) in known_texts}
        rows = cache.pairs.columns("id", "reference_id").to_pydict()
        done = set(rows["id"])
        # Without those whose reference stood in a shard that was set aside.
        whole = {pair for pair, ref in zip(rows["id"], rows["reference_id"], strict=True) if ref in known}
        missing = set(ids) - whole
        advance(len(ids) - len(missing))
        job = Job(
            stage=cache.pairs.kind.stage,
            work=EncodingWork(backbone, conditioning, dtype, device, known),
            source=CaptionsAndPairs(source),
            batches=[*_batches(names, done_texts, batch_size), *_batches(ids, whole, batch_size)],
        )
        with closing(engine.run(job)) as results:
            for batch, found in results:
                made = [row for result in found for row in _made(job.stage, result)]
                if batch[0].startswith(_TEXT):
                    new_texts = zip(batch, made, strict=True)
                    texts.add_rows([row for name, row in new_texts if name not in done_texts])
                    continue
                new = {row["id"]: row for row in made if not row["reference_id"]}
                references.add_rows([row for name, row in new.items() if name not in known])
                known.update(new)
                output.add_rows([row for row in made if row["reference_id"] and row["id"] not in done])
                advance(sum(pair_id in missing for pair_id in batch))
        for writer in (texts, references, output):
            writer.finish()
    return cache.pairs, len(missing - done)


def _batches(wanted: Sequence[str], done: Collection[str], size: int) -> Sequence[Sequence[str]]:
    return Aligned(Ids(wanted), np.array([name not in done for name in wanted], dtype=np.bool_), size)


def _captions(run: Run, source: Table[Any], ids: Sequence[str], name: str | None) -> list[str]:
    """Every caption that is to be there, once, in the order of the pairs; the empty one is for guidance."""
    wanted = set(ids)
    columns = source.columns("id", "caption").to_pydict()
    own = zip(columns["id"], columns["caption"], strict=True)
    found = ["", *(caption for pair_id, caption in own if pair_id in wanted)]
    if name is not None:
        found += [row.caption for _, row in captions_of(run, name).items(ids)]
    return list(dict.fromkeys(found))


def _made(stage: str, result: Result) -> list[Any]:
    """The rows, where none can be left out."""
    if not isinstance(result, list):
        raise RuntimeError(f"{stage}: a row could not be encoded. {getattr(result, 'reason', result)}")
    return result
