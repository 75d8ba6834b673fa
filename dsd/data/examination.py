"""One shard, row by row: which rows are whole, which are not, and why."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dsd.data.filesystems import StorageError
from dsd.data.manifest import ManifestError, Shard, ids_digest
from dsd.data.rows import Row
from dsd.data.shard_files import footer_of
from dsd.data.shards import open_shard
from dsd.data.table import Table
from dsd.types import Grid, GridPrompt, Pair

_HASHED = (GridPrompt, Grid, Pair)
"""Records whose id is a hash of all that is in them: a row that yields its own id is proven whole."""


@dataclass(frozen=True, kw_only=True)
class Examined:
    """What was found of one row.

    Attributes:
        texts: its short values, as far as they can be read: its id, and what it refers to.
        fault: what is wrong with it.
        row: all its values, of a whole row of a damaged shard.
    """

    texts: Mapping[str, Any] = field(default_factory=dict)
    fault: str | None = None
    row: Row | None = None


def examine(table: Table[Any], shard: Shard) -> Iterator[Examined]:
    """The rows of a shard that is as it was written, each decoded in full and its id computed anew.

    Raises:
        ManifestError: if the shard is not as it was written.
    """
    ids = []
    for row in table.rows_of(shard):
        ids.append(row[table.kind.id_column])
        yield Examined(texts=_texts(row), fault=_fault_of(table, row))
    if len(ids) != shard.rows or ids_digest(ids) != shard.ids:
        raise ManifestError(
            f"The shard {table.folder / shard.file} has {len(ids)} rows, not the recorded "
            f"{shard.rows}, or other ids."
        )


def salvage(table: Table[Any], shard: Shard) -> list[Examined]:
    """The rows of a shard that is damaged, as far as they can be read; empty if none can.

    Its footer must be the recorded one: it says where the pages are. They carry checksums of their own; and
    prompts, grids and pairs are proven by their ids besides.
    """
    # The second is its name after it was set aside, by a mending that was killed.
    paths = [table.folder / shard.file, table.folder / f"{shard.file}.damaged"]
    try:
        data = next(path for path in paths if path.exists()).read_bytes()
        if footer_of(memoryview(data)) != shard.footer:
            return []
        file = open_shard(data)
        return [one for group in range(file.num_row_groups) for one in _salvaged(table, file, group)]
    except StorageError:
        raise
    except (StopIteration, pa.ArrowException, OSError, ValueError):
        return []


def _salvaged(table: Table[Any], file: pq.ParquetFile, group: int) -> Iterator[Examined]:
    kind = table.kind
    try:
        rows = file.read_row_group(group, use_threads=False)
    except (pa.ArrowException, OSError) as error:
        yield from _named(table, file, group, f"cannot be read: {str(error).splitlines()[0]}")
        return
    for i in range(len(rows)):
        row = dict.fromkeys(kind.schema.names) | dict(kind.defaults) | rows.slice(i, 1).to_pylist()[0]
        fault = _fault_of(table, row)
        yield Examined(texts=_texts(row), fault=fault, row=row if fault is None else None)


def _named(table: Table[Any], file: pq.ParquetFile, group: int, fault: str) -> Iterator[Examined]:
    """The rows of a group that cannot be read, by their ids and keys if at least these can."""
    texts: list[dict[str, Any]] = [{} for _ in range(file.metadata.row_group(group).num_rows)]
    for column in {table.kind.id_column, table.kind.key_column}:
        try:
            values = file.read_row_group(group, columns=[column], use_threads=False)[column].to_pylist()
        except (pa.ArrowException, OSError):
            continue
        for found, value in zip(texts, values, strict=True):
            found[column] = value
    for found in texts:
        yield Examined(texts=found, fault=fault)


def _fault_of(table: Table[Any], row: Row) -> str | None:
    """What is wrong with the content of a row: what cannot be decoded, or gives another id."""
    try:
        record = table.kind.from_row(row)
    except (ValueError, TypeError, KeyError) as error:
        return f"cannot be decoded: {error}"
    if isinstance(record, _HASHED) and record.id != row[table.kind.id_column]:
        return f"its content has the id {record.id}"
    return None


def _texts(row: Row) -> dict[str, Any]:
    return {name: value for name, value in row.items() if isinstance(value, str) and len(value) <= 64}


def whole_groups(table: Table[Any], rows: Sequence[Examined], gone: set[int]) -> set[int]:
    """The places of rows that can stay when some are gone: those whose key has lost no row, for the rest of
    such a group would not be made again.

    Args:
        table: for the columns of ids and keys.
        rows: all rows of the shard, in order. Rows of one key stand together.
        gone: the places of those that go.
    """
    if table.kind.key_column == table.kind.id_column:
        return set(range(len(rows))) - gone
    keys = [one.texts.get(table.kind.key_column) for one in rows]
    spoiled = {keys[i] for i in gone} | {None}
    for before, after in itertools.pairwise(keys):  # beside a row whose key cannot be read
        if None in (before, after):
            spoiled |= {before, after}
    return {i for i, key in enumerate(keys) if key not in spoiled}
