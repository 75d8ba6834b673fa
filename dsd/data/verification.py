"""Everything in a run looked at: shards, rows, pictures, references; and what is damaged, mended."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from dsd.data.examination import Examined, examine, salvage, whole_groups
from dsd.data.manifest import ManifestError, Shard, StageManifest
from dsd.data.shards import entry, highest_number, parquet, put
from dsd.data.storage import move
from dsd.data.table import Table

if TYPE_CHECKING:
    from dsd.data.store import Run

Advance = Callable[[int], object]
Kind = Literal["damaged", "twice", "lost", "waiting"]


@dataclass(frozen=True, kw_only=True)
class Fault:
    """Something that is wrong.

    Attributes:
        stage: where.
        shard: the file; empty if the whole stage is meant.
        id: of the row; None if no row in particular is meant, or its id cannot be read.
        kind: "damaged"; "twice", for a row that is there already; "lost", for one that refers to a row which
            is not there; "waiting", for one that refers to a row which may be made again.
        problem: what is wrong, in words.
    """

    stage: str
    shard: str
    id: str | None
    kind: Kind
    problem: str


@dataclass(frozen=True, kw_only=True)
class Mended:
    """What mending did to a stage.

    Attributes:
        stage: its name.
        saved: rows of the shards in question that stay.
        removed: rows that are gone.
        made_by: the call that makes those again that can be made.
    """

    stage: str
    saved: int
    removed: int
    made_by: str


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What was looked at and found.

    Attributes:
        rows: how many rows each stage has.
        faults: what is wrong, in the order of the flow.
        mended: what was done about it.
    """

    rows: dict[str, int]
    faults: tuple[Fault, ...]
    mended: tuple[Mended, ...] = ()

    @property
    def whole(self) -> bool:
        """Whether nothing was found to be wrong."""
        return not self.faults

    def as_json(self) -> dict[str, Any]:
        """For other programs."""
        return {"whole": self.whole, **asdict(self)}


def verify(
    run: "Run",
    stages: Sequence[str] | None = None,
    *,
    mend: bool = False,
    advance: Advance = lambda size: None,
) -> Verification:
    """See `Run.examine`.

    Args:
        run: the run.
        stages: as there.
        mend: as there.
        advance: told how many bytes more are done.
    """
    if not run.path.is_dir():
        raise FileNotFoundError(f"There is no run in {run.path}. Check the path.")
    tables = [run.table(stage) for stage in (run.stages() if stages is None else stages)]
    if not mend:
        return _verify(run, tables, advance, mend=False)
    with run.lock("verify"):
        found = _verify(run, tables, advance, mend=True)
        if found.mended and all(fault.shard for fault in found.faults):  # every stage has a manifest
            run.save_manifest()
    return found


def _verify(run: "Run", tables: Sequence[Table[Any]], advance: Advance, *, mend: bool) -> Verification:
    rows: dict[str, int] = {}
    faults: list[Fault] = []
    mended: list[Mended] = []
    for table in tables:
        try:
            manifest = table.manifest
            look = _Look(run, table)
        except (ManifestError, FileNotFoundError) as error:
            stage = table.kind.stage
            faults.append(Fault(stage=stage, shard="", id=None, kind="damaged", problem=str(error)))
            continue
        rows[manifest.stage] = manifest.rows
        saved = removed = 0
        for shard in manifest.shards:
            seen = look.at(shard)
            faults += seen.faults
            if mend and seen.mendable:
                kept = whole_groups(table, seen.rows, seen.gone)
                manifest = _replaced(table, manifest, shard, seen, kept)
                saved += len(kept)
                removed += shard.rows - len(kept)
            advance(shard.bytes)
        if saved or removed:
            mended.append(
                Mended(stage=manifest.stage, saved=saved, removed=removed, made_by=table.kind.made_by)
            )
    return Verification(rows=rows, faults=tuple(faults), mended=tuple(mended))


@dataclass(frozen=True, kw_only=True)
class _Seen:
    """A shard that was looked at.

    Attributes:
        rows: as far as they can be read; with all their values if the shard is damaged.
        faults: of the shard and of its rows.
        gone: places of the rows that do not stay if it is mended.
        intact: whether the shard is as it was written.
    """

    rows: list[Examined]
    faults: list[Fault]
    gone: set[int]
    intact: bool

    @property
    def mendable(self) -> bool:
        """Whether something is wrong that does not come right by itself."""
        return bool(self.gone) or not self.intact


