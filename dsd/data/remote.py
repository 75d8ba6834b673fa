"""Parquet files in a store, of which only the needed ranges are read."""

import hashlib
import io
import os
from collections.abc import Iterable

import pyarrow.parquet as pq

from dsd.data.cache import ContentError
from dsd.data.storage import RemotePath

_TAIL_BYTES = 64 * 2**10  # what pyarrow reads first, for the footer
_GAP_BYTES = 32 * 2**10  # ranges nearer to each other are read as one


class RangeFile(io.RawIOBase):
    """A file of a store that is read in ranges; those that were fetched ahead are read at the same time.

    Args:
        path: the file.
        size: its size in bytes.
    """

    def __init__(self, path: RemotePath, size: int) -> None:
        self._path, self._size, self._position = path, size, 0
        self._parts: list[tuple[int, bytes]] = []
        tail = max(0, size - _TAIL_BYTES)
        self.prefetch([(tail, size)])
        length = int.from_bytes(self._parts[0][1][-8:-4], "little") + 8 if size >= 8 else size
        if tail > size - length >= 0:
            self.prefetch([(size - length, size)])
        self._kept = list(self._parts)
        footer = self._parts[0][1][-length:] if length <= size else b"".join(path.chunks(size))
        self.footer = hashlib.sha256(footer).hexdigest()

    def prefetch(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Read some ranges `(start, end)` at the same time, instead of what was read ahead before."""
        merged: list[list[int]] = []
        for start, end in sorted(ranges):
            if merged and start - merged[-1][1] <= _GAP_BYTES:
                merged[-1][1] = max(end, merged[-1][1])
            else:
                merged.append([start, end])
        found = self._path.read_ranges([(start, end) for start, end in merged])
        self._parts = [(start, part) for (start, _), part in zip(merged, found, strict=True)]

    def forget(self) -> None:
        """Drop what was read ahead, but for the footer."""
        self._parts = list(self._kept)

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def tell(self) -> int:
        """The position, in bytes."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move, as any file does."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = base + offset
        return self._position

    def read(self, size: int | None = -1) -> bytes:
        """Bytes from the position on."""
        start = self._position
        end = self._size if size is None or size < 0 else min(self._size, start + size)
        if end <= start:
            return b""
        self._position = end
        for first, part in (*self._parts, *self._kept):
            if first <= start and end <= first + len(part):
                return part[start - first : end - first]
        return self._path.read_ranges([(start, end)])[0]


class RemoteParquet(pq.ParquetFile):
    """A Parquet file of a store; see `RangeFile`.

    Args:
        path: the file.
        size: its recorded size in bytes.
        footer: the recorded SHA-256 of its footer; "" if none is.

    Raises:
        ContentError: if they are others.
    """

    def __init__(self, path: RemotePath, size: int, footer: str) -> None:
        there = path.size()
        if there != size:
            raise ContentError(f"it has {there} bytes, not {size}")
        self._ranges = RangeFile(path, size)
        if footer and self._ranges.footer != footer:
            raise ContentError("its footer is not the recorded one")
        super().__init__(self._ranges, page_checksum_verification=True)

    def read_row_groups(self, row_groups: Iterable[int], columns: list[str] | None = None, **options: object):  # type: ignore[no-untyped-def]  # noqa: ANN201
        """As pyarrow's; the columns' ranges are fetched at the same time, not one after the other."""
        groups = list(row_groups)
        wanted = []
        for group in groups:
            about = self.metadata.row_group(group)
            for chunk in map(about.column, range(about.num_columns)):
                if columns is None or chunk.path_in_schema.partition(".")[0] in columns:
                    starts = (chunk.dictionary_page_offset, chunk.data_page_offset)
                    start = min(offset for offset in starts if offset is not None)
                    wanted.append((start, start + chunk.total_compressed_size))
        self._ranges.prefetch(wanted)
        try:
            return super().read_row_groups(groups, columns=columns, **options)
        finally:
            self._ranges.forget()


def check_stored(path: RemotePath, sha256: str, size: int) -> None:
    """Compare a file of a store with its hash, whatever the local cache has of it.

    Raises:
        ContentError: if it is another.
    """
    there = path.size()
    if there != size:
        raise ContentError(f"it has {there} bytes, not {size}")
    digest = hashlib.sha256()
    for chunk in path.chunks(size):
        digest.update(chunk)
    if digest.hexdigest() != sha256:
        raise ContentError("its SHA-256 is not the recorded one")
