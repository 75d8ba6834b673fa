"""Where a run lives: a local folder, or a folder of an object store behind an fsspec URL.

`location` makes a `Path` of the one and a `RemotePath` of the other. A remote path has the names of `pathlib` as
far as the store needs them, and differs where object stores do: an object is put whole or not at all, there is no
rename and no folder, and the new content can be made to depend on the old.
"""

import difflib
import errno
import fnmatch
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.request import url2pathname

logger = logging.getLogger(__name__)

CHUNK_BYTES = 8 * 2**20
_AT_ONCE = 4  # chunks of one file read at the same time
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}
_S3 = ("s3", "s3a")
_SECRET = re.compile(r"\?\S*|(?<=://)[^/@\s]+@|\b(AKIA|ASIA)[A-Z0-9]{12,}|(?<=Bearer )\S+")
_told_of: set[str] = set()


class ConflictError(OSError):
    """An object was not put, because what is there is not what it was to be put in the place of."""


class StorageError(OSError):
    """A store could not be reached, or refused, after all retries."""


class RefusedError(StorageError, PermissionError):
    """A store does not allow it."""


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
        if colon and isinstance(path, Path) and scheme in _protocols() and not path.parent.exists():
            raise ValueError(f"{text!r} has lost a slash in a Path. Give the URL as a string: {scheme}://...")
        return Path(path).expanduser()
    protocol, rest = match[1].lower(), match[2]
    if protocol in ("file", "local"):
        return Path(url2pathname(rest))
    shown = _scrubbed(text)
    if "@" in rest.partition("/")[0] and protocol != "hf":
        raise ValueError(
            f"The URL {shown} holds a login, which would end up in logs. Leave it out, and give it through the "
            "environment, as the store's own tools take it (for S3: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY)."
        )
    if "?" in rest or "#" in rest:
        raise ValueError(f"The URL {shown} has a query or a fragment. Give the folder's plain URL.")
    if protocol not in _protocols():
        near = difflib.get_close_matches(protocol, _protocols(), n=1)
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

    Every call may raise `StorageError` (after the store's own retries; says what, where, and what to do, without
    secrets), `FileNotFoundError`, `PermissionError`, or `ModuleNotFoundError` (names the extra to install).

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
        return self.protocol in _S3 and self.protocol not in _told_of

    @property
    def _path(self) -> PurePosixPath:
        return PurePosixPath(self.url.partition("://")[2])

    @property
    def name(self) -> str:
        """The last part."""
        return self._path.name

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
        """Whether there is a file, or a folder with something in it. A store that fails is an error, not False."""
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
        with self._told("read"):
            return float(self._files().modified(self.url).timestamp())

    def read_bytes(self) -> bytes:
        """The whole content; for small files."""
        with self._told("read"):
            return bytes(self._files().cat_file(self.url))

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
        with self._told("read"):
            found = self._files().cat_ranges([self.url] * len(ranges), starts, ends, on_error="raise")
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
        options: dict[str, Any] = {"mode": "create"} if create and self.protocol not in _told_of else {}
        if replaces is not None and self.conditional:
            options = {"IfMatch": replaces}
        with self._told("write"):
            try:
                self._files().pipe_file(self.url, content, **options)
            except Exception as error:
                if options and _unknown_condition(error):
                    self._tell_of_no_conditions()
                    return self.put(content)
                if not (options and _condition_failed(error)):
                    raise
                # A retry after an answer that was lost on the way meets what the first try has put.
                if not self._holds(content):
                    raise ConflictError(errno.EEXIST, f"{self} was written by somebody else.") from None
        return self.version()

    def write_bytes(self, content: bytes) -> None:
        """Write the file whole, whatever was there."""
        self.put(content)

    def unlink(self, missing_ok: bool = False) -> None:
        """Delete the file."""
        try:
            with self._told("delete"):
                self._files().rm_file(self.url)
        except FileNotFoundError:
            if not missing_ok:
                raise

    def rename(self, target: "RemotePath") -> "RemotePath":
        """Copy the file, then delete it: a stop in between leaves both."""
        with self._told("copy"):
            self._files().cp_file(self.url, target.url)
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
        """The files below; not by `glob` of fsspec or `find` by levels, which pass over errors of the store."""
        with self._told("list"):
            files = self._files()
            base = files._strip_protocol(self.url)
            try:
                found = files.find(self.url) if deep else files.ls(self.url, detail=False)
            except FileNotFoundError:
                return []
            names = [files._strip_protocol(name) for name in found]
            return sorted(
                PurePosixPath(n[len(base) :].lstrip("/")) for n in names if n.startswith(f"{base}/")
            )

    def _info(self) -> Mapping[str, Any]:
        with self._told("read"):
            return dict(self._files().info(self.url))

    def _kind(self) -> str | None:
        # Not by `exists` or `isdir` of fsspec, which take a store that fails for an empty one.
        try:
            return str(self._info()["type"])
        except FileNotFoundError:
            return None

    def _holds(self, content: bytes) -> bool:
        if self.size() != len(content):
            return False
        start = 0
        for chunk in self.chunks(len(content)):
            if chunk != content[start : start + len(chunk)]:
                return False
            start += len(chunk)
        return True

    def _files(self) -> Any:
        """The file system; made anew after a fork, which its connections do not survive."""
        import fsspec

        return fsspec.filesystem(self.protocol, **_options(self.protocol))

    def _tell_of_no_conditions(self) -> None:
        if self.protocol not in _told_of:
            _told_of.add(self.protocol)
            logger.warning(
                "The store of %s does not know conditional writes: two processes that begin to write to one run in "
                "the same second may both go on. See that only one does.", self,
            )  # fmt: skip

    @contextmanager
    def _told(self, doing: str) -> Iterator[None]:
        """Turn whatever a file system raises into an error that says what to do. Its own text may hold secrets."""
        try:
            yield
        except (ConflictError, StorageError):
            raise
        except ImportError as error:
            raise ModuleNotFoundError(_install(self.protocol, error)) from error
        except FileNotFoundError:
            what = "its bucket does not exist. Create it first" if doing == "write" else "it does not exist"
            raise FileNotFoundError(errno.ENOENT, f"Could not {doing} {self}: {what}.") from None
        except PermissionError as error:
            raise RefusedError(
                errno.EACCES,
                f"Could not {doing} {self}: the store refused ({_scrubbed(str(error))}). Check the credentials in "
                "the environment, and what they allow.",
            ) from None
        except Exception as error:
            text = f"{type(error).__name__}: {_scrubbed(str(error))}"
            raise StorageError(
                errno.EIO,
                f"Could not {doing} {self}, after retries ({text}). What is listed is intact. Check the "
                "connection, the credentials and the state of the store, and call again.",
            ) from None


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


