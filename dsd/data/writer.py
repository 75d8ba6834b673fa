"""Writing the rows of one stage: whole shards, listed one by one, so that a stop loses nothing listed."""

import json
import logging
import re
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any, Generic, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from dsd.data.atomic import discard_folder, make_folder, replace_file, sha256_of
from dsd.data.manifest import Shard, StageManifest, check_spec, ids_digest, versions, without_secrets
from dsd.data.rows import Row
from dsd.data.table import Table, footer_digest

logger = logging.getLogger(__name__)
R = TypeVar("R")

_GROUP_ROWS = 64
_PART = re.compile(r"part-(\d+)\.parquet")


class TableWriter(Generic[R]):
    """Adds rows to a table. The caller holds the run's lock.

    Entering it opens the stage: a whole shard that a killed process had written but not listed is adopted,
    and the manifest is written. Leaving it writes what is still in memory, also when an error or Ctrl-C ends
    the stage.

    Args:
        table: where to write.
        spec: what the rows are made with; goes into the manifest.
        made_from: the state of the earlier stage, for the manifest.
        overwrite: discard the rows there are.
        name_hint: a sentence on how to keep rows of both specs, for the error message.
        first: writers whose rows must be on the disk before rows of this one are, because these refer to
            them.

    Attributes:
        shard_rows: rows after which a shard is written.
        shard_bytes: size of pictures and tensors after which a shard is written.
        flush_s: seconds after which a shard is written in any case: what a `kill -9` can cost.

    Raises:
        SpecError: on entering, if the rows there are were made with another spec.
        OSError: explained, if the disk cannot be written.
    """

    shard_rows: int = 2048
    shard_bytes: int = 128 * 2**20
    flush_s: float = 120.0

    def __init__(
        self,
        table: Table[R],
        spec: Mapping[str, Any],
        made_from: Mapping[str, Any] | None = None,
        *,
        overwrite: bool = False,
        name_hint: str = "",
        first: Sequence["TableWriter[Any]"] = (),
    ) -> None:
        self.table = table
        self.spec: dict[str, Any] = json.loads(json.dumps(without_secrets(spec)))
        self.made_from = dict(made_from or {})
        self.overwrite, self.name_hint, self.first = overwrite, name_hint, first
        self._rows: list[Row] = []
        self._bytes = 0
        self._since = self._saved = time.monotonic()

    def __enter__(self) -> "TableWriter[R]":
        table, folder = self.table, self.table.folder
        if self.overwrite:
            discard_folder(folder)
        make_folder(folder)
        if table.exists:
            manifest = table.manifest
            check_spec(table.kind.stage, manifest.spec, self.spec, name_hint=self.name_hint)
        else:
            manifest = StageManifest(stage=table.kind.stage, spec=self.spec)
        self.manifest = replace(manifest, made_from=self.made_from, versions=versions(), complete=False)
        self._adopt()
        self.manifest.save(folder)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.flush()
        except OSError:
            if error is None:
                raise
            logger.exception("The last rows of %s could not be written", self.table.folder)

    def add(self, records: Sequence[R]) -> None:
        """Add rows that belong together: a shard never parts them."""
        self.add_rows(self.table.kind.to_rows(records))

    def add_rows(self, rows: Sequence[Row]) -> None:
        """As `add`, with rows that `TableKind.to_rows` has made."""
        if not self._rows:
            self._since = time.monotonic()
        self._rows += rows
        self._bytes += sum(_size(row) for row in rows)
        late = time.monotonic() - self._since > self.flush_s
        if late or len(self._rows) >= self.shard_rows or self._bytes >= self.shard_bytes:
            self.flush()

    def flush(self) -> None:
        """Write what is in memory as one shard and list it."""
        for writer in self.first:
            writer.flush()
        if self._rows:
            rows, self._rows, self._bytes = self._rows, [], 0
            try:
                shard = self._write(rows)
            except BaseException:  # Ctrl-C too: the rows are written when the stage is left
                self._rows = rows
                raise
            self._save(shards=(*self.manifest.shards, shard))

    def finish(self, **counts: Any) -> None:
        """Write everything and mark the stage as complete."""
        self.flush()
        self._save(complete=True, counts=counts)

    def remove(self, unwanted: Callable[[Row], bool]) -> int:
        """Take rows out, judged by all columns but pictures; returns how many."""
        removed, shards, old = 0, [], []
        names = [field.name for field in self.table.kind.schema if not pa.types.is_struct(field.type)]
        for shard in self.manifest.shards:
            content = self.table.whole(shard)
            kept = [i for i, row in enumerate(content.select(names).to_pylist()) if not unwanted(row)]
            if len(kept) == shard.rows:
                shards.append(shard)
                continue
            removed += shard.rows - len(kept)
            old.append(shard)
            if kept:
                shards.append(self._write(content.take(pa.array(kept)).to_pylist(), beside=[*shards, *old]))
        if removed:
            self._save(shards=tuple(shards))
            for shard in old:
                (self.table.folder / shard.file).unlink()
        return removed

    def _save(self, **changes: Any) -> None:
        now = time.monotonic()
        seconds = round(self.manifest.seconds + now - self._saved, 3)
        manifest = replace(self.manifest, seconds=seconds, **changes)
        manifest.save(self.table.folder)
        self.manifest, self._saved = manifest, now

    def _write(self, rows: list[Row], beside: Collection[Shard] = ()) -> Shard:
        """A shard under the next free number; not listed yet."""
        kind = self.table.kind
        metadata = {**(kind.schema.metadata or {}), b"dsd": json.dumps(self._stamp()).encode()}
        content = pa.Table.from_pylist(rows, schema=kind.schema.with_metadata(metadata))
        sink = pa.BufferOutputStream()
        with pq.ParquetWriter(
            sink,
            content.schema,
            compression="zstd" if kind.shared else "none",
            use_dictionary=kind.shared,
            dictionary_pagesize_limit=4 * kind.group_bytes,
            write_page_checksum=True,
        ) as writer:
            start = 0
            for end in _group_ends(rows, kind.group_bytes):
                writer.write_table(content.slice(start, end - start))
                start = end
        data = memoryview(sink.getvalue())
        taken = [part_number(shard.file) for shard in (*self.manifest.shards, *beside)]
        name = f"part-{max(taken, default=-1) + 1:05d}.parquet"
        replace_file(self.table.folder / name, data)
        return self._listed(name, [row[kind.id_column] for row in rows])

    def _stamp(self) -> dict[str, Any]:
        return {"stage": self.table.kind.stage, "spec": self.spec}

    def _adopt(self) -> None:
        """List whole shards that a process was killed before it could list; set other strangers aside."""
        listed = {shard.file for shard in self.manifest.shards}
        known: set[str] | None = None
        for path in sorted(self.table.folder.glob("part-*.parquet")):
            if path.name in listed:
                continue
            known = known if known is not None else {*self._keys()}
            try:
                found = pq.read_table(path, use_threads=False, page_checksum_verification=True)
                stamp = json.loads((found.schema.metadata or {}).get(b"dsd", b"null"))
                keys = set(found[self.table.kind.key_column].to_pylist())
                whole = stamp == self._stamp() and not keys & known and part_number(path.name) >= 0
            except (pa.ArrowException, OSError, ValueError, KeyError):
                whole = False
            if not whole:
                aside = path.with_name(path.name + ".unlisted")
                path.rename(aside)
                logger.warning(
                    "%s is not in the manifest and does not belong to it: renamed to %s", path, aside.name
                )
                continue
            known |= keys
            shard = self._listed(path.name, found[self.table.kind.id_column].to_pylist())
            self.manifest = replace(self.manifest, shards=(*self.manifest.shards, shard))
            logger.info("Adopted %s, which a stopped process had written and not listed", path)

    def _listed(self, name: str, ids: list[str]) -> Shard:
        path = self.table.folder / name
        return Shard(
            file=name,
            rows=len(ids),
            bytes=path.stat().st_size,
            ids=ids_digest(ids),
            sha256=sha256_of(path),
            footer=footer_digest(path),
        )

    def _keys(self) -> set[str]:
        return self.table.keys() if self.manifest.shards else set()


def part_number(name: str) -> int:
    """The number of a shard; -1 if it is none of ours."""
    match = _PART.fullmatch(name)
    return -1 if match is None else int(match[1])


def _group_ends(rows: Sequence[Row], group_bytes: int) -> list[int]:
    """Where each row group ends, so that none has more than `_GROUP_ROWS` rows or so many bytes."""
    ends, count, size = [], 0, 0
    for index, row in enumerate(rows):
        if count and (count >= _GROUP_ROWS or size + _size(row) > group_bytes):
            ends.append(index)
            count = size = 0
        count, size = count + 1, size + _size(row)
    return [*ends, len(rows)]


def _size(row: Row) -> int:
    cells = (cell["bytes"] if isinstance(cell, dict) else cell for cell in row.values())
    return sum(len(cell) for cell in cells if isinstance(cell, bytes)) + 256
