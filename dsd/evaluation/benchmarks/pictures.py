"""Pictures of benchmarks and methods: bounded before they are decoded, turned upright, laid over white."""

from functools import lru_cache
from pathlib import Path

from PIL import Image

from dsd.opening import ENDINGS, MAX_PIXELS, opened, opened_bytes

__all__ = ["ENDINGS", "MAX_PIXELS", "check_picture", "decode_picture", "open_picture", "remembered"]

_DRAFT = (64, 64)


def open_picture(path: str | Path, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """A picture as RGB: its orientation tag followed, transparency laid over white, the first frame of
    several.

    Args:
        path: the file: PNG, JPEG, WebP, BMP or TIFF.
        max_pixels: width times height; more is refused before anything is decoded.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged, too large, of another format, or of a mode without a fixed range of
            values (16 bits of grey, floats).
    """
    with opened(path, max_pixels) as image:
        return _upright(image)


def check_picture(path: str | Path, max_pixels: int = MAX_PIXELS) -> None:
    """Whether `open_picture` will do; a JPEG is read whole but decoded at an eighth of its size.

    Raises:
        FileNotFoundError, ValueError: as `open_picture`.
    """
    with opened(path, max_pixels) as image:
        image.draft("RGB", _DRAFT)
        _upright(image)


@lru_cache(maxsize=32)
def remembered(path: Path) -> Image.Image:
    """As `open_picture`; the last few are kept, for a reference serves many prompts. Do not draw on them."""
    return open_picture(path)


def decode_picture(data: bytes, name: str, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """As `open_picture`, of the content of a file that is called `name` in messages.

    Raises:
        ValueError: as there.
    """
    with opened_bytes(data, name, max_pixels) as image:
        return _upright(image)


def _upright(image: Image.Image) -> Image.Image:
    from dsd.extractors import rgb  # torch comes with it, and names are listed without

    image.load()
    return rgb(image)
