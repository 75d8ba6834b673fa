"""The local cache of shards that are in a store: files named by their SHA-256; the longest unused go first."""

import fcntl
import hashlib
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dsd.data.storage import RemotePath

logger = logging.getLogger(__name__)

FOLDER_VARIABLE, SIZE_VARIABLE = "DSD_CACHE", "DSD_CACHE_GB"
_DEFAULT_GB = 50.0
_STALE_S = 24 * 3600.0


class ContentError(ValueError):
    """A file of a store does not have the content that is recorded of it."""


def folder() -> Path:
    """The cache's folder: `$DSD_CACHE`, or `dsd` in the user's cache folder."""
    chosen = os.environ.get(FOLDER_VARIABLE)
    if chosen:
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "dsd"


def limit_bytes() -> int:
    """How much of the disk cached shards may take: `$DSD_CACHE_GB`, in units of 10^9 bytes.

    Raises:
        ValueError: if that is no number of at least 0.
    """
    text = os.environ.get(SIZE_VARIABLE, str(_DEFAULT_GB))
    try:
        size = float(text)
    except ValueError:
        size = -1
    if not 0 <= size < 1e9:
        raise ValueError(f"{SIZE_VARIABLE} must be a number of gigabytes, at least 0; got {text!r}.")
    return int(size * 1e9)


def answers_file(run: RemotePath) -> Path:
    """Where the answers of paid models are kept for a run in a store: on this machine alone."""
    digest = hashlib.sha256(run.url.encode()).hexdigest()[:12]
    return folder() / "answers" / f"{run.name}-{digest}.sqlite"


def find(sha256: str) -> Path | None:
    """The cached file of that hash, if there is one; it is marked as used."""
    path = _path(sha256)
    try:
        os.utime(path)
    except OSError:
        return None
    return path


def fetch(source: RemotePath, sha256: str, size: int) -> Path:
    """The cached file of that hash, read from a store if there is none; a few pieces are in memory at a time.

    Raises:
        ContentError: if the store's file has another hash or size.
        OSError: if the cache cannot be written.
    """
    with _alone(sha256):
        found = find(sha256)
        if found is None:
            found = _store(sha256, size, _checked(source, sha256, size))
    return found


def keep(sha256: str, content: bytes | memoryview) -> None:
    """Put a shard that was just written into the cache, as far as there is room: the next stage reads it."""
    if len(content) > limit_bytes():
        return
    try:
        with _alone(sha256):
            if find(sha256) is None:
                _store(sha256, len(content), iter([content]))
    except OSError as error:
        logger.warning("Could not keep a shard in the cache %s: %s", folder(), error)


def drop(sha256: str) -> None:
    """Remove a cached file."""
    _path(sha256).unlink(missing_ok=True)


def _checked(source: RemotePath, sha256: str, size: int) -> Iterator[bytes | memoryview]:
    digest, there = hashlib.sha256(), source.size()
    if there != size:
        raise ContentError(f"it has {there} bytes, not {size}")
    for chunk in source.chunks(size):
        digest.update(chunk)
        yield chunk
    if digest.hexdigest() != sha256:
        raise ContentError("its SHA-256 is not the recorded one")


def _store(sha256: str, size: int, content: Iterator[bytes | memoryview]) -> Path:
    path = _path(sha256)
    _make_room(size)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with _explained():
            file = temporary.open("wb")
        with file:
            for chunk in content:
                with _explained():
                    file.write(chunk)
            with _explained():
                file.flush()
        with _explained():
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise type(error)(
            error.errno,
            f"Could not write the cache {folder()}: {error.strerror}. Free some space, set {SIZE_VARIABLE} "
            f"lower, or set {FOLDER_VARIABLE} to another folder.",
        ) from error


def _make_room(size: int) -> None:
    """Remove what was unused for longest, and what killed processes left, until `size` bytes more fit."""
    room, files = limit_bytes() - size, []
    for path in _shards().iterdir():
        try:
            status = path.stat()
        except FileNotFoundError:
            continue
        if path.suffix == ".tmp" and time.time() - status.st_mtime > _STALE_S:
            path.unlink(missing_ok=True)
        elif path.suffix == ".parquet":
            files.append((status.st_mtime_ns, status.st_size, path))
    total = sum(length for _, length, _ in files)
    for _, length, path in sorted(files):
        if total <= max(0, room):
            break
        path.unlink(missing_ok=True)  # whoever has it open goes on reading it
        total -= length


@contextmanager
def _alone(sha256: str) -> Iterator[None]:
    """One process at a time per file: several workers want the same shard at once."""
    with _explained():
        _shards().mkdir(parents=True, exist_ok=True, mode=0o700)
        file = (_shards() / f".{sha256[:2]}.lock").open("a")
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _shards() -> Path:
    return folder() / "shards"


def _path(sha256: str) -> Path:
    if len(sha256) != 64 or not set(sha256) <= set("0123456789abcdef"):
        raise ContentError(f"{sha256!r} is no SHA-256")
    return _shards() / f"{sha256}.parquet"
