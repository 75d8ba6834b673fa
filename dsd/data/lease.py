"""One writer at a time in a run of an object store, where there is no lock that ends with its process.

The holder puts an object into the run, and puts it anew as long as it lives. Whoever finds one that was not
put anew for `TTL_S` takes it over. Both times are the store's: no clock of a client is trusted. A holder of
this machine whose process is gone is known as dead at once.
"""

import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dsd.data.filesystems import ConflictError
from dsd.data.storage import RemotePath

logger = logging.getLogger(__name__)

LOCK = ".lock"
TTL_S = 120.0
BEAT_S = 20.0
SETTLE_S = 2.0
_TTL_S_OF = {"hf": 1800.0}  # each beat is a commit there
_held: dict[str, "Lease"] = {}
_owners: set[str] = set()  # of this process


class LockedError(RuntimeError):
    """Another process writes to the same run."""


class Lease:
    """The right to write to a run, kept up by a thread.

    Args:
        folder: the run's folder.
        purpose: what is being done, for the message that another process gets.

    Raises:
        LockedError: if somebody else holds it, who was heard from within `TTL_S`.
    """

    def __init__(self, folder: RemotePath, purpose: str) -> None:
        self.folder, self._file = folder, folder / LOCK
        self._ttl_s = _TTL_S_OF.get(folder.protocol, TTL_S)
        self._beat_s = BEAT_S * self._ttl_s / TTL_S
        self._holder = {
            "owner": uuid.uuid4().hex,
            "purpose": purpose,
            "since": time.strftime("%F %T"),
            **_me(),
        }
        self._versions: dict[RemotePath, str | None] = {}
        self._guard, self._ended = threading.RLock(), threading.Event()
        self._lost = False
        self._beats = 0
        self._renewed = _now()
        _owners.add(self._holder["owner"])
        try:
            self._version = self._acquired()
        except BaseException:
            _owners.discard(self._holder["owner"])
            raise
        self._thread = threading.Thread(target=self._keep_up, name="dsd-lease", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raise if it is no longer ours; put it anew if that is due.

        Raises:
            LockedError: if somebody else has taken it over.
            StorageError: if the store cannot be reached.
        """
        with self._guard:
            if not self._lost and _now() - self._renewed > self._ttl_s / 2:
                self._renew()
            if self._lost:
                raise LockedError(
                    f"Another process has taken over {self.folder}: this one was not heard of for "
                    f"{self._ttl_s:.0f} s. What it has listed is intact. Call the stage again when the other "
                    "has ended."
                )

    def put(self, path: RemotePath, content: bytes, create: bool = False) -> None:
        """Write a file of the run, unless the run was taken over.

        On a store with conditional writes, a file that somebody else has written meanwhile is not replaced,
        even if this process was stopped between the check and the writing.

        Raises:
            LockedError: if the run was taken over.
            ConflictError: if there is a file already and `create` is set.
        """
        # The guard is not held while a shard is put, which may take longer than the lease lasts.
        if create:
            self.check()
            self._versions[path] = path.put(content, create=True)
            return
        known = self._versions[path] if path in self._versions else _version(path)
        self.check()
        try:
            self._versions[path] = path.put(content, create=known is None, replaces=known)
        except (ConflictError, FileNotFoundError) as error:
            if isinstance(error, FileNotFoundError) and known is None:
                raise
            with self._guard:
                self._lost = True
            self.check()

    def unlink(self, path: RemotePath) -> None:
        """Delete a file of the run, if it is there, unless the run was taken over."""
        self.check()
        path.unlink(missing_ok=True)
        self._versions.pop(path, None)

    def release(self) -> None:
        """Let go of it; if the store cannot be reached, it ends by itself."""
        self._ended.set()
        self._thread.join()
        _owners.discard(self._holder["owner"])
        if self._lost or _now() - self._renewed > self._ttl_s / 2:
            return  # perhaps not ours any more
        try:
            self._file.unlink(missing_ok=True)
        except OSError as error:
            logger.warning("Could not delete the lock of %s, which ends by itself: %s", self.folder, error)

    def _acquired(self) -> str:
        found: dict[str, Any] | None = None
        for _ in range(3):  # again if it was let go of, or taken, while we looked
            try:
                found = _read(self._file)
                if found is None:
                    return self._file.put(self._document(), create=True)
                version = self._file.version()
                if self._is_dead(found):
                    return self._taken_over(found, version)
                break
            except (ConflictError, FileNotFoundError):
                if not self._file.parent.exists():
                    raise
        raise self._refused(found or {})

    def _taken_over(self, found: Mapping[str, Any], version: str) -> str:
        """In one step where the store can; else in two, with time to see who was last."""
        version = self._file.put(self._document(), replaces=version)
        if not self._file.conditional:
            time.sleep(SETTLE_S)
            if not self._is_mine():
                raise self._refused(_read(self._file) or {})
        logger.warning("Took over %s from %s, which has died", self.folder, _told(found))
        return version

    def _is_dead(self, found: Mapping[str, Any]) -> bool:
        if found.get("machine") == self._holder["machine"] != "":
            if found.get("pid") == os.getpid():
                return found.get("owner") not in _owners
            return bool(_started(found.get("pid")) != found.get("started"))
        return self._silent_s() > self._ttl_s

    def _silent_s(self) -> float:
        """How long the holder was not heard of, by the clock of the store."""
        probe = self.folder / f"{LOCK}.{self._holder['owner']}"
        probe.put(b"now")
        try:
            return probe.modified() - self._file.modified()
        finally:
            probe.unlink(missing_ok=True)

    def _refused(self, found: Mapping[str, Any]) -> LockedError:
        return LockedError(
            f"{self.folder} is being written to by {_told(found)}. Wait until it has ended, or stop it; "
            f"reading is allowed meanwhile. If it has died, its lock ends {self._ttl_s:.0f} s after its last "
            "sign of life."
        )

    def _document(self) -> bytes:
        return json.dumps({**self._holder, "beat": self._beats}).encode()

    def _renew(self) -> None:
        self._beats += 1
        begun = _now()
        try:
            if not self._file.conditional and not self._is_mine():
                self._lost = True
                return
            self._version = self._file.put(self._document(), replaces=self._version)
            self._renewed = begun
        except (ConflictError, FileNotFoundError):
            self._lost = True

    def _is_mine(self) -> bool:
        return (_read(self._file) or {}).get("owner") == self._holder["owner"]

    def _keep_up(self) -> None:
        while not self._ended.wait(self._beat_s):
            with self._guard:
                if self._lost:
                    return
                try:
                    self._renew()
                except OSError as error:  # tried again at the next beat; `check` raises if it gets too late
                    logger.warning("Could not renew the lock of %s: %s", self.folder, error)


@contextmanager
def held(folder: RemotePath, purpose: str) -> Iterator[None]:
    """Hold a run for writing; `put` and `unlink` in it heed that."""
    lease = Lease(folder, purpose)
    _held[folder.url] = lease
    try:
        yield
    finally:
        _held.pop(folder.url, None)
        lease.release()


def put(path: RemotePath, content: bytes, create: bool = False) -> None:
    """Write a file whole; in a run that this process holds, only as long as it does.

    Raises:
        LockedError: if the run was taken over by another process.
        ConflictError: if there is a file already and `create` is set.
    """
    lease = _of(path)
    if lease is None:
        path.put(content, create=create)
    else:
        lease.put(path, content, create)


def upload(path: RemotePath, file: Path) -> None:
    """Copy a file of this machine to a store; see `RemotePath.upload`. As `put` otherwise."""
    lease = _of(path)
    if lease is not None:
        lease.check()
    path.upload(file)


def unlink(path: RemotePath) -> None:
    """Delete a file if it is there; in a run that this process holds, only as long as it does."""
    lease = _of(path)
    if lease is None:
        path.unlink(missing_ok=True)
    else:
        lease.unlink(path)


def _of(path: RemotePath) -> Lease | None:
    return next((_held[folder.url] for folder in path.parents if folder.url in _held), None)


def _version(path: RemotePath) -> str | None:
    try:
        return path.version()
    except FileNotFoundError:
        return None


def _read(path: RemotePath) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _told(holder: Mapping[str, Any]) -> str:
    if not {"pid", "host", "purpose", "since"} <= set(holder):
        return "another process"
    pid, host, purpose, since = (str(holder[name])[:80] for name in ("pid", "host", "purpose", "since"))
    return f"process {pid} on {host} ({purpose}, since {since})"


def _me() -> dict[str, Any]:
    return {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "machine": _machine(),
        "started": _started(os.getpid()),
    }


def _machine() -> str:
    """This boot of this machine and the space that its process ids are of; "" if the system does not tell."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _started(pid: Any) -> str:
    """When the process began, in ticks since boot; "" if there is none."""
    try:
        return Path(f"/proc/{int(pid)}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, ValueError, TypeError, IndexError):
        return ""


def _now() -> float:
    """Seconds, which also pass while the machine sleeps; no jump of the wall clock moves them."""
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if clock is None else time.clock_gettime(clock)
