"""Where a run lives: a local folder, or a folder of an object store behind an fsspec URL.

`location` makes a `Path` of the one and a `RemotePath` of the other. A remote path has the names of `pathlib`
as far as they are needed, and differs where object stores do: an object is put whole or not at all, there is
no rename and no folder, and whether new content is put can be made to depend on the old.
"""

import difflib
import errno
import fnmatch
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.request import url2pathname

from dsd.data import uploads
from dsd.data.filesystems import (
    S3,
    ConflictError,
    StorageError,
    files,
    protocols,
    scrubbed,
    told,
    unknown_condition,
)

logger = logging.getLogger(__name__)

CHUNK_BYTES = 8 * 2**20
_AT_ONCE = 4  # chunks of one file read at the same time
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
_NAMED = ("s3", "gs", "hf", "memory")
_told_of: set[str] = set()


def location(path: "str | os.PathLike[str] | RemotePath") -> "Path | RemotePath":
    """A local path, or a remote one for a URL such as "s3://bucket/runs/x".

    Raises:
        ValueError: if the URL holds a login or a query, is chained, or its protocol is unknown.
    """
    if isinstance(path, RemotePath):
        return path
    text = os.fspath(path)
    match = _URL.fullmatch(text)
    if match is None:
        scheme, colon, _ = text.partition(":/")
        if "::" in text and "://" in text:
            raise ValueError("Chained URLs are not supported. Give the URL of the store alone.")
        if colon and isinstance(path, Path) and scheme in protocols() and not path.parent.exists():
            raise ValueError(f"{text!r} has lost a slash in a Path. Give the URL as a string: {scheme}://...")
        return Path(path).expanduser()
    protocol, rest = match[1].lower(), match[2]
    if protocol in ("file", "local"):
        return Path(url2pathname(rest))
    shown = scrubbed(text)
    if "@" in rest.partition("/")[0] and protocol != "hf":
        raise ValueError(
            f"The URL {shown} holds a login, which would end up in logs. Leave it out, and give it through "
            "the environment, as the store's own tools take it (for S3: AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY)."
        )
    if "?" in rest or "#" in rest:
        raise ValueError(f"The URL {shown} has a query or a fragment. Give the folder's plain URL.")
    if protocol not in protocols():
        near = difflib.get_close_matches(protocol, _NAMED, n=1, cutoff=0.5)
        hint = f" Did you mean {near[0]}://?" if near else ""
        raise ValueError(
            f"Unknown protocol in {shown!r}.{hint} Use a folder, s3://, gs://, hf:// or memory://."
        )
    parts = [part for part in rest.split("/") if part not in ("", ".")]
    if not parts or ".." in parts:
        raise ValueError(
            f"{shown!r} names no folder of a store. Give one, such as {protocol}://bucket/runs/x."
        )
    return RemotePath(f"{protocol}://{'/'.join(parts)}")


