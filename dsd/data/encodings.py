"""Rows of cached encodings: named tensors as one safetensors document in a Parquet cell."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from dsd.data.rows import Row, TableKind, schema

_GROUP_BYTES = 2**19


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """Named tensors of one caption, reference or pair.

    Attributes:
        id: of the caption, the reference picture or the pair.
        tensors: without a batch axis.
        reference_id: of a pair: the row of its reference.
        text_id: of a pair: the row of its caption.
    """

    id: str
    tensors: Mapping[str, Any]
    reference_id: str = ""
    text_id: str = ""


def _to_rows(encodings: Sequence[Encoding]) -> list[Row]:
    from safetensors.torch import save

    return [
        {"id": e.id, "reference_id": e.reference_id, "text_id": e.text_id, "tensors": save(dict(e.tensors))}
        for e in encodings
    ]


def _from_row(row: Row) -> Encoding:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        tensors = load(row["tensors"])
    except SafetensorError as error:
        raise ValueError(f"The tensors of {row['id']} cannot be read: {error}") from error
    return Encoding(id=row["id"], tensors=tensors, reference_id=row["reference_id"], text_id=row["text_id"])


def encodings(name: str) -> TableKind[Encoding]:
    """The kind of the table `encoded/NAME`."""
    return TableKind(
        stage=f"encoded/{name}",
        schema=schema(id=pa.string(), reference_id=pa.string(), text_id=pa.string(), tensors=pa.binary()),
        id_column="id",
        key_column="id",
        made_by="dsd.encode(run, backbone=..., conditioning=...)",
        to_rows=_to_rows,
        from_row=_from_row,
        group_bytes=_GROUP_BYTES,
        shared=False,
    )


def caption_id(caption: str) -> str:
    """The id of a caption's row."""
    return hashlib.sha256(caption.encode()).hexdigest()[:20]
