"""The files of a stage's shards: checked when they are opened, and read in parts."""

import hashlib
import os
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from dsd.data import cache
from dsd.data.atomic import sha256_of
from dsd.data.filesystems import StorageError
from dsd.data.manifest import STAGE_MANIFEST, ChangedError, ManifestError, Shard, StageManifest
from dsd.data.remote import RemoteParquet, check_stored
from dsd.data.rows import TableKind
from dsd.data.storage import Location, RemotePath
from dsd.data.trust import check_columns
from dsd.parquet import check_claims

FileState = tuple[int, int, int, int] | str
"""Inode, size, times of change (of the content, of anything); in a store, the version of the file."""

_MAX_FILES = 32
_GROUPS_AT_ONCE = 4  # read together when rows are read by number
_MAX_GROUP_BYTES = 64 * 2**20  # of row groups kept in memory for reading by id


class ShardFiles:
    """The files of one stage's shards, here or in a store.

    Of a store, whole shards are read through the local cache, and single columns by ranges. Pickled or
    forked, it has nothing open.

    Args:
        folder: where they are.
        kind: what their rows look like.
    """

    def __init__(self, folder: Location, kind: TableKind[Any]) -> None:
        self.folder, self.kind = folder, kind
        self._checked: set[FileState] = set()
        self._forget()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_groups": OrderedDict(), "_files": OrderedDict(), "_group_bytes": 0}

    def _forget(self) -> None:
        self._files: OrderedDict[FileState, pq.ParquetFile] = OrderedDict()
        self._groups: OrderedDict[tuple[FileState, int], pa.Table] = OrderedDict()
        self._group_bytes, self._pid = 0, os.getpid()

    def open(self, shard: Shard, *, keep: bool = True) -> pq.ParquetFile:
        """The shard's file, if its size and footer are the recorded ones.

        Not memory-mapped: a mapped file that somebody truncates would kill the process.

        Args:
            shard: which one.
            keep: it open; some are. Of a store they are in any case.

        Raises:
            ManifestError: if it is missing or damaged.
        """
        return self._open(shard, keep)[1]

    def _open(self, shard: Shard, keep: bool = True) -> tuple[FileState, pq.ParquetFile]:
        if self._pid != os.getpid():  # forked: what the parent has open is the parent's
            self._forget()
        path: Location = self.folder / shard.file
        with self._read_errors(shard):
            if isinstance(path, RemotePath):
                path = cache.find(shard.sha256) or path
            state = f"{path} {shard.sha256}" if isinstance(path, RemotePath) else file_state(path)
            if state in self._files:
                self._files.move_to_end(state)
                return state, self._files[state]
            if isinstance(path, RemotePath):
                file, keep = RemoteParquet(path, shard.bytes, shard.footer), True
            else:
                if state[1] != shard.bytes:
                    raise self.damaged(shard, f"it has {state[1]} bytes, not {shard.bytes}")
                if shard.footer and footer_digest(path) != shard.footer:
                    raise self.damaged(shard, "its footer is not the recorded one")
                if not shard.footer and state not in self._checked:  # of the first format
                    if sha256_of(path) != shard.sha256:
                        raise self.damaged(shard, "its SHA-256 is not the recorded one")
                    self._checked.add(state)
                file = pq.ParquetFile(path, page_checksum_verification=True)
            check_claims(file.metadata)
            check_columns(file.schema_arrow, self.kind.schema)
            if file.metadata.num_rows != shard.rows:
                raise self.damaged(shard, f"it has {file.metadata.num_rows} rows, not {shard.rows}")
        if keep:
            while len(self._files) >= _MAX_FILES:
                self._files.popitem(last=False)
            self._files[state] = file
        return state, file

    def read(
        self,
        shard: Shard,
        groups: Sequence[int] | None = None,
        columns: Sequence[str] | None = None,
        *,
        keep: bool = True,
    ) -> pa.Table:
        """Some row groups and columns; all of them by default.

        Columns that the shard does not have, because it was written before there were any, get their
        defaults.

        Raises:
            ManifestError: if the shard is missing or damaged.
        """
        file = self.open(shard, keep=keep)
        groups = range(file.num_row_groups) if groups is None else groups
        with self._read_errors(shard):
            names = None if columns is None else list(columns)
            found = file.read_row_groups(list(groups), columns=names, use_threads=False)
        there = set(file.schema_arrow.names)
        for field in self.kind.schema:
            if field.name not in there and (columns is None or field.name in columns):
                value = self.kind.defaults.get(field.name)
                found = found.append_column(field, pa.array([value] * len(found), field.type))
        return found

    def row(self, shard: Shard, number: int, *, whole: bool) -> pa.Table:
        """One row by its number in the shard; its row group is kept for the next one.

        Args:
            shard: which one.
            number: counted from 0.
            whole: read the shard through the local cache.
        """
        if whole:
            self.check(shard)
        state, file = self._open(shard)
        group, starts = self._holding(file, np.array([number]))
        key = (state, int(group[0]))
        if key not in self._groups:
            self._groups[key] = self.read(shard, [key[1]])
            self._group_bytes += self._groups[key].nbytes
            while self._group_bytes > _MAX_GROUP_BYTES and len(self._groups) > 1:
                self._group_bytes -= self._groups.popitem(last=False)[1].nbytes
        self._groups.move_to_end(key)
        return self._groups[key].slice(number - int(starts[key[1]]), 1)

    def some(
        self, shard: Shard, numbers: npt.NDArray[np.int64], columns: Sequence[str] | None
    ) -> Iterator[pa.Table]:
        """Rows by their numbers in the shard, growing, some row groups at a time; the others are not read."""
        file = self.open(shard)
        holding, starts = self._holding(file, numbers)
        groups, first = np.unique(holding, return_index=True)
        for i in range(0, len(groups), _GROUPS_AT_ONCE):
            some = groups[i : i + _GROUPS_AT_ONCE]
            counts = starts[some + 1] - starts[some]
            end = first[i + _GROUPS_AT_ONCE] if i + _GROUPS_AT_ONCE < len(groups) else len(numbers)
            mine = slice(first[i], end)
            place = np.searchsorted(some, holding[mine])
            offsets = numbers[mine] - starts[some][place] + (np.cumsum(counts) - counts)[place]
            yield self.read(shard, some.tolist(), columns).take(pa.array(offsets))

    @staticmethod
    def _holding(
        file: pq.ParquetFile, numbers: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """The row group of each row, and where each group begins, and the last one ends."""
        counts = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
        starts = np.cumsum([0, *counts])
        return np.searchsorted(starts, numbers, side="right") - 1, starts

    def check(self, shard: Shard) -> None:
        """Compare the file with its hash, once as long as it stays what it is; of a store, the cached one.

        Raises:
            ManifestError: if it is missing or damaged.
        """
        path: Location = self.folder / shard.file
        if isinstance(path, RemotePath):
            cache.limit_bytes()  # a wrong setting is not damage
        with self._read_errors(shard):
            if isinstance(path, RemotePath):
                stored, path = path, cache.fetch(path, shard.sha256, shard.bytes)
                if file_state(path) not in self._checked and sha256_of(path) != shard.sha256:
                    cache.drop(shard.sha256)
                    path = cache.fetch(stored, shard.sha256, shard.bytes)
        state, _ = self._open(shard)
        if state not in self._checked:
            if sha256_of(path) != shard.sha256:
                raise self.damaged(shard, "its SHA-256 is not the recorded one")
            self._checked.add(state)

    def problem(self, shard: Shard) -> str | None:
        """What is wrong with a shard, looked at anew; None if it is as it was written."""
        self._checked.clear()
        path = self.folder / shard.file
        try:
            if isinstance(path, RemotePath):
                with self._read_errors(shard):
                    check_stored(path, shard.sha256, shard.bytes)
            else:
                self.check(shard)
        except ManifestError as error:
            return str(error)
        return None

    def damaged(self, shard: Shard, what: str) -> ManifestError:
        """The error that says how to mend a shard; or, if it is no longer listed, to read again."""
        if (self.folder / STAGE_MANIFEST).exists() and shard not in StageManifest.load(self.folder).shards:
            return ChangedError(
                f"The shard {self.folder / shard.file} was replaced while it was read: the rows of "
                f"{self.kind.stage!r} were compacted or made anew. Read them again from the beginning."
            )
        run = self.folder.parents[self.kind.stage.count("/")]
        return ManifestError(
            f"The shard {self.folder / shard.file} is damaged: {what}. Restore the file from a copy; or call "
            f"dsd.Run({str(run)!r}).mend({self.kind.stage!r}), which sets it aside, and then "
            f"{self.kind.made_by}, which makes its {shard.rows} rows again."
        )

    @contextmanager
    def _read_errors(self, shard: Shard) -> Iterator[None]:
        """What is wrong with the file is told as damage; a store that cannot be reached is not."""
        try:
            yield
        except StorageError:
            raise
        except FileNotFoundError as error:
            raise self.damaged(shard, "it is missing") from error
        except (pa.ArrowException, OSError, ValueError) as error:
            raise self.damaged(shard, str(error).splitlines()[0]) from error


def file_state(path: Location) -> FileState:
    """What changes when a file does."""
    if isinstance(path, RemotePath):
        return path.version()
    status = os.stat(path)
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def footer_digest(path: Path) -> str:
    """SHA-256 of the footer of a Parquet file; of the whole file if it has none."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 8))
        length = int.from_bytes(file.read(8)[:4], "little") + 8
        file.seek(max(0, size - length))
        return hashlib.sha256(file.read()).hexdigest()


def footer_of(data: memoryview) -> str:
    """`footer_digest` of a file's content."""
    length = int.from_bytes(data[-8:-4], "little") + 8
    return hashlib.sha256(data[max(0, len(data) - length) :]).hexdigest()
