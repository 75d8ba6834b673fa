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

from dsd.data import uploads
from dsd.data.atomic import delete_file, explained, lock
from dsd.data.filesystems import StorageError
from dsd.data.manifest import STAGE_MANIFEST
from dsd.data.shards import open_shard, part_number, stamp_of
from dsd.data.storage import Location, RemotePath
from dsd.data.table import Table

if TYPE_CHECKING:
    from dsd.data.store import Run

_TEMPORARY = re.compile(r"\..+\.\d+\.tmp")
_DISCARDED = re.compile(r"\..+\.discarded-\d+-\d+")
_ASIDE = re.compile(r"(part-\d+\.parquet)\.(damaged|unlisted)")
_OURS = re.compile(
    r"\.discarded|\.lock\..+|answers\.sqlite(-\w+)?|manifest\.json|\.lock|log\.jsonl(\.\d)?|progress\.html|"
    + re.escape(STAGE_MANIFEST)
)


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
            if isinstance(path, Path):
                with explained(path):
                    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
            else:
                delete_file(path)
        if isinstance(run.path, RemotePath):
            uploads.abort(run.path.url)  # no files yet, and so on no list
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
    tables = {run.table(stage).folder: run.table(stage) for stage in run.stages()}
    known = {folder: _Known(table) for folder, table in tables.items()}
    for path in _entries(run.path):
        folder = path.parent
        if _OURS.fullmatch(path.name) and not _is_link(path):
            continue
        if folder not in known or path.name not in known[folder].files:
            what, removable = _judged(known.get(folder), path)
            name = str(path)[len(str(run.path)) + 1 :]
            yield Orphan(path=name, bytes=_size(path), what=what, removable=removable)


def _entries(folder: Location) -> Iterator[Location]:
    """The files in a folder; links, and folders that are to be removed, as one each."""
    if isinstance(folder, RemotePath):
        yield from folder.rglob("*")
        return
    for root, folders, files in os.walk(folder):
        alone = [name for name in folders if _DISCARDED.fullmatch(name) or (Path(root) / name).is_symlink()]
        folders[:] = [name for name in folders if name not in alone]
        yield from (Path(root) / name for name in (*alone, *files))


class _Known:
    """What a table lists; ids are read when they are first asked for."""

    def __init__(self, table: Table[Any]) -> None:
        self.table = table
        self.files = {shard.file for shard in table.manifest.shards}

    @cached_property
    def ids(self) -> set[str]:
        return set(self.table.ids())


def _judged(known: _Known | None, path: Location) -> tuple[str, bool]:
    """What a file is that no manifest lists, and whether it can go."""
    if _is_link(path):
        return "a link, which is left alone", False
    if _TEMPORARY.fullmatch(path.name):
        return "a temporary file, left by a killed process", True
    if _DISCARDED.fullmatch(path.name):
        return "rows that were discarded, left by a killed process", True
    aside = _ASIDE.fullmatch(path.name)
    if known is None or (aside is None and part_number(path.name) < 0):
        return "not written by dsd, as far as it knows", False
    if aside is not None and aside[2] == "damaged":
        return "a damaged shard, set aside when it was mended", True
    try:
        file = open_shard(path.read_bytes())
        name = known.table.kind.id_column
        stamp, ids = stamp_of(file) or {}, set(file.read(columns=[name])[name].to_pylist())
    except StorageError:
        raise
    except (pa.ArrowException, OSError, ValueError, KeyError):
        return "a file that cannot be read, not known to be a shard of this stage", False
    if stamp.get("stage") != known.table.kind.stage:
        return "not known to be a shard of this stage", False
    if ids <= known.ids:
        return "a shard whose rows all stand in other ones", True
    if aside is not None and stamp.get("spec") != known.table.manifest.spec:
        return "a shard of rows of another spec, which was set aside", True
    if aside is not None:
        return "a shard that was set aside, with rows that stand nowhere else", False
    return "a shard that is not listed yet: the next call of its stage lists it or sets it aside", False


def _is_link(path: Location) -> bool:
    return isinstance(path, Path) and path.is_symlink()


def _size(path: Location) -> int:
    """In bytes; of a folder with all that is in it."""
    if isinstance(path, RemotePath):
        return path.size()
    inside = [path, *path.rglob("*")] if path.is_dir() and not path.is_symlink() else [path]
    return sum(file.lstat().st_size for file in inside if not file.is_dir() or file.is_symlink())
