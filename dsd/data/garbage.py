"""Files of a run that nothing needs: what they are, and how they go."""

import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from dsd.data.atomic import explained, lock
from dsd.data.manifest import STAGE_MANIFEST
from dsd.data.table import Table
from dsd.data.writer import part_number, stamp_of

if TYPE_CHECKING:
    from dsd.data.store import Run

_TEMPORARY = re.compile(r"\..+\.\d+\.tmp")
_DISCARDED = re.compile(r"\..+\.discarded-\d+-\d+")
_ASIDE = re.compile(r"(part-\d+\.parquet)\.(damaged|unlisted)")
_OURS = re.compile(r"answers\.sqlite(-\w+)?|manifest\.json|\.lock|" + re.escape(STAGE_MANIFEST))


@dataclass(frozen=True, kw_only=True)
class Orphan:
    """A file or folder that no manifest lists.

    Attributes:
        path: in the run's folder.
        bytes: its size, with all that is in it.
        what: what it is, and for one that stays, why.
        removable: whether it is ours, and nothing is lost with it.
    """

    path: str
    bytes: int
    what: str
    removable: bool

    def __str__(self) -> str:
        return f"{self.path}  {self.bytes:,} bytes  {self.what}"


@dataclass(frozen=True, kw_only=True)
class Garbage:
    """What was found, by path.

    Attributes:
        removed: what is gone or, of a dry run, would be.
        kept: what stays although no manifest lists it.
        dry_run: whether nothing was done.
    """

    removed: tuple[Orphan, ...]
    kept: tuple[Orphan, ...]
    dry_run: bool

    @property
    def bytes(self) -> int:
        """Size of what was removed, or would be."""
        return sum(orphan.bytes for orphan in self.removed)

    def __str__(self) -> str:
        verb = "would be removed" if self.dry_run else "removed"
        lines = [f"{verb}: {orphan}" for orphan in self.removed]
        lines += [f"kept: {orphan}" for orphan in self.kept]
        return "\n".join([*lines, f"{len(self.removed)} files, {self.bytes:,} bytes {verb}"])


def collect(run: "Run", *, dry_run: bool = False) -> Garbage:
    """See `Run.gc`."""
    if not run.path.is_dir():
        raise FileNotFoundError(f"There is no run in {run.path}. Check the path.")
    if dry_run:
        return _sorted(run, dry_run)
    # Not `run.lock`, which would sweep temporary files before they were told of.
    with lock(run.path, "gc"):
        found = _sorted(run, dry_run)
        for orphan in found.removed:
            path = run.path / orphan.path
            with explained(path):
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink()
        return found


def _sorted(run: "Run", dry_run: bool) -> Garbage:
    orphans = sorted(_orphans(run), key=lambda orphan: orphan.path)
    return Garbage(
        removed=tuple(orphan for orphan in orphans if orphan.removable),
        kept=tuple(orphan for orphan in orphans if not orphan.removable),
        dry_run=dry_run,
    )


def _orphans(run: "Run") -> Iterator[Orphan]:
    """Everything in the run's folder but what is listed or known to be needed. Links are not followed."""
    stages = {run.table(stage).folder: run.table(stage) for stage in run.stages()}
    for root, folders, files in os.walk(run.path):
        here = Path(root)
        for name in [*folders]:
            path = here / name
            if path.is_symlink():
                folders.remove(name)
                yield _orphan(run, path, "a link, which is left alone", removable=False)
            elif _DISCARDED.fullmatch(name):
                folders.remove(name)
                yield _orphan(run, path, "rows that were discarded, left by a killed process")
        table = stages.get(here)
        known = _Known(table)
        listed = set() if table is None else {shard.file for shard in table.manifest.shards}
        for name in files:
            path = here / name
            if name in listed or (_OURS.fullmatch(name) and not path.is_symlink()):
                continue
            what, removable = _judged(table, known, path)
            yield _orphan(run, path, what, removable=removable)


class _Known:
    """The ids that a table lists, read when they are first asked for."""

    def __init__(self, table: Table[Any] | None) -> None:
        self._table = table

    @cached_property
    def ids(self) -> set[str]:
        return set() if self._table is None else set(self._table.ids())


def _judged(table: Table[Any] | None, known: _Known, path: Path) -> tuple[str, bool]:
    """What a file is that no manifest lists, and whether it can go."""
    if path.is_symlink():
        return "a link, which is left alone", False
    if _TEMPORARY.fullmatch(path.name):
        return "a temporary file, left by a killed process", True
    aside = _ASIDE.fullmatch(path.name)
    if table is None or (aside is None and part_number(path.name) < 0):
        return "not written by dsd, as far as it knows", False
    if aside is not None and aside[2] == "damaged":
        return "a damaged shard, set aside when it was mended", True
    stamp = stamp_of(path)
    if stamp is None or stamp.get("stage") != table.kind.stage:
        return "not known to be a shard of this stage", False
    if _ids(table, path) <= known.ids:
        return "a shard whose rows all stand in other ones", True
    if aside is not None and stamp.get("spec") != table.manifest.spec:
        return "a shard of rows of another spec, which was set aside", True
    if aside is not None:
        return "a shard that was set aside, with rows that stand nowhere else", False
    return "a shard that is not listed yet: the next call of its stage lists it or sets it aside", False


def _ids(table: Table[Any], path: Path) -> set[str]:
    """The ids of a shard's rows; the empty one too if they cannot be read, which stands in no table."""
    name = table.kind.id_column
    try:
        found = pq.read_table(path, columns=[name], page_checksum_verification=True)
        return set(found[name].to_pylist())
    except (pa.ArrowException, OSError, KeyError):
        return {""}


def _orphan(run: "Run", path: Path, what: str, *, removable: bool = True) -> Orphan:
    inside = [path, *path.rglob("*")] if path.is_dir() and not path.is_symlink() else [path]
    size = sum(file.lstat().st_size for file in inside if not file.is_dir() or file.is_symlink())
    return Orphan(path=path.relative_to(run.path).as_posix(), bytes=size, what=what, removable=removable)