class _Look:
    """What to know of a stage to judge its rows, shard after shard.

    Args:
        run: the run.
        table: of the stage.

    Raises:
        ManifestError: if the manifest of a stage that it refers to cannot be read.
    """

    def __init__(self, run: "Run", table: Table[Any]) -> None:
        self._table = table
        self._known: set[str] = set()
        self._others = _others(run, table)

    def at(self, shard: Shard) -> _Seen:
        """All that is wrong with a shard."""
        table, stage = self._table, self._table.kind.stage
        faults: list[Fault] = []
        try:
            rows = list(examine(table, shard))
        except ManifestError as error:
            problem = str(error).partition(" Restore the file")[0]
            faults.append(Fault(stage=stage, shard=shard.file, id=None, kind="damaged", problem=problem))
            rows = salvage(table, shard)
        intact, gone = not faults, set()
        missing = [(other, other.missing_in(rows)) for other in self._others]
        for i, one in enumerate(rows):
            row_id = one.texts.get(table.kind.id_column)
            wrong: list[tuple[Kind, str]] = []
            if one.fault is not None:
                wrong = [("damaged", one.fault)]
            elif row_id in self._known:
                wrong = [("twice", "is there already")]
            else:
                self._known.add(str(row_id))
                wrong = [(other.kind, other.told(one)) for other, places in missing if i in places]
            if any(kind != "waiting" for kind, _ in wrong):
                gone.add(i)
            faults += [
                Fault(stage=stage, shard=shard.file, id=row_id, kind=kind, problem=problem)
                for kind, problem in wrong
            ]
        return _Seen(rows=rows, faults=faults, gone=gone, intact=intact)


class _Other:
    """A stage that a column refers to.

    Args:
        column: the column.
        table: of the stage.
        refilled: whether calling the referring stage again adds the rows that are missing there.
    """

    def __init__(self, column: str, table: Table[Any], refilled: bool) -> None:
        self._column, self._stage = column, table.kind.stage
        ids: list[str | None] = []
        settled = table.manifest.complete and not refilled
        for shard in table.manifest.shards:
            try:
                ids += table.ids_of(shard)
            except ManifestError:  # told of where that stage is looked at
                settled = False
                ids += [one.texts.get(table.kind.id_column) for one in salvage(table, shard)]
        self._ids = pa.array(ids, pa.string())
        # A stage that is not finished, or has a damaged shard, may make the row again, with the same id.
        self.kind: Kind = "lost" if settled else "waiting"

    def missing_in(self, rows: Sequence[Examined]) -> set[int]:
        """The places of rows that refer to nothing."""
        values = pa.array([one.texts.get(self._column) for one in rows], pa.string())
        there = pc.or_(pc.is_null(values), pc.is_in(values, value_set=self._ids))
        return set(pc.indices_nonzero(pc.invert(there)).to_pylist())

    def told(self, one: Examined) -> str:
        return f"its {self._column} {one.texts[self._column]} is no row of {self._stage!r}"


def _others(run: "Run", table: Table[Any]) -> list[_Other]:
    """The stages that the rows of a table refer to, as far as they are there."""
    stage = table.kind.stage
    found = []
    earlier = run.earlier(stage.removeprefix("failed/"))
    if earlier is not None and earlier.exists:
        found.append(_Other(table.kind.key_column, earlier, refilled=False))
    if stage.startswith("encoded/") and stage.endswith("/pairs"):
        _, backbone, *_ = stage.split("/")
        for column, name in (
            ("text_id", f"encoded/{backbone}/text"),
            ("reference_id", f"{stage.removesuffix('/pairs')}/references"),
        ):
            if run.table(name).exists:
                found.append(_Other(column, run.table(name), refilled=True))
    return found


def _replaced(
    table: Table[Any], manifest: StageManifest, shard: Shard, seen: _Seen, kept: set[int]
) -> StageManifest:
    """The manifest with the rows of a shard that stay in its place; the shard is set aside.

    The new shard is written first, then the old one is renamed, then the manifest is replaced: killed in
    between, the old one is found again, under either name.
    """
    new: list[Shard] = []
    if kept:
        values = table.rows_of(shard) if seen.intact else (one.row or {} for one in seen.rows)
        rows = [row for i, row in enumerate(values) if i in kept]
        data = parquet(table.kind, {"stage": manifest.stage, "spec": manifest.spec}, rows)
        name = put(table.folder, highest_number(table.folder) + 1, data)
        new = [entry(table.folder, name, [row[table.kind.id_column] for row in rows], data)]
    old = table.folder / shard.file
    if old.exists():
        move(old, f"{shard.file}.damaged")
    place = manifest.shards.index(shard)
    shards = (*manifest.shards[:place], *new, *manifest.shards[place + 1 :])
    manifest = replace(manifest, shards=shards, complete=False)
    manifest.save(table.folder)
    return manifest
