"""The one door through which files and bytes from outside become pictures: bounded before they are decoded."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

from PIL import Image

MAX_PIXELS = 50_000_000
"""A picture with more pixels is refused before it is decoded: 150 MB as RGB."""
MAX_FILE_BYTES = 200 * 2**20
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")
"""No others are read: Pillow runs other programs for some, such as Ghostscript for EPS."""
ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")


def open_image(path: str | Path, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The picture of a file, whole and in its own mode; the first frame of several.

    Args:
        path: the file: PNG, JPEG, WebP, BMP or TIFF.
        max_pixels: width times height; more is refused before anything is decoded.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged, too large or of another format.
    """
    with opened(path, max_pixels) as image:
        image.load()
        return image


def decode_image(data: bytes, name: str, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """As `open_image`, of the content of a file that is called `name` in messages.

    Raises:
        ValueError: as there.
    """
    with opened_bytes(data, name, max_pixels) as image:
        image.load()
        return image


@contextmanager
def opened(path: str | Path, max_pixels: int = MAX_PIXELS) -> Iterator[Image.Image]:
    """The picture of a file, not decoded yet; what goes wrong while it is decoded is explained.

    Raises:
        FileNotFoundError, ValueError: as `open_image`.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no picture {path}.")
    if path.stat().st_size > MAX_FILE_BYTES:
        raise ValueError(f"{path} has {path.stat().st_size:,} bytes; at most {MAX_FILE_BYTES:,} are read.")
    with _opened(path, str(path), max_pixels) as image:
        yield image


@contextmanager
def opened_bytes(data: bytes, name: str, max_pixels: int = MAX_PIXELS) -> Iterator[Image.Image]:
    """As `opened`, of the content of a file.

    Raises:
        ValueError: as there.
    """
    if len(data) > MAX_FILE_BYTES:
        raise ValueError(f"{name} has {len(data):,} bytes; at most {MAX_FILE_BYTES:,} are read.")
    with _opened(BytesIO(data), name, max_pixels) as image:
        yield image


@contextmanager
def _opened(source: Path | BytesIO, name: str, max_pixels: int) -> Iterator[Image.Image]:
    try:
        with Image.open(source, formats=FORMATS) as image:
            check_size(image, max_pixels)
            yield image
    except Exception as error:  # whatever a damaged picture makes of its decoder
        raise ValueError(f"The picture {name} cannot be used: {_told(error)}") from error


def check_size(image: Image.Image, max_pixels: int = MAX_PIXELS) -> None:
    """Refuse a picture of more pixels than are read back.

    Raises:
        ValueError: if it is one.
    """
    if image.width * image.height > max_pixels:
        raise ValueError(
            f"it is {image.width} x {image.height} px, and at most {max_pixels:,} pixels are decoded. Make it "
            "smaller."
        )


def is_inside(folder: str | Path, name: str) -> bool:
    """Whether a file's name, as a table or an index from outside gives it, stays within a folder. Links that
    are in the folder already are followed: caches of downloads are made of them.
    """
    root = os.path.abspath(folder)
    try:
        return os.path.commonpath([root, os.path.abspath(os.path.join(root, name))]) == root
    except ValueError:  # another drive
        return False


def _told(error: Exception) -> str:
    if isinstance(error, Image.UnidentifiedImageError):
        return f"it is none of {', '.join(FORMATS)}, or damaged."
    said = str(error) if isinstance(error, ValueError | OSError) else f"{type(error).__name__}: {error}"
    return f"{said.rstrip('.')}."
