"""Shards: their names, their content, and how they come to the disk or into a store."""

import errno
import hashlib
import json
import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dsd.data import cache
from dsd.data.atomic import create_file, replace_file, sha256_of
from dsd.data.filesystems import ConflictError, StorageError
from dsd.data.manifest import Shard, ids_digest
from dsd.data.rows import Row, TableKind
from dsd.data.shard_files import footer_of
from dsd.data.storage import Location, RemotePath
from dsd.parquet import check_claims

logger = logging.getLogger(__name__)

_GROUP_ROWS = 64
_PART = re.compile(r"part-(\d+)\.parquet")


def part_name(number: int) -> str:
    """The name of the shard of that number."""
    return f"part-{number:05d}.parquet"


def part_number(name: str) -> int:
    """The number of a shard; -1 if it is none of ours."""
    match = _PART.fullmatch(name)
    return -1 if match is None else int(match[1])


def highest_number(folder: Location) -> int:
    """The highest number of a shard in a folder, listed or not, under its own name or set aside; -1 if there
    is none.
    """
    names = (path.name.partition(".parquet")[0] + ".parquet" for path in folder.glob("part-*.parquet*"))
    return max(map(part_number, names), default=-1)


def parquet(kind: TableKind[Any], stamp: Mapping[str, Any], rows: Iterable[Row]) -> memoryview:
    """The content of a shard. Beside it, no more than one row group is in memory.

    Args:
        kind: of the table.
        stamp: the stage and its spec, by which a shard that is not listed is known.
        rows: its rows, in order.
    """
    metadata = {**(kind.schema.metadata or {}), b"dsd": json.dumps(stamp).encode()}
    schema = kind.schema.with_metadata(metadata)
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(
        sink,
        schema,
        compression="zstd" if kind.shared else "none",
        use_dictionary=kind.shared,
        dictionary_pagesize_limit=4 * kind.group_bytes,
        write_page_checksum=True,
    ) as writer:
        for group in _groups(rows, kind.group_bytes):
            writer.write_table(pa.Table.from_pylist(group, schema=schema))
    return memoryview(sink.getvalue())


def put(folder: Location, number: int, data: memoryview) -> str:
    """Write a shard under that number or, in a store, the next one that is free; the name that it got."""
    if not isinstance(folder, RemotePath):
        replace_file(folder / part_name(number), data)
        return part_name(number)
    while True:
        try:
            create_file(folder / part_name(number), data)
            return part_name(number)
        except ConflictError:  # one that a process left and the store did not list when the stage began
            logger.warning("%s is there already, and in no manifest: left alone", folder / part_name(number))
            number += 1


def entry(folder: Location, name: str, ids: Sequence[str], data: memoryview) -> Shard:
    """What a manifest says of a shard that was written.

    Raises:
        OSError: if the disk or the store does not have what it was given.
    """
    path, sha256 = folder / name, hashlib.sha256(data).hexdigest()
    if isinstance(path, RemotePath):
        if (size := path.size()) != len(data):
            raise StorageError(errno.EIO, f"The store has {size} of {len(data)} bytes of {path}.")
        cache.keep(sha256, data)
    elif sha256_of(path) != sha256:
        raise OSError(errno.EIO, f"{path} came back from the disk with other bytes. Check the disk.")
    digest, footer = ids_digest(ids), footer_of(data)
    return Shard(file=name, rows=len(ids), bytes=len(data), ids=digest, sha256=sha256, footer=footer)


def open_shard(data: bytes | memoryview) -> pq.ParquetFile:
    """The content of a shard, to be read by rows and columns; its pages are checked as they are read.

    Raises:
        ValueError: if it is no Parquet file, or claims more than is read.
        OSError: if it is damaged.
    """
    file = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
    check_claims(file.metadata)
    return file


def stamp_of(file: pq.ParquetFile) -> dict[str, Any] | None:
    """The stage and the spec that a shard says that it is part of; None if it says nothing."""
    try:
        found = json.loads((file.schema_arrow.metadata or {}).get(b"dsd", b"null"))
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def row_bytes(row: Row) -> int:
    """About what a row takes: its pictures and tensors."""
    cells = (cell["bytes"] if isinstance(cell, dict) else cell for cell in row.values())
    return sum(len(cell) for cell in cells if isinstance(cell, bytes)) + 256


def _groups(rows: Iterable[Row], group_bytes: int) -> Iterator[list[Row]]:
    """Row groups, none of which has more than `_GROUP_ROWS` rows or, if it has several, so many bytes."""
    group: list[Row] = []
    size = 0
    for row in rows:
        if group and (len(group) >= _GROUP_ROWS or size + row_bytes(row) > group_bytes):
            yield group
            group, size = [], 0
        group.append(row)
        size += row_bytes(row)
    if group:
        yield group
