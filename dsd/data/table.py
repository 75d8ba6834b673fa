"""Reading the rows of one stage: in order, by id, or column by column, with bounded memory."""

import time
from collections.abc import Collection, Iterator, Sequence
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dsd.data import cache
from dsd.data.ids import Ids, Index
from dsd.data.manifest import STAGE_MANIFEST, ChangedError, ManifestError, Shard, StageManifest, ids_digest
from dsd.data.rows import Row, TableKind
from dsd.data.shard_files import FileState, ShardFiles, file_state
from dsd.data.storage import Location, RemotePath

R = TypeVar("R")

_MANIFEST_S = 2.0  # how old a manifest of a store may be when rows are read singly


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
        self._files = ShardFiles(folder, kind)
        self._loaded: tuple[FileState, StageManifest] | None = None
        self._loaded_at = 0.0
        self._index: Index | None = None
        self._indexed: tuple[Shard, ...] = ()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_index": None}

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
            state = file_state(self.folder / STAGE_MANIFEST)
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
        return isinstance(row_id, str) and self._number(row_id) is not None

    def __getitem__(self, row_id: str) -> R:
        """The record of that id.

        Raises:
            LookupError: if there is none.
            ManifestError: if its shard is damaged.
        """
        try:
            return self._found(row_id)
        except ChangedError:  # compacted since the places of rows were read
            self._index = None
            return self._found(row_id)

    def _found(self, row_id: str) -> R:
        number = self._number(row_id)
        if number is None:
            raise LookupError(f"{self.folder} has no row {row_id!r} among its {len(self)} rows.")
        ends = np.cumsum([shard.rows for shard in self._indexed])
        place = int(np.searchsorted(ends, number, side="right"))
        shard, whole = self._indexed[place], self._through_cache(self._indexed)
        row = self._files.row(shard, number - int(ends[place]) + shard.rows, whole=whole)
        return self._record(shard, row.to_pylist()[0])

    def _number(self, row_id: str) -> int | None:
        """Which row an id is, counted from 0 over the shards `_indexed`; None if there is none."""
        recent = isinstance(self.folder, RemotePath) and time.monotonic() - self._loaded_at < _MANIFEST_S
        if recent and self._index is not None and (found := self._index.find(row_id)) is not None:
            return found
        shards = self.manifest.shards
        if self._index is None or shards != self._indexed:
            self._index = Index(Ids(self._column(self.kind.id_column, shards)))
            self._indexed = shards
        return self._index.find(row_id)

    def ids(self) -> list[str]:
        """The ids of all rows, in order. Of very many, `row_ids` takes a third of the memory."""
        return [row_id for shard in self.manifest.shards for row_id in self.ids_of(shard)]

    def row_ids(self) -> Ids:
        """The ids of all rows, in order, as an Arrow array; compared with the manifest, shard by shard.

        Raises:
            ManifestError: if a shard is missing or damaged.
        """
        return Ids(self._column(self.kind.id_column, self.manifest.shards))

    def keys(self) -> set[str]:
        """The ids of the rows of the earlier stage that rows were made from. Of very many, `row_keys` takes a
        tenth of the memory.
        """
        return set(self.row_keys())

    def row_keys(self) -> Ids:
        """Of each row, in order, the id of the one of the earlier stage that it was made from."""
        return Ids(self._column(self.kind.key_column, self.manifest.shards))

    def columns(self, *names: str) -> pa.Table:
        """Some columns of all rows; pictures in the others are not read."""
        schema = pa.schema([self.kind.schema.field(name) for name in names])
        parts = list(self.parts(*names))
        return pa.concat_tables(parts) if parts else schema.empty_table()

    def parts(self, *names: str) -> Iterator[pa.Table]:
        """As `columns`, shard by shard."""
        yield from self._parts(names, self.manifest.shards)

    def _parts(self, names: Sequence[str], shards: Sequence[Shard]) -> Iterator[pa.Table]:
        schema = pa.schema([self.kind.schema.field(name) for name in names])
        for shard in shards:
            yield self._files.read(shard, None, names, keep=False).select(names).cast(schema)

    def _column(self, name: str, shards: Sequence[Shard]) -> pa.Array:
        chunks = [pa.array([], self.kind.schema.field(name).type)]
        for shard, part in zip(shards, self._parts([name], shards), strict=True):
            if name == self.kind.id_column:  # pages have checksums, but not the headers of pages
                self._check_ids(shard, part[name].to_pylist())
            chunks += part[name].chunks
        return pa.concat_arrays(chunks)

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
        shards = self.manifest.shards if shards is None else shards
        wanted, first = None, 0
        if ids is not None:
            given = ids if isinstance(ids, Ids) else Ids(list(ids))
            wanted = Ids(self._column(self.kind.id_column, shards)).among(given)
        for shard in shards:
            kept = None if wanted is None else np.flatnonzero(wanted[first : first + shard.rows])
            first += shard.rows
            if kept is not None and not len(kept):  # not even hashed: that reads every picture
                continue
            self._files.check(shard)
            file = self._files.open(shard)  # of a store, it is in the local cache now
            end = 0
            for group in range(file.num_row_groups):
                begin, end = end, end + file.metadata.row_group(group).num_rows
                some = None if kept is None else kept[(kept >= begin) & (kept < end)] - begin
                if some is not None and not len(some):
                    continue
                rows = self._files.read(shard, [group])
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
        whole = self._through_cache(shards)
        for shard in shards:
            begin, end = np.searchsorted(numbers, [first, first + shard.rows])
            if begin < end:
                if whole:
                    self._files.check(shard)
                yield from self._files.some(shard, numbers[begin:end] - first, list(names) or None)
            first += shard.rows
        if len(numbers) and numbers[-1] >= first:
            raise ManifestError(
                f"{self.folder} has {first} rows and no row {numbers[-1]}: rows were removed since it was "
                "opened. Open it again."
            )

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
        return self._files.damaged(shards[int(np.searchsorted(ends, number, side="right"))], what)

    def verify(self) -> list[str]:
        """Check every shard against its SHA-256 and row count; one message for each that fails."""
        problems = [self.problem(shard) for shard in self.manifest.shards]
        return [problem for problem in problems if problem is not None]

    def problem(self, shard: Shard) -> str | None:
        """What is wrong with a shard; None if it is as it was written."""
        return self._files.problem(shard)

    def whole(self, shard: Shard) -> pa.Table:
        """All rows and columns of a shard.

        Raises:
            ManifestError: if it is damaged.
        """
        self._files.check(shard)
        return self._files.read(shard)

    def ids_of(self, shard: Shard) -> list[str]:
        """The ids of the rows of one shard, in order, compared with the manifest.

        Raises:
            ManifestError: if it is damaged.
        """
        name = self.kind.id_column
        ids: list[str] = self._files.read(shard, None, [name], keep=False)[name].to_pylist()
        self._check_ids(shard, ids)
        return ids

    def _check_ids(self, shard: Shard, ids: Sequence[str]) -> None:
        if ids_digest(ids) != shard.ids:
            raise self._files.damaged(shard, "the ids of its rows are not the recorded ones")

    def _record(self, shard: Shard, row: Row) -> R:
        try:
            return self.kind.from_row(row)
        except ValueError as error:
            raise self._files.damaged(shard, str(error)) from error

    def _through_cache(self, shards: Sequence[Shard]) -> bool:
        """Whether these shards are read as whole files of the local cache: of a store, if they fit."""
        if not isinstance(self.folder, RemotePath):
            return False
        return sum(shard.bytes for shard in shards) <= cache.limit_bytes() / 2
