"""The folder that an export writes: whole or not at all."""

import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from tempfile import TemporaryDirectory

from dsd.data import lease, uploads
from dsd.data.atomic import explained, lock, make_folder
from dsd.data.storage import Location, RemotePath
from dsd.data.store import Run

logger = logging.getLogger(__name__)

_UNFINISHED = ".exporting"
RunLike = Run | str | PathLike[str]


def as_run(run: RunLike) -> Run:
    """The run, or the one in that folder."""
    return run if isinstance(run, Run) else Run(run)


@contextmanager
def new_folder(target: Location) -> Iterator[Path]:
    """A folder to fill. It becomes `target` when the block ends, and is removed if the block fails; what a
    killed process left is removed by the next call for the same target.

    For a store it is one for temporary files, which is then uploaded. As long as `.exporting` lies in
    `target`, it is not whole.

    Args:
        target: must not exist, or be empty.

    Raises:
        FileExistsError: if there is something.
        LockedError: if another process is writing the same folder.
        OSError: explained, if it cannot be written.
    """
    if isinstance(target, RemotePath):
        with _uploaded(target) as new:
            yield new
        return
    _check_free(target)
    make_folder(target.parent)
    work = target.parent / f".{target.name}.exporting"
    make_folder(work)
    with lock(work, "export"):
        new = work / "new"
        try:
            _check_free(target)  # again: whoever held the lock may have written it
            with explained(target):
                if new.exists():
                    shutil.rmtree(new)
                new.mkdir()
            yield new
            with explained(target):
                if target.exists():
                    target.rmdir()
                new.rename(target)
        finally:
            shutil.rmtree(work)


def _check_free(target: Path) -> None:
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise FileExistsError(f"{target} exists. Give a name that is free, or move it away.")


@contextmanager
def _uploaded(target: RemotePath) -> Iterator[Path]:
    _check_free_there(target)
    with lock(target, "export"):
        _check_free_there(target)
        _clear(target)
        with TemporaryDirectory(prefix="dsd-export-") as work:
            yield Path(work)
            try:
                lease.put(target / _UNFINISHED, b"")
                for file in sorted(path for path in Path(work).rglob("*") if path.is_file()):
                    lease.upload(target / file.relative_to(work).as_posix(), file)
            except BaseException:
                try:
                    _clear(target)
                except (OSError, lease.LockedError) as error:
                    logger.warning("Could not remove the half of an export, which the next does: %s", error)
                raise
        lease.unlink(target / _UNFINISHED)


def _check_free_there(target: RemotePath) -> None:
    if _files(target) and not (target / _UNFINISHED).is_file():
        raise FileExistsError(f"{target} exists. Give a name that is free, or move it away.")


def _files(target: RemotePath) -> list[RemotePath]:
    locks = {path.url for path in target.glob(f"{lease.LOCK}*")}
    return [path for path in target.rglob("*") if path.url not in locks]


def _clear(target: RemotePath) -> None:
    """Remove the files of an export that broke off; what tells of it comes last."""
    uploads.abort(target.url)
    for path in _files(target):
        if path != target / _UNFINISHED:
            lease.unlink(path)
    lease.unlink(target / _UNFINISHED)
