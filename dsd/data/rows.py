"""Records to rows of Parquet and back: schemas that pyarrow, `datasets` and DuckDB read."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any, Generic, TypeVar, cast

import pyarrow as pa
from PIL import Image

from dsd import opening
from dsd.types import Grid, GridPrompt, Pair, Status, Verdict

R = TypeVar("R")
Row = dict[str, Any]

_IMAGE = pa.struct({"bytes": pa.binary(), "path": pa.string()})
_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")
_FEATURES = {
    pa.binary(): "binary",
    pa.string(): "string",
    pa.int64(): "int64",
    pa.int32(): "int32",
    pa.float64(): "float64",
}


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A row of an earlier stage that a stage could not do.

    Attributes:
        source: the id of that row.
        reason: what went wrong.
    """

    source: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class TableKind(Generic[R]):
    """What the rows of a stage look like.

    Attributes:
        stage: the stage's name, for messages.
        schema: the columns, with the Hugging Face features that make pictures of image columns.
        id_column: the column that names a row.
        key_column: the column that says what the row was made from; a stage does the rows of the earlier
            stage whose ids do not stand here yet.
        made_by: the call that makes the stage, for messages.
        to_rows: records to rows.
        from_row: a row back to its record.
        group_bytes: size of a row group: what reading one row by its id has to read.
        shared: whether rows of a group share large values, which are then stored once.
        defaults: the values of columns in shards that were written before there were such columns; None for
            those that it does not name.
    """

    stage: str
    schema: pa.Schema
    id_column: str
    key_column: str
    made_by: str
    to_rows: Callable[[Sequence[R]], list[Row]]
    from_row: Callable[[Row], R]
    group_bytes: int = 4 * 2**20
    shared: bool = True
    defaults: Mapping[str, Any] = field(default_factory=dict)


def encode_image(image: Image.Image) -> bytes:
    """The picture as PNG, which keeps every pixel and, of the modes that PNG has, the mode.

    Raises:
        ValueError: if PNG does not have the picture's mode, or it has more pixels than are read back.
    """
    try:
        opening.check_size(image)
    except ValueError as error:
        raise ValueError(f"Cannot store a picture: {error}") from error
    if image.mode not in _MODES:
        raise ValueError(
            f"Cannot store a picture of mode {image.mode!r}; allowed: {', '.join(_MODES)}. Use "
            "image.convert('RGB')."
        )
    buffer = BytesIO()
    image.save(buffer, "PNG", compress_level=3)
    return buffer.getvalue()


def decode_image(cell: Mapping[str, Any]) -> Image.Image:
    """The picture of an image cell.

    Raises:
        ValueError: if its bytes are no whole picture, or one with too many pixels.
    """
    if not isinstance(cell, Mapping) or not isinstance(cell.get("bytes"), bytes):
        raise ValueError("The bytes of a picture are missing.")
    # A plain image: PIL's PngImageFile keeps the file's header fields and a reference to the buffer.
    return opening.decode_image(cell["bytes"], "of a row").copy()


def schema(**columns: pa.DataType) -> pa.Schema:
    """Columns, with the Hugging Face features that tell `datasets` what they mean."""
    features = {name: _feature(kind) for name, kind in columns.items()}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    return pa.schema(list(columns.items()), metadata=metadata)


def _feature(kind: pa.DataType) -> dict[str, Any]:
    if kind == _IMAGE:
        return {"_type": "Image"}
    if pa.types.is_list(kind):
        return {"_type": "Sequence", "feature": _feature(kind.value_type)}
    return {"_type": "Value", "dtype": _FEATURES[kind]}


class _Encoder:
    """Encodes each picture of a batch once: twelve pairs of one grid share four panels."""

    def __init__(self) -> None:
        self._cells: dict[int, dict[str, Any]] = {}

    def __call__(self, image: Image.Image) -> dict[str, Any]:
        if id(image) not in self._cells:
            self._cells[id(image)] = {"bytes": encode_image(image), "path": None}
        return self._cells[id(image)]


_PROMPT_FIELDS = ("text", "subject", "panels", "layout", "kind", "writer")
_PROMPT_COLUMNS: dict[str, pa.DataType] = {
    **dict.fromkeys(_PROMPT_FIELDS, pa.string()),
    "panels": pa.list_(pa.string()),
}


def _prompt_cells(prompt: GridPrompt) -> Row:
    return {name: getattr(prompt, name) for name in _PROMPT_FIELDS} | {"panels": list(prompt.panels)}


def _prompt(row: Row, seed: int) -> GridPrompt:
    fields = {name: row[name] for name in _PROMPT_FIELDS} | {"panels": tuple(row["panels"])}
    return GridPrompt(**fields, seed=seed)


def _grid_rows(grids: Sequence[Grid]) -> list[Row]:
    encode = _Encoder()
    return [
        {
            "id": grid.id,
            "prompt_id": grid.prompt.id,
            "image": encode(grid.image),
            "seed": grid.seed,
            "teacher": grid.teacher,
            **_prompt_cells(grid.prompt),
            "prompt_seed": grid.prompt.seed,
        }
        for grid in grids
    ]


_PAIR_FIELDS = ("caption", "subject", "kind", "grid_id", "reference_panel", "target_panel", "source")


