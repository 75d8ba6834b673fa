"""File systems of fsspec as we use them: their options, and what they raise as errors that say what to do."""

import errno
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

S3 = ("s3", "s3a")
_OPTIONS = (*S3, "gs", "gcs", "hf", "abfs", "az", "memory")  # those whose URLs hold no options
_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}
_SECRET = re.compile(r"\?\S*|(?<=://)[^/@\s]+@|\b(AKIA|ASIA)[A-Z0-9]{12,}|(?<=Bearer )\S+")


class ConflictError(OSError):
    """An object was not put, because what is there is not what it was to be put in the place of."""


class StorageError(OSError):
    """A store could not be reached, or refused, after all retries."""


class CacheError(StorageError):
    """What is read from a store could not be kept on this machine."""


class RefusedError(StorageError, PermissionError):
    """A store does not allow it."""


def files(url: str) -> Any:
    """The file system of a URL; made anew after a fork, which its connections do not survive."""
    import fsspec

    protocol = url.partition("://")[0]
    if protocol in _OPTIONS:
        return fsspec.filesystem(protocol, **_options(protocol))
    return fsspec.core.url_to_fs(url)[0]


@contextmanager
def told(path: Any, doing: str) -> Iterator[None]:
    """Turn what a file system raises into an error that says what to do, without its secrets.

    Args:
        path: a `RemotePath`, for the message.
        doing: "read", "write", "list", "copy" or "delete".
    """
    try:
        yield
    except (ConflictError, StorageError):
        raise
    except ImportError as error:
        raise ModuleNotFoundError(_install(path.protocol, error)) from error
    except FileNotFoundError:
        what = "its bucket does not exist. Create it first" if doing == "write" else "it does not exist"
        raise FileNotFoundError(errno.ENOENT, f"Could not {doing} {path}: {what}.") from None
    except PermissionError as error:
        raise RefusedError(
            errno.EACCES,
            f"Could not {doing} {path}: the store refused ({scrubbed(str(error))}). Check the "
            "credentials in the environment, and what they allow.",
        ) from None
    except Exception as error:
        text = f"{type(error).__name__}: {scrubbed(str(error))}"
        raise StorageError(
            errno.EIO,
            f"Could not {doing} {path}, after retries ({text}). What is listed is intact. Check the "
            "connection, the credentials and the state of the store, and call again.",
        ) from None


def protocols() -> list[str]:
    """Those that fsspec knows."""
    import fsspec

    return list(fsspec.available_protocols())


def _options(protocol: str) -> dict[str, Any]:
    """What we want otherwise than fsspec, unless the user's configuration says so."""
    options: dict[str, Any] = {"use_listings_cache": False} if protocol != "memory" else {}
    if protocol in S3:
        import fsspec

        config: dict[str, Any] = {"connect_timeout": 10, "read_timeout": 60}
        if not {"AWS_MAX_ATTEMPTS", "AWS_RETRY_MODE"} & set(os.environ):
            config["retries"] = {"mode": "standard", "total_max_attempts": 6}
        options["config_kwargs"] = config | fsspec.config.conf.get("s3", {}).get("config_kwargs", {})
    return options


def _install(protocol: str, error: ImportError) -> str:
    extra = _EXTRAS.get(protocol)
    how = f"pip install 'diffusion-self-distillation[{extra}]'" if extra else str(error)
    return f"{protocol}:// needs a package that is not installed. Install it: {how}"


def error_code(error: BaseException) -> str:
    """What an S3 or a Google Cloud client says went wrong; "" if it does not say."""
    response = getattr(error.__cause__ or error, "response", None)
    if isinstance(response, Mapping):
        return str(response.get("Error", {}).get("Code", ""))
    return str(getattr(error, "code", ""))


def condition_failed(error: BaseException) -> bool:
    """Whether a store did not put an object because its condition does not hold."""
    return isinstance(error, FileExistsError) or error_code(error) in (
        *("PreconditionFailed", "412"),
        *("ConditionalRequestConflict", "409"),
    )


def unknown_condition(error: Exception) -> bool:
    """Whether a store did not put an object because it does not know conditions."""
    return error_code(error) in ("NotImplemented", "501")


def scrubbed(text: str) -> str:
    """A text without logins, queries and keys, in one line and not too long."""
    return _SECRET.sub("***", " ".join(text.split()))[:300]
