"""The pairs of a run to train on: where each stands is known, the rest is read row group by row group."""

import threading
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dsd import opening
from dsd.backbones.base import Batch, RawBatch
from dsd.data.encoded import EncodedPairs
from dsd.data.encodings import caption_id
from dsd.data.frames import Pictures, Sizes, layout, raw_batch
from dsd.data.ids import Ids
from dsd.data.order import Positions
from dsd.data.places import row_bytes, rows_at
from dsd.data.policy import Policy
from dsd.data.rows import Row
from dsd.data.store import Run
from dsd.data.table import Table

_COLUMNS = ("id", "reference", "target", "caption")
_LAYOUTS_AT_ONCE = 256
# Loaders for training and validation read one source, each in a thread of its own.
_READING = threading.Lock()


@dataclass(frozen=True, kw_only=True)
class _Stored:
    """A pair as it is stored.

    Attributes:
        reference: the cell of a picture.
        target: likewise.
        caption: the pair's own, or another one.
    """

    reference: Row
    target: Row
    caption: str


class RunSource:
    """The accepted pairs of a run, as pictures or as cached encodings.

    Args:
        run: the run.
        policy: which pairs; see `Run.accepted`. Of the others, no picture is decoded, and row groups without
            an accepted pair are not read.
        encoded: the cache to read; None to read pictures.
        size_px: side of the square that pictures are cut and resized to, or sizes (height, width), of which
            each pair gets the nearest to its target; None to leave them as they are.
        captions: the name of captions to take instead of the pairs' own; pairs that have none because the
            captioner failed at them are left out.

    Attributes:
        ids: of the pairs, sorted.
        groups: of each pair, what it was cut from; the pair itself if that is unknown.
        places: of each pair, the number of its row.
        pair_bytes: about what a pair takes before it is decoded.

    Raises:
        LookupError: if there are no captions of that name.
        ValueError: if no pair is accepted, or some are not in the cache or not captioned yet.
    """

    def __init__(
        self,
        run: Run,
        policy: str | Mapping[str, Any] | Policy | None = None,
        encoded: EncodedPairs | None = None,
        size_px: Sizes = None,
        captions: str | None = None,
    ) -> None:
        run.check("pairs")
        every = run.pairs.row_ids()
        kept = run.kept(every, policy)
        if not kept.any():
            raise ValueError(
                f"None of the {len(run.pairs)} pairs of {run.path} is accepted (curators: "
                f"{', '.join(run.curators()) or 'none'}). Loosen the curator or the policy, or use 'every'."
            )
        numbers = np.flatnonzero(kept)
        if captions is not None:
            accepted = every.pick(numbers)
            numbers = numbers[accepted.among(Ids(run.captioned(captions, list(accepted))))]
        numbers = numbers[pc.sort_indices(every.pick(numbers).array).to_numpy()]
        ids = every.pick(numbers)
        self.ids, self.places = ids, numbers
        self.encoded, self._size_px = encoded, size_px
        # Tables of its own: they are read in a thread, while others may read the run's.
        self._pairs = Table(run.pairs.folder, run.pairs.kind)
        self._cache = None if encoded is None else EncodedPairs(run.path, encoded.name)
        self._captions = None if captions is None else run.captions(captions)
        self._text_ids: Ids | None = None
        written: pa.Array | None = None
        if self._captions is not None:
            columns = self._captions.columns("pair_id", "caption").combine_chunks()
            self._captioned = ids.places(Ids(columns["pair_id"]))
            written = columns["caption"].combine_chunks().take(pa.array(self._captioned))
        if encoded is None:
            self.pair_bytes = row_bytes(run.pairs)
            return
        run.check(encoded.pairs.kind.stage)
        self._cached = encoded.places(ids)
        if missing := int((~self._cached.whole).sum()):
            raise ValueError(
                f"{missing} of {len(ids)} accepted pairs are not in the cache {encoded.name}. "
                "Call dsd.encode(run, ...) again, which adds them."
            )
        if written is not None:
            self._text_ids = Ids(pa.array(map(caption_id, written.to_pylist()), pa.string()))
            self._cached = replace(self._cached, texts=encoded.text_places(self._text_ids))
            if lacking := int((~self._cached.whole).sum()):
                raise ValueError(
                    f"{lacking} of {len(ids)} captions of {captions!r} are not in the cache {encoded.name}. "
                    f"Call dsd.encode(run, captions={captions!r}, ...), which adds them."
                )
        tables = (encoded.pairs, encoded.references, encoded.texts)
        self.pair_bytes = sum(row_bytes(table, len(encoded.pairs)) for table in tables)

    def groups(self) -> pa.Array:
        """Of each pair, what it must not be parted from: its grid, or itself if it comes from none."""
        grids = Ids(self._pairs.columns("grid_id")["grid_id"]).pick(self.places).array
        return pc.if_else(pc.equal(pc.binary_length(grids), 0), self.ids.array, grids)

    def read(self, positions: Sequence[int]) -> Mapping[int, Any]:
        """Some pairs by position, not decoded; each row group that holds one is read once.

        Raises:
            ManifestError: if a shard is damaged, or rows were removed since the source was opened.
        """
        with _READING:
            return self._read(np.asarray(positions, dtype=np.int64), positions)

    def _read(self, at: Positions, positions: Sequence[int]) -> Mapping[int, Any]:
        ids = self.ids.take(at)
        if self._cache is not None:
            texts = None if self._text_ids is None else self._text_ids.take(at)
            return dict(zip(positions, self._cache.read(self._cached.take(at), ids, texts), strict=True))
        rows = [row for _, row in rows_at(self._pairs, self.places[at], ids, _COLUMNS)]
        captions = rows
        if self._captions is not None:
            captions = [row for _, row in rows_at(self._captions, self._captioned[at], ids)]
        return {
            position: _Stored(reference=row["reference"], target=row["target"], caption=other["caption"])
            for position, row, other in zip(positions, rows, captions, strict=True)
        }

    def batch(self, positions: Sequence[int], pairs: Mapping[int, Any]) -> Batch | RawBatch:
        """Some of the pairs that were read: a `Batch` if they are cached, else a `RawBatch`.

        Raises:
            ManifestError: if a picture cannot be decoded.
        """
        ids = [self.ids[position] for position in positions]
        some = [pairs[position] for position in positions]
        if self._cache is not None:
            return self._cache.stack(ids, some)
        pictures = (self._decoded(*pair) for pair in zip(positions, some, strict=True))
        return raw_batch(ids, pictures, [pair.caption for pair in some], self._size_px)

    def load(self, positions: Sequence[int]) -> Batch | RawBatch:
        """Those pairs: a `Batch` if they are cached, else a `RawBatch`."""
        return self.batch(positions, self.read(sorted(set(positions))))

    def layouts(self, positions: Sequence[int]) -> list[Hashable]:
        """What must be equal within a batch, of each of those pairs; all of them are read for it."""
        found: dict[int, Hashable] = {}
        near = sorted(positions, key=lambda position: self.places[position])
        for first in range(0, len(near), _LAYOUTS_AT_ONCE):
            some = near[first : first + _LAYOUTS_AT_ONCE]
            pairs = self.read(some)
            for position in some:
                if self._cache is not None:
                    found[position] = self._cache.layout(pairs[position])
                else:
                    found[position] = layout(self._decoded(position, pairs[position]), self._size_px)
        return [found[position] for position in positions]

    def _decoded(self, position: int, pair: _Stored) -> Pictures:
        try:
            reference, target = (
                opening.decode_image(cell["bytes"], "of a row") for cell in (pair.reference, pair.target)
            )
            return reference, target
        except ValueError as error:
            raise self._pairs.damaged(int(self.places[position]), str(error)) from error