def _pair_rows(pairs: Sequence[Pair]) -> list[Row]:
    encode = _Encoder()
    return [
        {"id": pair.id, "reference": encode(pair.reference), "target": encode(pair.target)}
        | {name: getattr(pair, name) for name in _PAIR_FIELDS}
        for pair in pairs
    ]


def _prompt_rows(prompts: Sequence[GridPrompt]) -> list[Row]:
    return [{"id": prompt.id, **_prompt_cells(prompt), "seed": prompt.seed} for prompt in prompts]


def _prompt_record(row: Row) -> GridPrompt:
    return _prompt(row, row["seed"])


def _grid_record(row: Row) -> Grid:
    prompt = _prompt(row, row["prompt_seed"])
    return Grid(image=decode_image(row["image"]), prompt=prompt, seed=row["seed"], teacher=row["teacher"])


def _pair_record(row: Row) -> Pair:
    fields = {name: row[name] for name in _PAIR_FIELDS}
    return Pair(reference=decode_image(row["reference"]), target=decode_image(row["target"]), **fields)


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A verdict and the pair that it is about."""

    pair_id: str
    verdict: Verdict


_VERDICT_FIELDS = ("status", "score", "reason", "cost_usd", "raw")


def _verdict_rows(judged: Sequence[Judged]) -> list[Row]:
    return [
        {"pair_id": j.pair_id} | {name: getattr(j.verdict, name) for name in _VERDICT_FIELDS} for j in judged
    ]


def _verdict_record(row: Row) -> Judged:
    fields = {name: row[name] for name in _VERDICT_FIELDS} | {"status": cast(Status, row["status"])}
    return Judged(pair_id=row["pair_id"], verdict=Verdict(**fields))


@dataclass(frozen=True, kw_only=True)
class Captioned:
    """A caption and the pair that it was written for."""

    pair_id: str
    caption: str


def _caption_rows(captioned: Sequence[Captioned]) -> list[Row]:
    return [{"pair_id": c.pair_id, "caption": c.caption} for c in captioned]


def _caption_record(row: Row) -> Captioned:
    return Captioned(pair_id=row["pair_id"], caption=row["caption"])


def _failure_rows(failed: Sequence[Failure]) -> list[Row]:
    return [{"source": failure.source, "reason": failure.reason} for failure in failed]


def _failure_record(row: Row) -> Failure:
    return Failure(source=row["source"], reason=row["reason"])


PROMPTS: TableKind[GridPrompt] = TableKind(
    stage="prompts",
    schema=schema(id=pa.string(), **_PROMPT_COLUMNS, seed=pa.int64()),
    id_column="id",
    key_column="id",
    made_by="dsd.write_prompts(run)",
    to_rows=_prompt_rows,
    from_row=_prompt_record,
)
GRIDS: TableKind[Grid] = TableKind(
    stage="grids",
    schema=schema(
        id=pa.string(),
        prompt_id=pa.string(),
        image=_IMAGE,
        seed=pa.int64(),
        teacher=pa.string(),
        **_PROMPT_COLUMNS,
        prompt_seed=pa.int64(),
    ),
    id_column="id",
    key_column="prompt_id",
    made_by="dsd.draw_grids(run, teacher=...)",
    to_rows=_grid_rows,
    from_row=_grid_record,
)
PAIRS: TableKind[Pair] = TableKind(
    stage="pairs",
    schema=schema(
        id=pa.string(),
        reference=_IMAGE,
        target=_IMAGE,
        **dict.fromkeys(_PAIR_FIELDS[:4], pa.string()),
        reference_panel=pa.int32(),
        target_panel=pa.int32(),
        source=pa.string(),
    ),
    id_column="id",
    key_column="grid_id",
    made_by="dsd.make_pairs(run)",
    to_rows=_pair_rows,
    from_row=_pair_record,
)


def verdicts(name: str) -> TableKind[Judged]:
    """The kind of the table of one curator's verdicts."""
    return TableKind(
        stage=f"verdicts/{name}",
        schema=schema(
            pair_id=pa.string(),
            status=pa.string(),
            score=pa.float64(),
            reason=pa.string(),
            cost_usd=pa.float64(),
            raw=pa.string(),
        ),
        id_column="pair_id",
        key_column="pair_id",
        made_by=f"dsd.curate(run, curator={name!r})",
        to_rows=_verdict_rows,
        from_row=_verdict_record,
    )


def captions(name: str) -> TableKind[Captioned]:
    """The kind of the table of one captioner's captions."""
    return TableKind(
        stage=f"captions/{name}",
        schema=schema(pair_id=pa.string(), caption=pa.string()),
        id_column="pair_id",
        key_column="pair_id",
        made_by=f"dsd.caption_pairs(run, captioner=..., name={name!r})",
        to_rows=_caption_rows,
        from_row=_caption_record,
    )


def failures(stage: str) -> TableKind[Failure]:
    """The kind of the table of what one stage could not do."""
    return TableKind(
        stage=f"failed/{stage}",
        schema=schema(source=pa.string(), reason=pa.string()),
        id_column="source",
        key_column="source",
        made_by=f"the stage {stage!r}",
        to_rows=_failure_rows,
        from_row=_failure_record,
    )