@dataclass(frozen=True, order=True)
class RemotePath:
    """A file or folder of a store, with the names of `pathlib` as far as they are needed; see `location`.

    Every call may raise `StorageError` (after the store's own retries; says what, where, and what to do,
    without secrets; also a `PermissionError` if the store refuses), `FileNotFoundError`, or
    `ModuleNotFoundError` (names the extra to install).

    Attributes:
        url: without a slash at its end.
    """

    url: str

    def __str__(self) -> str:
        return self.url

    def __truediv__(self, name: str | PurePosixPath) -> "RemotePath":
        return RemotePath(f"{self.url}/{name}")

    @property
    def protocol(self) -> str:
        """The URL's, such as "s3"."""
        return self.url.partition("://")[0]

    @property
    def conditional(self) -> bool:
        """Whether a file can be replaced on condition that it is still what it was."""
        return self.protocol in S3 and self.protocol not in _told_of

    @property
    def _path(self) -> PurePosixPath:
        return PurePosixPath(self.url.partition("://")[2])

    @property
    def name(self) -> str:
        """The last part."""
        return self._path.name

    @property
    def stem(self) -> str:
        """The last part without its suffix."""
        return self._path.stem

    @property
    def parent(self) -> "RemotePath":
        """The folder above; the topmost is its own."""
        return self.parents[0] if self.parents else self

    @property
    def parents(self) -> Sequence["RemotePath"]:
        """All folders above, the nearest first."""
        return [RemotePath(f"{self.protocol}://{path}") for path in self._path.parents][:-1]

    def with_name(self, name: str) -> "RemotePath":
        """Its neighbour of that name."""
        return self.parent / name

    def relative_to(self, folder: "RemotePath") -> PurePosixPath:
        """The path from a folder above."""
        return self._path.relative_to(folder._path)

    def as_posix(self) -> str:
        """The URL."""
        return self.url

    def resolve(self) -> "RemotePath":
        """Itself: a URL is absolute."""
        return self

    def exists(self) -> bool:
        """Whether there is a file, or a folder with something in it; a store that fails is an error."""
        return self._kind() is not None

    def is_dir(self) -> bool:
        """Whether there is a folder with something in it."""
        return self._kind() == "directory"

    def is_file(self) -> bool:
        """Whether there is a file."""
        return self._kind() == "file"

    def mkdir(self, parents: bool = False, exist_ok: bool = False) -> None:
        """Nothing: folders of a store are there when something is in them."""

    def version(self) -> str:
        """What changes whenever the file is written: its ETag, where the store has one."""
        info = self._info()
        return str(info.get("ETag") or info.get("etag") or sorted((k, str(v)) for k, v in info.items()))

    def size(self) -> int:
        """In bytes."""
        return int(self._info()["size"])

    def modified(self) -> float:
        """When it was last written, in seconds, by the clock of the store."""
        with told(self, "read"):
            return float(files(self.url).modified(self.url).timestamp())

    def read_bytes(self) -> bytes:
        """The whole content; for small files."""
        with told(self, "read"):
            return bytes(files(self.url).cat_file(self.url))

    def read_text(self) -> str:
        """The whole content as text."""
        return self.read_bytes().decode()

    def read_ranges(self, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Some ranges of bytes `(start, end)`, read at the same time.

        Raises:
            StorageError: also if the file ends before one of them does.
        """
        if not ranges:
            return []
        starts, ends = (list(side) for side in zip(*ranges, strict=True))
        with told(self, "read"):
            found = files(self.url).cat_ranges([self.url] * len(ranges), starts, ends, on_error="raise")
            if short := [i for i, part in enumerate(found) if len(part) != ends[i] - starts[i]]:
                raise EOFError(f"got {len(found[short[0]])} bytes of {ends[short[0]] - starts[short[0]]}")
        return [bytes(part) for part in found]

    def chunks(self, size: int | None = None) -> Iterator[bytes]:
        """The content, piece by piece; some pieces are in memory at a time."""
        total = self.size() if size is None else size
        ranges = [(start, min(total, start + CHUNK_BYTES)) for start in range(0, total, CHUNK_BYTES)]
        for first in range(0, len(ranges), _AT_ONCE):
            yield from self.read_ranges(ranges[first : first + _AT_ONCE])

    def put(self, content: bytes, *, create: bool = False, replaces: str | None = None) -> str:
        """Write the file whole; until then, and if it fails, what was there stays.

        Args:
            content: the bytes.
            create: only if there is no such file yet.
            replaces: only if the file's `version` is this; heeded on S3 alone.

        Returns:
            the new `version`.

        Raises:
            ConflictError: if the condition does not hold.
        """
        condition: dict[str, Any] = {"mode": "create"} if create and self.protocol not in _told_of else {}
        if replaces is not None and self.conditional:
            condition = {"IfMatch": replaces}
        return self._sent(content, condition) or self.version()

    def upload(self, file: Path) -> None:
        """Copy a file of this machine to here, in parts if it is large.

        Raises:
            ConflictError: if there is a file already, and the store can tell.
            StorageError: also if other bytes arrived than were sent.
        """
        self._sent(file, {"mode": "create"} if self.conditional else {})
        size = file.stat().st_size
        if (there := self.size()) != size:
            raise StorageError(errno.EIO, f"The store has {there} of {size} bytes of {self}.")

    def _sent(self, content: bytes | Path, condition: Mapping[str, Any]) -> str:
        """Put a file on condition; its ETag, or "" if the store says none."""
        with told(self, "write"):
            try:
                return uploads.send(self, content, condition)
            except Exception as error:
                if not (condition and unknown_condition(error)):
                    raise
                self._tell_of_no_conditions()
                return uploads.send(self, content, {})

    def append(self, content: bytes) -> None:
        """Put the file anew with something added at its end; what others add meanwhile is kept on S3."""
        for _ in range(10):
            try:
                known: str | None = self.version()
                there = self.read_bytes()
            except FileNotFoundError:
                known, there = None, b""
            try:
                self.put(there + content, create=known is None, replaces=known)
                return
            except ConflictError:
                continue
        raise ConflictError(errno.EAGAIN, f"Others keep writing to {self}. Try again.")

    def write_bytes(self, content: bytes) -> None:
        """Write the file whole, whatever was there."""
        self.put(content)

    def unlink(self, missing_ok: bool = False) -> None:
        """Delete the file."""
        try:
            with told(self, "delete"):
                files(self.url).rm_file(self.url)
        except FileNotFoundError:
            if not missing_ok:
                raise

    def rename(self, target: "RemotePath") -> "RemotePath":
        """Copy the file, then delete it: a stop in between leaves both."""
        with told(self, "copy"):
            files(self.url).cp_file(self.url, target.url)
        self.unlink(missing_ok=True)
        return target

    def glob(self, pattern: str) -> Iterator["RemotePath"]:
        """The files whose path from here matches, part by part, with `*` and `?`."""
        wanted = pattern.split("/")
        for path in self._below(deep=len(wanted) > 1):
            parts = path.parts
            if len(parts) == len(wanted) and all(map(fnmatch.fnmatchcase, parts, wanted)):
                yield self / path

    def rglob(self, pattern: str) -> Iterator["RemotePath"]:
        """The files below here whose name matches."""
        return (self / path for path in self._below(deep=True) if fnmatch.fnmatchcase(path.name, pattern))

    def _below(self, deep: bool) -> list[PurePosixPath]:
        """The files below. Not by fsspec's `glob`, or `find` by levels, which pass over errors."""
        with told(self, "list"):
            store = files(self.url)
            base = store._strip_protocol(self.url)
            try:
                found = store.find(self.url) if deep else store.ls(self.url, detail=False)
            except FileNotFoundError:
                return []
            names = [store._strip_protocol(name) for name in found]
            return sorted(PurePosixPath(n).relative_to(base) for n in names if n.startswith(f"{base}/"))

    def _info(self) -> Mapping[str, Any]:
        with told(self, "read"):
            return dict(files(self.url).info(self.url))

    def _kind(self) -> str | None:
        # Not by `exists` or `isdir` of fsspec, which take a store that fails for an empty one.
        try:
            return str(self._info()["type"])
        except FileNotFoundError:
            return None

    def _tell_of_no_conditions(self) -> None:
        if self.protocol not in _told_of:
            _told_of.add(self.protocol)
            logger.warning(
                "The store of %s does not know conditional writes: two processes that begin to write to one "
                "run in the same second may both go on. See that only one does.", self,
            )  # fmt: skip


Location = Path | RemotePath


def named(folder: Location, pattern: str) -> list[str]:
    """The paths, from a folder, of the files anywhere below it whose name matches."""
    if isinstance(folder, RemotePath):
        return [path.relative_to(folder).as_posix() for path in folder.rglob(pattern)]
    return [path.relative_to(folder).as_posix() for path in folder.rglob(pattern)]


def move(path: Location, name: str) -> None:
    """Give a file another name in its folder."""
    if isinstance(path, RemotePath):
        path.rename(path.with_name(name))
    else:
        path.rename(path.with_name(name))
