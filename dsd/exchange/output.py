"""The folder that an export writes: whole or not at all."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path

from dsd.data.atomic import explained, lock, make_folder
from dsd.data.store import Run

RunLike = Run | str | PathLike[str]


def as_run(run: RunLike) -> Run:
    """The run, or the one in that folder."""
    return run if isinstance(run, Run) else Run(run)


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A folder to fill. It becomes `target` when the block ends, and is removed if the block fails; what a
    killed process left is removed by the next call for the same target.

    Args:
        target: must not exist, or be empty.

    Raises:
        FileExistsError: if there is something.
        LockedError: if another process is writing the same folder.
        OSError: explained, if it cannot be written.
    """
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
