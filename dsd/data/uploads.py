"""Uploads in parts, which a store keeps, and asks to be paid for, until somebody ends them.

The parts, their retries and the order of it all are the file system's. What it leaves to us: an upload that
broke off and could not be aborted then, a condition that it drops on the way, and an answer that was lost
after the last part.
"""

import errno
import logging
from collections.abc import Iterator, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

from dsd.data.filesystems import S3, ConflictError, StorageError, condition_failed, error_code, files

logger = logging.getLogger(__name__)

PART_BYTES = 16 * 2**20
"""Of a part; a file of less than two of them is put in one request."""


def send(path: Any, content: bytes | Path, condition: Mapping[str, Any]) -> str:
    """Put a file, in parts if it is large; none of them stays if that breaks off.

    Args:
        path: a `RemotePath`.
        content: bytes, or a file of this machine.
        condition: arguments of the file system that make it depend on what is there.

    Returns:
        its ETag; "" if the store does not say.

    Raises:
        ConflictError: if the condition does not hold.
        Exception: whatever else the file system raises.
    """
    size = _size(content)
    options: dict[str, Any] = dict(condition)
    if path.protocol in S3:
        # Of uploads in parts, s3fs drops a condition on what is replaced.
        options["chunksize"] = max(PART_BYTES, size) if "IfMatch" in condition else PART_BYTES
    try:
        store = files(path.url)
        if isinstance(content, Path):
            done = store.put_file(str(content), path.url, **options)
        else:
            done = store.pipe_file(path.url, content, **options)
    except BaseException as error:
        if path.protocol in S3 and size >= 2 * options["chunksize"]:
            abort(path.url)
        gone, refused = _is_gone(error), bool(condition) and condition_failed(error)
        if not (gone or refused):
            raise
        # A retry after an answer that was lost on the way meets what the first try has put.
        if not _holds(path, content):
            if gone:
                raise StorageError(
                    errno.EIO, f"Somebody else has ended the upload to {path}. Try again."
                ) from None
            raise ConflictError(errno.EEXIST, f"{path} was written by somebody else.") from None
        return ""
    return str(done.get("ETag") or "") if isinstance(done, Mapping) else ""


def unfinished(url: str) -> Iterator[tuple[str, str, str]]:
    """The uploads in parts, of a file or of all files in a folder, that were begun and not ended: bucket, key
    and the id of each.
    """
    store = files(url)
    bucket, prefix, _ = store.split_path(url)
    page: dict[str, Any] = {}
    while True:
        found = store.call_s3("list_multipart_uploads", Bucket=bucket, Prefix=prefix, **page)
        for upload in found.get("Uploads", []):
            if upload["Key"] == prefix or upload["Key"].startswith(f"{prefix}/"):
                yield bucket, upload["Key"], upload["UploadId"]
        if not found.get("IsTruncated"):
            return
        page = {"KeyMarker": found["NextKeyMarker"], "UploadIdMarker": found["NextUploadIdMarker"]}


def abort(url: str) -> int:
    """End the unfinished uploads of a file, or of all files in a folder, and free what they take.

    A store that does not allow it is told of, and left as it is: such uploads are invisible.

    Returns:
        how many there were.
    """
    if url.partition("://")[0] not in S3:
        return 0
    store, count = files(url), 0
    try:
        for bucket, key, upload in [*unfinished(url)]:
            try:
                store.call_s3("abort_multipart_upload", Bucket=bucket, Key=key, UploadId=upload)
            except FileNotFoundError as error:
                if not _is_gone(error):  # else ended meanwhile
                    raise
            count += 1
    except Exception as error:  # whatever the store and its client make of it
        logger.warning(
            "Could not end the unfinished uploads to %s (%s). They are invisible and take space: let the "
            "bucket delete them (AbortIncompleteMultipartUpload).",
            url,
            error_code(error) or type(error).__name__,
        )
    return count


def _is_gone(error: BaseException) -> bool:
    """Whether the store does not know an upload any more: it was ended, by us in a try whose answer was lost
    or by somebody else.
    """
    return error_code(error) == "NoSuchUpload"


def _size(content: bytes | Path) -> int:
    return len(content) if isinstance(content, bytes) else content.stat().st_size


def _holds(path: Any, content: bytes | Path) -> bool:
    size = _size(content)
    try:
        if path.size() != size:
            return False
        with BytesIO(content) if isinstance(content, bytes) else content.open("rb") as source:
            return all(chunk == source.read(len(chunk)) for chunk in path.chunks(size))
    except FileNotFoundError:
        return False
