"""Writing the rows of one stage: whole shards, listed one by one, so that a stop loses nothing listed."""

import json
import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any, Generic, TypeVar

import pyarrow as pa

from dsd.data.atomic import delete_file, discard_folder, make_folder
from dsd.data.filesystems import StorageError
from dsd.data.manifest import Shard, StageManifest, check_spec, versions, without_secrets
from dsd.data.rows import Row
from dsd.data.shards import entry, open_shard, parquet, part_number, put, row_bytes, stamp_of
from dsd.data.storage import move
from dsd.data.table import Table

logger = logging.getLogger(__name__)
R = TypeVar("R")


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
        self._bytes += sum(row_bytes(row) for row in rows)
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
                delete_file(self.table.folder / shard.file)
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
        data = parquet(kind, self._stamp(), rows)
        taken = [part_number(shard.file) for shard in (*self.manifest.shards, *beside)]
        name = put(self.table.folder, max(taken, default=-1) + 1, data)
        return entry(self.table.folder, name, [row[kind.id_column] for row in rows], data)

    def _stamp(self) -> dict[str, Any]:
        return {"stage": self.table.kind.stage, "spec": self.spec}

    def _adopt(self) -> None:
        """List whole shards that a process was killed before it could list; set other strangers aside."""
        folder, listed = self.table.folder, {shard.file for shard in self.manifest.shards}
        known: set[str] | None = None
        for name in sorted(path.name for path in folder.glob("part-*.parquet")):
            if name in listed:
                continue
            path = folder / name
            known = known if known is not None else {*self._keys()}
            try:
                data = memoryview(path.read_bytes())
                file = open_shard(data)
                found, stamp = file.read(use_threads=False), stamp_of(file)
                keys = set(found[self.table.kind.key_column].to_pylist())
                whole = stamp == self._stamp() and not keys & known and part_number(name) >= 0
            except StorageError:
                raise
            except FileNotFoundError:  # listed by a store that has deleted it
                continue
            except (pa.ArrowException, OSError, ValueError, KeyError):
                whole = False
            if not whole:
                move(path, name + ".unlisted")
                logger.warning(
                    "%s is not in the manifest and does not belong to it: renamed to %s.unlisted", path, name
                )
                continue
            known |= keys
            shard = entry(folder, name, found[self.table.kind.id_column].to_pylist(), data)
            self.manifest = replace(self.manifest, shards=(*self.manifest.shards, shard))
            logger.info("Adopted %s, which a stopped process had written and not listed", path)

    def _keys(self) -> set[str]:
        return self.table.keys() if self.manifest.shards else set()
