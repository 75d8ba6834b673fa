"""Files that appear whole or not at all, and one writer at a time."""

import errno
import fcntl
import hashlib
import json
import os
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TEMPORARY_SUFFIX = ".tmp"
_DISCARDED = ".discarded-"
_READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)
_FULL = (errno.ENOSPC, errno.EDQUOT)


class LockedError(RuntimeError):
    """Another process writes to the same run."""


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn an `OSError` of writing to `path` into one of the same kind that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in _READ_ONLY:
            help_text = "The folder cannot be written to. Choose another folder, or change its permissions."
        elif error.errno in _FULL:
            help_text = (
                "The disk is full; what is listed is intact. Free some space and call the stage again."
            )
        elif error.errno in (errno.ENOTDIR, errno.EEXIST):
            help_text = (
                "A file stands where a folder is needed. Choose another folder, or move the file away."
            )
        else:
            help_text = "What is listed is intact. Mend the cause and call the stage again."
        raise type(error)(error.errno, f"Could not write {path}: {error.strerror}. {help_text}") from error


def make_folder(path: Path) -> None:
    """Create a folder and the ones above it.

    Raises:
        OSError: explained, if it cannot be created.
    """
    with explained(path):
        path.mkdir(parents=True, exist_ok=True)


def replace_file(path: Path, content: bytes | memoryview) -> None:
    """Write a file whole: to a temporary name in the same folder, to the disk, then renamed over `path`.

    Whoever reads `path` at any moment, or after a crash, finds the old content or the new one.

    Raises:
        OSError: explained; the temporary file is removed, and `path` is as it was.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}{TEMPORARY_SUFFIX}")
    with explained(path):
        try:
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, 64 hexadecimal characters."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def discard_folder(path: Path) -> None:
    """Remove a folder: renamed first, so that a crash leaves no half of it under its name."""
    if not path.exists():
        return
    with explained(path):
        doomed = path.with_name(f".{path.name}{_DISCARDED}{os.getpid()}-{time.time_ns()}")
        os.replace(path, doomed)
        _sync_folder(path.parent)
        shutil.rmtree(doomed)


def sweep_temporary(folder: Path) -> None:
    """Remove what killed processes left anywhere in `folder`: temporary files and half-removed folders.

    Only whoever holds the run's lock may call it.
    """
    with explained(folder):
        for path in [*folder.rglob(f".*{_DISCARDED}*")]:
            shutil.rmtree(path)
        for path in [*folder.rglob(f".*{TEMPORARY_SUFFIX}")]:
            path.unlink()


@contextmanager
def lock(folder: Path, purpose: str) -> Iterator[None]:
    """Hold the run in `folder` for writing. The system lets go of it when the process ends, however it ends.

    Args:
        folder: the run's folder; it must exist.
        purpose: what is being done, for the message that another process gets.

    Raises:
        LockedError: at once, if another process (or another call in this one) holds it.
        OSError: explained, if the lock file cannot be written.
    """
    path = folder / ".lock"
    with explained(path):
        file = path.open("ab", buffering=0)  # what is not written is not tried again when it is closed
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise LockedError(
                f"{folder} is being written to by {_holder(path)}. Wait until it has ended, or stop it; "
                "reading is allowed meanwhile."
            ) from error
        holder = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "purpose": purpose,
            "since": time.strftime("%F %T"),
        }
        with explained(path):
            file.truncate(0)
            file.write(json.dumps(holder).encode())
        yield


def _holder(path: Path) -> str:
    try:
        held = json.loads(path.read_text())
        return f"process {held['pid']} on {held['host']} ({held['purpose']}, since {held['since']})"
    except (
        ValueError,
        KeyError,
        TypeError,
        RecursionError,
    ):  # read between its taking the lock and its signing it
        return "another process"


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