def _protocols() -> list[str]:
    import fsspec

    return list(fsspec.available_protocols())


def _options(protocol: str) -> dict[str, Any]:
    """What we want otherwise than fsspec, unless the user's configuration says so."""
    options: dict[str, Any] = {"use_listings_cache": False} if protocol != "memory" else {}
    if protocol in _S3:
        import fsspec

        config = {"connect_timeout": 10, "read_timeout": 60}
        if not {"AWS_MAX_ATTEMPTS", "AWS_RETRY_MODE"} & set(os.environ):
            config["retries"] = {"mode": "standard", "total_max_attempts": 6}
        options["config_kwargs"] = config | fsspec.config.conf.get("s3", {}).get("config_kwargs", {})
    return options


def _install(protocol: str, error: ImportError) -> str:
    extra = _EXTRAS.get(protocol)
    how = f"pip install 'diffusion-self-distillation[{extra}]'" if extra else str(error)
    return f"{protocol}:// needs a package that is not installed. Install it: {how}"


def _code(error: BaseException) -> str:
    """What an S3 or a Google Cloud client says went wrong."""
    response = getattr(error.__cause__ or error, "response", None)
    if isinstance(response, Mapping):
        return str(response.get("Error", {}).get("Code"))
    return str(getattr(error, "code", ""))


def _condition_failed(error: Exception) -> bool:
    return isinstance(error, FileExistsError) or _code(error) in (
        *("PreconditionFailed", "412"),
        *("ConditionalRequestConflict", "409"),
    )


def _unknown_condition(error: Exception) -> bool:
    return _code(error) in ("NotImplemented", "501")


def _scrubbed(text: str) -> str:
    return _SECRET.sub("***", " ".join(text.split()))[:300]
