"""Picture cells of data sets that others made."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from dsd.opening import decode_image, open_image

Folders = Sequence[Path] | None


def picture_of(cell: Any, folders: Folders = ()) -> Image.Image:
    """The picture of a cell as `datasets` gives it undecoded, `{"bytes": ..., "path": ...}`.

    A path is a file of this machine, or an address, that whoever made the data set chose; so it is followed
    only where that is wanted, and addresses never are.

    Args:
        cell: with the file's content, or else its path.
        folders: where files may lie; None for anywhere, if the user chose them.

    Raises:
        ValueError: if there is no picture in it, or none that can be used; see `dsd.opening`.
    """
    data, path = (cell.get("bytes"), cell.get("path")) if isinstance(cell, dict) else (None, None)
    if isinstance(data, bytes):
        return decode_image(data, "in its cell")
    if not isinstance(path, str) or not path:
        raise ValueError("It holds no picture.")
    if folders is not None and not any(_within(folder, path) for folder in folders):
        raise ValueError(
            f"It does not hold the picture, but names the file {path[:200]!r}, which is not read: a data set "
            "may not choose files of this machine. Store the pictures in it, or open it with `datasets` "
            "yourself and give that."
        )
    try:
        return open_image(path)
    except (OSError, ValueError) as error:
        raise ValueError(str(error)) from error


def _within(folder: Path, path: str) -> bool:
    try:  # links lead out of the cache of downloads into it, so that the way counts, not the end
        return Path(path).is_absolute() and Path(path).is_relative_to(folder) and ".." not in Path(path).parts
    except ValueError:
        return False
