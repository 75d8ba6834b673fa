"""The layouts that are Parquet, written."""

import io
import json
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq

from dsd.data.rows import schema
from dsd.exchange import subjects200k
from dsd.exchange.outgoing import Outgoing, Writer
from dsd.exchange.subjects200k import joined
from dsd.opening import decode_image
from dsd.types import Verdict

_GROUP_BYTES = 64 * 2**20
_GROUP_ROWS = 100
_IMAGE = pa.struct({"bytes": pa.binary(), "path": pa.string()})


class _ParquetWriter(Writer):
    """Parquet files as `datasets` names them."""

    data_files = "data/train-*.parquet"
    schema: ClassVar[pa.Schema]

    def __init__(self, folder: Path, **options: Any) -> None:
        super().__init__(folder, **options)
        (folder / "data").mkdir()
        self._file: pq.ParquetWriter | None = None
        self._group: list[dict[str, Any]] = []
        self._group_bytes = self._files = 0

    def _append(self, row: dict[str, Any], size: int) -> None:
        if self._file is None:
            path = self.folder / "data" / f"part-{self._files:05d}"
            self._file = pq.ParquetWriter(path, self.schema, compression="zstd", write_page_checksum=True)
            self._files += 1
        self._group.append(row)
        self._group_bytes += size
        if len(self._group) >= _GROUP_ROWS or self._group_bytes >= _GROUP_BYTES:
            self._flush()

    def _flush(self) -> None:
        if self._group and self._file is not None:
            self._file.write_table(pa.Table.from_pylist(self._group, schema=self.schema))
        self._group, self._group_bytes = [], 0

    def _close(self) -> None:
        self._flush()
        if self._file is not None:
            self._file.close()
            self._file = None

    def finish(self) -> int:
        """Close the last file, and give all the names that tell how many there are."""
        pairs = super().finish()
        for number in range(self._files):
            name = f"train-{number:05d}-of-{self._files:05d}.parquet"
            (self.folder / "data" / f"part-{number:05d}").rename(self.folder / "data" / name)
        return pairs


class ReleaseWriter(_ParquetWriter):
    """See `dsd.exchange.release`."""

    schema = schema(image=_IMAGE, conditioning=_IMAGE, caption=pa.string())

    def _write(self, pair: Outgoing) -> None:
        row = {
            "image": {"bytes": pair.target, "path": None},
            "conditioning": {"bytes": pair.reference, "path": None},
            "caption": pair.fields["caption"],
        }
        self._append(row, len(pair.reference) + len(pair.target))


def _subjects_schema() -> pa.Schema:
    """The columns of Subjects200K, with their features."""

    def value(kind: str) -> dict[str, str]:
        return {"_type": "Value", "dtype": kind}

    ratings = {name: value("int64") for name in subjects200k.RATINGS}
    texts = {name: value("string") for name in ("item", "description_0", "description_1", "category")}
    features = {
        "image": {"_type": "Image"},
        "collection": value("string"),
        "quality_assessment": ratings,
        "description": {**texts, "description_valid": value("bool")},
    }
    columns = {
        "image": _IMAGE,
        "collection": pa.string(),
        "quality_assessment": pa.struct({name: pa.int64() for name in ratings}),
        "description": pa.struct({**{name: pa.string() for name in texts}, "description_valid": pa.bool_()}),
    }
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    return pa.schema(list(columns.items()), metadata=metadata)


class Subjects200KWriter(_ParquetWriter):
    """See `dsd.exchange.subjects200k`. Two pairs that are each other's reverse become one row."""

    schema = _subjects_schema()

    def __init__(self, folder: Path, **options: Any) -> None:
        super().__init__(folder, **options)
        self._waiting: dict[tuple[bytes, bytes], Outgoing] = {}
        self._grid = ""

    def add(self, pair: Outgoing) -> str | None:
        """Write a pair, when its reverse or another grid has come."""
        left, right = decode_image(pair.reference, "of a pair"), decode_image(pair.target, "of a pair")
        try:
            joined(left, right, self.padding)
        except ValueError:
            return "pictures of different sizes or modes cannot stand side by side"
        self._write(pair)
        return None

    def _write(self, pair: Outgoing) -> None:
        """Into a row, now or later; rows count their pairs."""
        if pair.fields["grid_id"] != self._grid or not self._grid:
            self._write_waiting()
            self._grid = pair.fields["grid_id"]
        reverse = self._waiting.get((pair.target, pair.reference))
        if reverse is not None and _same_subject(reverse, pair):
            del self._waiting[pair.target, pair.reference]
            self._row(reverse, pair)
            return
        equal = self._waiting.pop((pair.reference, pair.target), None)  # with another caption
        if equal is not None:
            self._row(equal, None)
        self._waiting[pair.reference, pair.target] = pair

    def finish(self) -> int:
        """As `_ParquetWriter.finish`."""
        self._write_waiting()
        return super().finish()

    def _write_waiting(self) -> None:
        waiting, self._waiting = list(self._waiting.values()), {}
        for pair in waiting:
            self._row(pair, None)

    def _row(self, pair: Outgoing, reverse: Outgoing | None) -> None:
        """A row: `pair` from left to right, `reverse` from right to left."""
        left, right = decode_image(pair.reference, "of a pair"), decode_image(pair.target, "of a pair")
        buffer = io.BytesIO()
        page = joined(left, right, self.padding)
        if self.ending == "png":
            page.save(buffer, "PNG", compress_level=3)
        else:
            page.convert("RGB").save(buffer, "JPEG", quality=self.quality, subsampling=0)
        about = pair.fields
        row = {
            "image": {"bytes": buffer.getvalue(), "path": None},
            "collection": about["source"],
            "quality_assessment": _ratings(pair.verdicts.get(subjects200k.CURATOR)),
            "description": {
                "item": about["subject"],
                "description_0": None if reverse is None else reverse.fields["caption"],
                "description_1": about["caption"],
                "category": about["kind"],
                "description_valid": True,
            },
        }
        self._append(row, len(buffer.getvalue()))
        self._count(len(buffer.getvalue()), 1 if reverse is None else 2)


def _same_subject(one: Outgoing, other: Outgoing) -> bool:
    names = ("subject", "kind", "source", "grid_id")
    ratings = (_ratings(pair.verdicts.get(subjects200k.CURATOR)) for pair in (one, other))
    return (
        all(one.fields[name] == other.fields[name] for name in names) and len({str(x) for x in ratings}) == 1
    )


def _ratings(verdict: Verdict | None) -> dict[str, int] | None:
    """The ratings that came with a pair of Subjects200K; other verdicts have no place there."""
    try:
        found = json.loads(verdict.raw) if verdict is not None else None
    except ValueError:
        return None
    if isinstance(found, dict) and all(type(found.get(name)) is int for name in subjects200k.RATINGS):
        return {name: found[name] for name in subjects200k.RATINGS}
    return None
