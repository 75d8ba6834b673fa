"""Files that appear whole or not at all, and one writer at a time; in folders, and in stores behind URLs."""

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
from pathlib import Path, PurePosixPath

from dsd.data import lease, uploads
from dsd.data.lease import LockedError
from dsd.data.storage import CHUNK_BYTES, Location, RemotePath

__all__ = ["LockedError"]

TEMPORARY_SUFFIX = ".tmp"
_DISCARDED = ".discarded-"
_DOOMED = ".discarded"  # of a store: the list of files that are being deleted
_READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)
_FULL = (errno.ENOSPC, errno.EDQUOT)


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


def make_folder(path: Location) -> None:
    """Create a folder and the ones above it; in a store there is nothing to create.

    Raises:
        OSError: explained, if it cannot be created.
    """
    if isinstance(path, RemotePath):
        return
    with explained(path):
        path.mkdir(parents=True, exist_ok=True)


def replace_file(path: Location, content: bytes | memoryview) -> None:
    """Write a file whole: to a temporary name in the same folder, to the disk, then renamed over `path`; to a
    store, as one object.

    Whoever reads `path` at any moment, or after a crash, finds the old content or the new one.

    Raises:
        OSError: explained; the temporary file is removed, and `path` is as it was.
        LockedError: if `path` is in a run of a store that another process has taken over.
    """
    if isinstance(path, RemotePath):
        lease.put(path, bytes(content))
        return
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


def create_file(path: Location, content: bytes | memoryview) -> None:
    """Write a file whole that must not be there yet, as far as the file system can tell.

    Raises:
        OSError, LockedError: as `replace_file`.
        ConflictError: if a store has such a file.
    """
    if isinstance(path, RemotePath):
        lease.put(path, bytes(content), create=True)
    else:
        replace_file(path, content)


def delete_file(path: Location) -> None:
    """Delete a file; it may be gone already."""
    if isinstance(path, RemotePath):
        lease.unlink(path)
    else:
        path.unlink(missing_ok=True)


def sha256_of(path: Location) -> str:
    """SHA-256 of a file, 64 hexadecimal characters."""
    digest = hashlib.sha256()
    if isinstance(path, RemotePath):
        for chunk in path.chunks():
            digest.update(chunk)
        return digest.hexdigest()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def discard_folder(path: Location) -> None:
    """Remove a folder: renamed first, so that a crash leaves no half of it under its name.

    In a store, the list of its files is written first, and whoever next holds the run deletes what a crash
    left.
    """
    if isinstance(path, RemotePath):
        files = [file.relative_to(path).as_posix() for file in path.rglob("*")]
        if files:
            replace_file(path / _DOOMED, json.dumps(files).encode())
            _delete_listed(path)
        return
    if not path.exists():
        return
    with explained(path):
        doomed = path.with_name(f".{path.name}{_DISCARDED}{os.getpid()}-{time.time_ns()}")
        os.replace(path, doomed)
        _sync_folder(path.parent)
        shutil.rmtree(doomed)


def sweep_temporary(folder: Location) -> None:
    """Remove what killed processes left anywhere in `folder`: temporary files, half-removed folders, and
    uploads in parts that never ended.

    Only whoever holds the run's lock may call it.
    """
    if isinstance(folder, RemotePath):
        for file in [*folder.rglob(_DOOMED)]:
            _delete_listed(file.parent)
        for file in [*folder.glob(f"{lease.LOCK}.*")]:
            delete_file(file)
        uploads.abort(folder.url)
        return
    with explained(folder):
        for path in [*folder.rglob(f".*{_DISCARDED}*")]:
            shutil.rmtree(path)
        for path in [*folder.rglob(f".*{TEMPORARY_SUFFIX}")]:
            path.unlink()


def _delete_listed(folder: RemotePath) -> None:
    names = json.loads((folder / _DOOMED).read_bytes())
    # Hidden ones first: without its manifest the stage is gone in one step.
    for name in sorted(names):
        if ".." not in PurePosixPath(name).parts:
            delete_file(folder / name)
    delete_file(folder / _DOOMED)


@contextmanager
def lock(folder: Location, purpose: str) -> Iterator[None]:
    """Hold the run in `folder` for writing. The system lets go of it when the process ends, however it ends;
    in a store it is a lease, see `dsd.data.lease`.

    Args:
        folder: the run's folder; it must exist.
        purpose: what is being done, for the message that another process gets.

    Raises:
        LockedError: at once, if another process (or another call in this one) holds it.
        OSError: explained, if the lock file cannot be written.
    """
    if isinstance(folder, RemotePath):
        with lease.held(folder, purpose):
            yield
        return
    path = folder / lease.LOCK
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
