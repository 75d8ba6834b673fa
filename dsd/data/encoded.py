"""Cached encodings: latents and text embeddings by pair id, stored once and read in any order.

    encoded/BACKBONE-REVISION/text/                       one row a caption, shared by all conditionings
    encoded/BACKBONE-REVISION/CONDITIONING/references/    one row a reference picture
    encoded/BACKBONE-REVISION/CONDITIONING/pairs/         one row a pair: its target, reference and caption

Each row's tensors are one safetensors document in a Parquet cell.
"""

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any

import torch
from torch import Tensor

from dsd.backbones.base import Batch, Reference, Text
from dsd.data.encodings import Encoding, caption_id, encodings
from dsd.data.manifest import STAGE_MANIFEST
from dsd.data.storage import Location, location, named
from dsd.data.table import Table


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
        references = [self.references[pair.reference_id].tensors for pair in pairs]
        text_ids = [pair.text_id for pair in pairs] if captions is None else map(caption_id, captions)
        texts = [self.texts[text_id].tensors for text_id in text_ids]
        return Batch(
            ids=list(ids),
            reference=Reference(**_stack(references)),
            target=_stack([pair.tensors for pair in pairs])["target"],
            text=Text(**_stack(texts)),
        )

    def text(self, caption: str) -> Text:
        """An encoded caption, as a batch of one. The empty caption is always there, for guidance and dropout.

        Raises:
            LookupError: if no pair has that caption.
        """
        return Text(**_stack([self.texts[caption_id(caption)].tensors]))


def _stack(rows: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    try:
        return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
    except (RuntimeError, KeyError) as error:
        shapes = sorted({str({name: tuple(tensor.shape) for name, tensor in row.items()}) for row in rows})
        raise ValueError(
            f"The pairs of a batch differ in shape: {' and '.join(shapes)}. Use a batch size of 1, or pairs "
            "of one size."
        ) from error
