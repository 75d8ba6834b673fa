"""Small shards merged into full ones: the same rows in the same order, in fewer files."""

import itertools
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from dsd.data.atomic import delete_file
from dsd.data.manifest import Shard, StageManifest, add_digests
from dsd.data.rows import Row
from dsd.data.shards import entry, highest_number, parquet, part_number, put
from dsd.data.table import Table
from dsd.data.writer import TableWriter

if TYPE_CHECKING:
    from dsd.data.store import Run

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Compacted:
    """What became of one stage.

    Attributes:
        stage: its name.
        shards_before: how many shards it had.
        shards: how many it has.
        bytes_before: size of those shards.
        bytes: size of these.
    """

    stage: str
    shards_before: int
    shards: int
    bytes_before: int
    bytes: int

    def __str__(self) -> str:
        return (
            f"{self.stage}: {self.shards_before} shards ({self.bytes_before:,} bytes) to {self.shards} "
            f"({self.bytes:,} bytes)"
        )


def compact(
    run: "Run",
    stages: Sequence[str] | None = None,
    *,
    shard_rows: int = TableWriter.shard_rows,
    shard_bytes: int = TableWriter.shard_bytes,
    advance: Callable[[int], object] = lambda shards: None,
) -> list[Compacted]:
    """Merge neighbouring small shards; see `Run.compact`."""
    for name, value in (("shard_rows", shard_rows), ("shard_bytes", shard_bytes)):
        if value < 1:
            raise ValueError(f"`{name}` must be at least 1; got {value}.")
    tables = [run.table(stage) for stage in (run.stages() if stages is None else stages)]
    for table in tables:
        _ = table.manifest  # a stage that is not there shows before anything is locked
    done = []
    with run.lock("compact"):
        for table in tables:
            before = table.manifest
            after = _compact(table, shard_rows, shard_bytes, advance)
            done.append(
                Compacted(
                    stage=before.stage,
                    shards_before=len(before.shards),
                    shards=len(after.shards),
                    bytes_before=sum(shard.bytes for shard in before.shards),
                    bytes=sum(shard.bytes for shard in after.shards),
                )
            )
        run.save_manifest()
    return done


def plan(shards: Sequence[Shard], shard_rows: int, shard_bytes: int) -> list[list[Shard]]:
    """Neighbours that go together: as many as stay within both limits, none of which is parted."""
    groups: list[list[Shard]] = []
    for shard in shards:
        last = [*(groups[-1] if groups else []), shard]
        if (
            len(last) > 1
            and sum(s.rows for s in last) <= shard_rows
            and sum(s.bytes for s in last) <= shard_bytes
        ):
            groups[-1] = last
        else:
            groups.append([shard])
    return groups


def _compact(
    table: Table[Any], shard_rows: int, shard_bytes: int, advance: Callable[[int], object]
) -> StageManifest:
    """Group by group: the merged shard is written, then listed in the place of the old ones, then these are
    removed. Killed in between, either listing is whole, and what is not listed is an orphan for `Run.gc`.
    """
    manifest = table.manifest
    number = highest_number(table.folder)
    for group in plan(manifest.shards, shard_rows, shard_bytes):
        if len(group) > 1:
            number += 1
            merged = _merged(table, manifest, group, number)
            number = part_number(merged.file)
            old = {shard.file for shard in group}
            shards: list[Shard] = []
            for shard in manifest.shards:
                if shard.file == group[0].file:
                    shards.append(merged)
                elif shard.file not in old:
                    shards.append(shard)
            manifest = replace(manifest, shards=tuple(shards))
            manifest.save(table.folder)
            for shard in group:
                delete_file(table.folder / shard.file)
        advance(len(group))
    return manifest


def _merged(table: Table[Any], manifest: StageManifest, group: Sequence[Shard], number: int) -> Shard:
    """The rows of some shards as one, which is not listed yet."""
    ids: list[str] = []

    def rows() -> Iterator[Row]:
        for row in itertools.chain.from_iterable(map(table.rows_of, group)):
            ids.append(row[table.kind.id_column])
            yield row

    data = parquet(table.kind, {"stage": table.kind.stage, "spec": manifest.spec}, rows())
    merged = entry(table.folder, put(table.folder, number, data), ids, data)
    assert merged.ids == add_digests(shard.ids for shard in group), "merging changed rows"
    return merged
