"""Cached encodings: latents and text embeddings by pair id, stored once and read in any order.

    encoded/BACKBONE-REVISION/text/                       one row a caption, shared by all conditionings
    encoded/BACKBONE-REVISION/CONDITIONING/references/    one row a reference picture
    encoded/BACKBONE-REVISION/CONDITIONING/pairs/         one row a pair: its target, reference and caption

Each row's tensors are one safetensors document in a Parquet cell.
"""

from collections.abc import Hashable, Mapping, Sequence
from os import PathLike
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dsd.backbones.base import Batch, Reference, Text
from dsd.data.encodings import Encoding, caption_id, encodings
from dsd.data.ids import Ids
from dsd.data.manifest import STAGE_MANIFEST
from dsd.data.order import Positions
from dsd.data.places import Numbered, Places, rows_at
from dsd.data.storage import Location, location, named
from dsd.data.table import Table

Tensors = Sequence[Mapping[str, Tensor]]
Stored = tuple[Numbered, Numbered, Numbered]
"""A pair, its reference and its text as rows with their numbers, not decoded."""


class EncodedPairs:
    """The cached encodings of one backbone and one conditioning in a run.

    Args:
        run: the run's folder or URL.
        name: "BACKBONE-REVISION/CONDITIONING", as `names` lists them.

    Attributes:
        name: as given.
        texts: encoded captions.
        references: encoded references.
        pairs: encoded targets.
    """

    def __init__(self, run: str | PathLike[str] | Location, name: str) -> None:
        folder = location(run) / "encoded"
        self.name = name
        backbone = name.partition("/")[0]
        self.texts: Table[Encoding] = Table(folder / backbone / "text", encodings(f"{backbone}/text"))
        self.references: Table[Encoding] = Table(
            folder / name / "references", encodings(f"{name}/references")
        )
        self.pairs: Table[Encoding] = Table(folder / name / "pairs", encodings(f"{name}/pairs"))

    def __repr__(self) -> str:
        return f"EncodedPairs({self.name!r}, {len(self.pairs) if self.pairs.exists else 'no'} pairs)"

    @staticmethod
    def names(run: str | PathLike[str] | Location) -> list[str]:
        """What is cached in a run."""
        folder = location(run) / "encoded"
        found = [name.split("/") for name in named(folder, STAGE_MANIFEST)]
        return sorted("/".join(parts[:2]) for parts in found if len(parts) == 4 and parts[2] == "pairs")

    @classmethod
    def find(cls, run: str | PathLike[str] | Location, name: str | None = None) -> "EncodedPairs":
        """What is cached under a name, or the only one there is.

        Raises:
            LookupError: if there is none of that name, or there are several and no name is given.
        """
        names = cls.names(run)
        if (name is None and len(names) == 1) or name in names:
            return cls(run, name or names[0])
        asked = "is no single cache" if name is None else f"is no cache {name!r}"
        raise LookupError(
            f"There {asked} in {run}; it has: {', '.join(names) or 'none'}. Name one, or make it with "
            "dsd.encode(run, backbone=..., conditioning=...)."
        )

    @property
    def spec(self) -> dict[str, Any]:
        """What it was made with: backbone, revision, conditioning, dtype."""
        return dict(self.pairs.manifest.spec)

    @property
    def revision(self) -> str:
        """`Backbone.revision` of what it was made with."""
        return str(self.spec["revision"])

    def ids(self) -> list[str]:
        """The ids of the pairs, in the order in which they were encoded."""
        return self.pairs.ids()

    def batch(self, ids: Sequence[str], captions: Sequence[str] | None = None) -> Batch:
        """Some pairs, by id.

        Args:
            ids: of the pairs.
            captions: to take instead of the pairs' own.

        Raises:
            LookupError: if one of them, or its caption, is not cached.
            ValueError: if they differ in size.
        """
        pairs = [self.pairs[pair_id] for pair_id in ids]
        text_ids = [pair.text_id for pair in pairs] if captions is None else map(caption_id, captions)
        return _batch(
            ids,
            [pair.tensors for pair in pairs],
            [self.references[pair.reference_id].tensors for pair in pairs],
            [self.texts[text_id].tensors for text_id in text_ids],
        )

    def places(self, ids: Ids) -> Places:
        """Where pairs stand in the three tables, by id; reads no tensors."""
        at = ids.places(self.pairs.row_ids())

        def found(table: Table[Encoding], column: str) -> Positions:
            place = Ids(self.pairs.columns(column)[column]).places(table.row_ids())
            return np.where(at < 0, -1, np.append(place, -1)[at])

        return Places(
            pairs=at,
            references=found(self.references, "reference_id"),
            texts=found(self.texts, "text_id"),
        )

    def text_places(self, text_ids: Ids) -> Positions:
        """Where texts stand, by id (`caption_id`); -1 for those that do not."""
        return text_ids.places(self.texts.row_ids())

    def read(self, places: Places, ids: Sequence[str], text_ids: Sequence[str] | None = None) -> list[Stored]:
        """Rows of pairs, their references and their texts; each row group that holds one is read once.

        Args:
            places: of the pairs.
            ids: of the pairs, to check that they still stand there.
            text_ids: of the texts; by default they are the pairs' own.

        Raises:
            ManifestError: if a shard is damaged, or rows were removed since the places were looked up.
        """
        pairs = rows_at(self.pairs, places.pairs, ids)
        references = rows_at(self.references, places.references, [row["reference_id"] for _, row in pairs])
        texts = [row["text_id"] for _, row in pairs] if text_ids is None else text_ids
        return list(zip(pairs, references, rows_at(self.texts, places.texts, texts), strict=True))

    def stack(self, ids: Sequence[str], pairs: Sequence[Stored]) -> Batch:
        """Pairs that were read, as one batch.

        Raises:
            ManifestError: if tensors cannot be read.
            ValueError: if they differ in size.
        """
        tables = (self.pairs, self.references, self.texts)
        tensors = [
            [table.record(number, row).tensors for number, row in column]
            for table, column in zip(tables, zip(*pairs, strict=True), strict=True)
        ]
        return _batch(ids, *tensors)

    def layout(self, pair: Stored) -> Hashable:
        """The shapes of a pair's tensors, but for its text's."""
        (number, row), (reference, other), _ = pair
        return _shapes(self.pairs.record(number, row)), _shapes(self.references.record(reference, other))

    def text(self, caption: str) -> Text:
        """An encoded caption, as a batch of one. The empty caption is always there, for guidance and dropout.

        Raises:
            LookupError: if no pair has that caption.
        """
        return Text(**_stack([self.texts[caption_id(caption)].tensors]))


def _batch(ids: Sequence[str], pairs: Tensors, references: Tensors, texts: Tensors) -> Batch:
    return Batch(
        ids=list(ids),
        reference=Reference(**_stack(references)),
        target=_stack(pairs)["target"],
        text=Text(**_stack(texts)),
    )


def _shapes(encoding: Encoding) -> Hashable:
    return tuple(sorted((name, tuple(x.shape)) for name, x in encoding.tensors.items()))


def _stack(rows: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    try:
        return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
    except (RuntimeError, KeyError) as error:
        shapes = sorted({str({name: tuple(tensor.shape) for name, tensor in row.items()}) for row in rows})
        raise ValueError(
            f"The pairs of a batch differ in shape: {' and '.join(shapes)}. Use a batch size of 1, or pairs "
            "of one size."
        ) from error
