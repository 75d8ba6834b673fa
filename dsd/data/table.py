"""Reading the rows of one stage: in order, by id, or column by column, with bounded memory."""

import hashlib
import os
import time
from collections import OrderedDict
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dsd.data import cache
from dsd.data.atomic import sha256_of
from dsd.data.filesystems import StorageError
from dsd.data.manifest import (
    STAGE_MANIFEST,
    ChangedError,
    ManifestError,
    Shard,
    StageManifest,
    ids_digest,
)
from dsd.data.remote import RemoteParquet, check_stored
from dsd.data.rows import Row, TableKind
from dsd.data.storage import Location, RemotePath
from dsd.parquet import check_claims

R = TypeVar("R")
# Inode, size, times of change (of the content, of anything); in a store, the version of the file.
_FileState = tuple[int, int, int, int] | str

_MAX_FILES = 32
_MANIFEST_S = 2.0  # how old a manifest of a store may be when rows are read singly
_GROUPS_AT_ONCE = 4  # read together when rows are read by number
_MAX_GROUP_BYTES = 64 * 2**20  # of row groups kept in memory for reading by id


class Table(Generic[R]):
    """The rows of one stage, as far as they are listed in its manifest.

    It reads what is on disk when it is asked; a table that another process adds to gets longer. Of a store,
    whole shards are read through the local cache, and single columns by ranges.

    Args:
        folder: where the shards are, here or in a store.
        kind: what the rows look like.
    """

    def __init__(self, folder: Location, kind: TableKind[R]) -> None:
        self.folder = folder
        self.kind = kind
        self._loaded: tuple[_FileState, StageManifest] | None = None
        self._checked: set[_FileState] = set()
        self._places: dict[str, tuple[int, int, int]] = {}
        self._placed: tuple[Shard, ...] = ()
        self._placed_bytes, self._loaded_at = 0, 0.0
        self._groups: OrderedDict[tuple[_FileState, int], pa.Table] = OrderedDict()
        self._files: OrderedDict[_FileState, pq.ParquetFile] = OrderedDict()
        self._forget()

    def __repr__(self) -> str:
        return f"Table({str(self.folder)!r}, {len(self) if self.exists else 'no'} rows)"

    @property
    def exists(self) -> bool:
        """Whether the stage has been begun."""
        return (self.folder / STAGE_MANIFEST).exists()

    @property
    def manifest(self) -> StageManifest:
        """The stage's manifest as it is on disk now.

        Raises:
            FileNotFoundError: if the stage has not been begun, with the call that makes it.
            ManifestError: if the manifest is damaged.
        """
        try:
            state = _state(self.folder / STAGE_MANIFEST)
        except (FileNotFoundError, NotADirectoryError) as error:
            if not self.folder.parent.is_dir():
                raise FileNotFoundError(
                    f"There is no run in {self.folder.parent}: the folder does not exist. Check the path."
                ) from error
            raise FileNotFoundError(
                f"{self.folder} has no rows of the stage {self.kind.stage!r} yet. Call {self.kind.made_by}."
            ) from error
        if self._loaded is None or self._loaded[0] != state:
            self._loaded = (state, StageManifest.load(self.folder))
        self._loaded_at = time.monotonic()
        return self._loaded[1]

    def __len__(self) -> int:
        return self.manifest.rows

    def __iter__(self) -> Iterator[R]:
        for _, record in self.items():
            yield record

    def __contains__(self, row_id: object) -> bool:
        return self._place(row_id) is not None

    def __getitem__(self, row_id: str) -> R:
        """The record of that id.

        Raises:
            LookupError: if there is none.
            ManifestError: if its shard is damaged.
        """
        try:
            return self._found(row_id)
        except ChangedError:  # compacted since the places of rows were read
            self._places, self._placed = {}, ()
            return self._found(row_id)

    def _found(self, row_id: str) -> R:
        place = self._place(row_id)
        if place is None:
            raise LookupError(f"{self.folder} has no row {row_id!r} among its {len(self)} rows.")
        number, group, offset = place
        shard = self._placed[number]
        return self._record(shard, self._row_group(shard, group).slice(offset, 1).to_pylist()[0])

    def ids(self) -> list[str]:
        """The ids of all rows, in order."""
        return [row_id for shard in self.manifest.shards for row_id in self.ids_of(shard)]

    def keys(self) -> set[str]:
        """The ids of the rows of the earlier stage that rows were made from."""
        return set(self.columns(self.kind.key_column)[self.kind.key_column].to_pylist())

    def columns(self, *names: str) -> pa.Table:
        """Some columns of all rows; pictures in the others are not read."""
        schema = pa.schema([self.kind.schema.field(name) for name in names])
        parts = [self._read(shard, self._open(shard)[1], None, list(names)) for shard in self.manifest.shards]
        return (
            pa.concat_tables([part.select(names).cast(schema) for part in parts])
            if parts
            else schema.empty_table()
        )

    def items(self, ids: Collection[str] | None = None) -> Iterator[tuple[str, R]]:
        """All rows, or those of some ids, in order, as `(id, record)`.

        Holds one row group in memory at a time; rows that are left out are not decoded.

        Raises:
            ManifestError: if a shard is missing or damaged.
            ChangedError: if it was replaced meanwhile, as by `Run.compact`: begin again.
        """
        for shard, row in self._rows(ids):
            yield row[self.kind.id_column], self._record(shard, row)

    def rows(self, ids: Collection[str] | None = None) -> Iterator[Row]:
        """As `items`, but as plain values, with pictures as they are stored: nothing is decoded."""
        for _, row in self._rows(ids):
            yield row

    def rows_of(self, shard: Shard) -> Iterator[Row]:
        """The rows of one shard, as `rows`."""
        return (row for _, row in self._rows(None, [shard]))

    def _rows(
        self, ids: Collection[str] | None, shards: Sequence[Shard] | None = None
    ) -> Iterator[tuple[Shard, Row]]:
        wanted = None if ids is None else pa.array(sorted(set(ids)), pa.string())
        for shard in self.manifest.shards if shards is None else shards:
            _, file = self._open(shard)
            kept = None
            if wanted is not None:
                names = self._read(shard, file, None, [self.kind.id_column])[self.kind.id_column]
                kept = np.flatnonzero(pc.is_in(names, value_set=wanted).to_numpy())
                if not len(kept):  # not even hashed: that reads every picture
                    continue
            self._check_content(shard)
            _, file = self._open(shard)  # of a store, it is in the local cache now
            end = 0
            for group in range(file.num_row_groups):
                begin, end = end, end + file.metadata.row_group(group).num_rows
                some = None if kept is None else kept[(kept >= begin) & (kept < end)] - begin
                if some is not None and not len(some):
                    continue
                rows = self._read(shard, file, group)
                rows = rows if some is None else rows.take(pa.array(some))
                # One row at a time: `to_pylist` of the whole group would hold every picture twice.
                for i in range(len(rows)):
                    yield shard, rows.slice(i, 1).to_pylist()[0]

    def at(self, numbers: npt.NDArray[np.int64], *names: str) -> Iterator[pa.Table]:
        """Rows by their number in the table, in order, some row groups at a time; the others are not read.

        Of a store, shards are read through the local cache if the table fits there, else in ranges.

        Args:
            numbers: counted from 0 over all shards; growing, each once.
            names: of the columns; all by default.

        Raises:
            ManifestError: if a shard is missing or damaged, or there are no such rows.
        """
        first, shards = 0, self.manifest.shards
        whole = isinstance(self.folder, RemotePath) and _fits_cache(sum(shard.bytes for shard in shards))
        for shard in shards:
            begin, end = np.searchsorted(numbers, [first, first + shard.rows])
            if begin < end:
                if whole:
                    self._check_content(shard)
                yield from self._some(shard, numbers[begin:end] - first, list(names) or None)
            first += shard.rows
        if len(numbers) and numbers[-1] >= first:
            raise ManifestError(
                f"{self.folder} has {first} rows and no row {numbers[-1]}: rows were removed since it was "
                "opened. Open it again."
            )

    def _some(
        self, shard: Shard, numbers: npt.NDArray[np.int64], names: list[str] | None
    ) -> Iterator[pa.Table]:
        """Rows of a shard by their number in it."""
        _, file = self._open(shard)
        counts = np.array([file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)])
        starts = np.cumsum(counts) - counts
        holding = np.searchsorted(starts, numbers, side="right") - 1
        groups = np.unique(holding)
        for i in range(0, len(groups), _GROUPS_AT_ONCE):
            some = groups[i : i + _GROUPS_AT_ONCE]
            inside = numbers[np.isin(holding, some)]
            place = np.searchsorted(some, holding[np.isin(holding, some)])
            offsets = inside - starts[some][place] + (np.cumsum(counts[some]) - counts[some])[place]
            yield self._read(shard, file, some.tolist(), names).take(pa.array(offsets))

    def record(self, number: int, row: Row) -> R:
        """The record of a row that `at` gave.

        Raises:
            ManifestError: if it cannot be decoded.
        """
        try:
            return self.kind.from_row(row)
        except ValueError as error:
            raise self.damaged(number, str(error)) from error

    def damaged(self, number: int, what: str) -> ManifestError:
        """The error that says how to mend the shard with the row of that number."""
        shards = self.manifest.shards
        ends = np.cumsum([shard.rows for shard in shards])
        return self._damaged(shards[int(np.searchsorted(ends, number, side="right"))], what)

    def verify(self) -> list[str]:
        """Check every shard against its SHA-256 and row count; one message for each that fails."""
        problems = [self.problem(shard) for shard in self.manifest.shards]
        return [problem for problem in problems if problem is not None]

    def problem(self, shard: Shard) -> str | None:
        """What is wrong with a shard; None if it is as it was written."""
        self._checked.clear()
        try:
            if isinstance(self.folder, RemotePath):
                with self._read_errors(shard):
                    check_stored(self.folder / shard.file, shard.sha256, shard.bytes)
            else:
                self._check_content(shard)
        except ManifestError as error:
            return str(error)
        return None

    def whole(self, shard: Shard) -> pa.Table:
        """All rows and columns of a shard.

        Raises:
            ManifestError: if it is damaged.
        """
        self._check_content(shard)
        return self._read(shard, self._open(shard)[1], None)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_groups": OrderedDict(), "_files": OrderedDict(), "_group_bytes": 0}

    def ids_of(self, shard: Shard) -> list[str]:
        """The ids of the rows of one shard, in order.

        Raises:
            ManifestError: if it is damaged.
        """
        name = self.kind.id_column
        ids: list[str] = self._read(shard, self._open(shard)[1], None, [name])[name].to_pylist()
        if ids_digest(ids) != shard.ids:
            raise self._damaged(shard, "the ids of its rows are not the recorded ones")
        return ids

    def _record(self, shard: Shard, row: Row) -> R:
        try:
            return self.kind.from_row(row)
        except ValueError as error:
            raise self._damaged(shard, str(error)) from error

    def _open(self, shard: Shard) -> tuple[_FileState, pq.ParquetFile]:
        """The shard's file, if its size and footer are the recorded ones; some stay open.

        Not memory-mapped: a mapped file that somebody truncates would kill the process.
        """
        if self._pid != os.getpid():  # forked: what the parent has open is the parent's
            self._forget()
        path: Location = self.folder / shard.file
        with self._read_errors(shard):
            if isinstance(path, RemotePath):
                path = cache.find(shard.sha256) or path
            state = f"{path} {shard.sha256}" if isinstance(path, RemotePath) else _state(path)
            if state in self._files:
                self._files.move_to_end(state)
                return state, self._files[state]
            if isinstance(path, RemotePath):
                file = RemoteParquet(path, shard.bytes, shard.footer)
            else:
                if state[1] != shard.bytes:
                    raise self._damaged(shard, f"it has {state[1]} bytes, not {shard.bytes}")
                if shard.footer and footer_digest(path) != shard.footer:
                    raise self._damaged(shard, "its footer is not the recorded one")
                if not shard.footer and state not in self._checked:  # of the first format
                    if sha256_of(path) != shard.sha256:
                        raise self._damaged(shard, "its SHA-256 is not the recorded one")
                    self._checked.add(state)
                file = pq.ParquetFile(path, page_checksum_verification=True)
            check_claims(file.metadata)
        while len(self._files) >= _MAX_FILES:
            self._files.popitem(last=False)
        self._files[state] = file
        return state, file

    @contextmanager
    def _read_errors(self, shard: Shard) -> Iterator[None]:
        """What is wrong with the file is told as damage; a store that cannot be reached is not."""
        try:
            yield
        except StorageError:
            raise
        except FileNotFoundError as error:
            raise self._damaged(shard, "it is missing") from error
        except (pa.ArrowException, OSError, ValueError) as error:
            raise self._damaged(shard, str(error).splitlines()[0]) from error

    def _forget(self) -> None:
        self._groups, self._files, self._pid = OrderedDict(), OrderedDict(), os.getpid()
        self._group_bytes = 0

    def _read(
        self,
        shard: Shard,
        file: pq.ParquetFile,
        group: int | list[int] | None,
        columns: list[str] | None = None,
    ) -> pa.Table:
        every = range(file.num_row_groups)
        groups = every if group is None else [group] if isinstance(group, int) else group
        with self._read_errors(shard):
            found = file.read_row_groups(groups, columns=columns, use_threads=False)
        return self._completed(found, file, columns)

    def _completed(self, found: pa.Table, file: pq.ParquetFile, columns: list[str] | None) -> pa.Table:
        """With the columns that the shard does not have because it was written before there were any."""
        there = set(file.schema_arrow.names)
        for field in self.kind.schema:
            if field.name not in there and (columns is None or field.name in columns):
                value = self.kind.defaults.get(field.name)
                found = found.append_column(field, pa.array([value] * len(found), field.type))
        return found

    def _row_group(self, shard: Shard, group: int) -> pa.Table:
        if isinstance(self.folder, RemotePath) and _fits_cache(self._placed_bytes):
            self._check_content(shard)
        state, file = self._open(shard)
        key = (state, group)
        if key not in self._groups:
            self._groups[key] = self._read(shard, file, group)
            self._group_bytes += self._groups[key].nbytes
            while self._group_bytes > _MAX_GROUP_BYTES and len(self._groups) > 1:
                self._group_bytes -= self._groups.popitem(last=False)[1].nbytes
        self._groups.move_to_end(key)
        return self._groups[key]

    def _place(self, row_id: object) -> tuple[int, int, int] | None:
        """Where an id stands: the shard's number, the row group's, and the row's within it."""
        recent = isinstance(self.folder, RemotePath) and time.monotonic() - self._loaded_at < _MANIFEST_S
        if recent and row_id in self._places and isinstance(row_id, str):
            return self._places[row_id]
        shards = self.manifest.shards
        if shards != self._placed:
            self._places = {}
            for number, shard in enumerate(shards):
                ids = iter(self.ids_of(shard))
                _, file = self._open(shard)
                for group in range(file.num_row_groups):
                    for offset in range(file.metadata.row_group(group).num_rows):
                        self._places[next(ids)] = (number, group, offset)
            self._placed, self._placed_bytes = shards, sum(shard.bytes for shard in shards)
        return self._places.get(row_id) if isinstance(row_id, str) else None

    def _check_content(self, shard: Shard) -> None:
        """Compare the file with its hash, once as long as it stays what it is; of a store, the cached one."""
        path: Location = self.folder / shard.file
        if isinstance(path, RemotePath):
            cache.limit_bytes()  # a wrong setting is not damage
        with self._read_errors(shard):
            if isinstance(path, RemotePath):
                stored, path = path, cache.fetch(path, shard.sha256, shard.bytes)
                if _state(path) not in self._checked and sha256_of(path) != shard.sha256:
                    cache.drop(shard.sha256)
                    path = cache.fetch(stored, shard.sha256, shard.bytes)
        state, _ = self._open(shard)
        if state not in self._checked:
            if sha256_of(path) != shard.sha256:
                raise self._damaged(shard, "its SHA-256 is not the recorded one")
            self._checked.add(state)

    def _damaged(self, shard: Shard, what: str) -> ManifestError:
        self._loaded = None
        if self.exists and shard not in self.manifest.shards:
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


def _state(path: Location) -> _FileState:
    if isinstance(path, RemotePath):
        return path.version()
    status = os.stat(path)
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _fits_cache(num_bytes: int) -> bool:
    return num_bytes <= cache.limit_bytes() / 2


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
