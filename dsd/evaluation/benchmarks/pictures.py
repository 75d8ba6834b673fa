"""Pictures from outside: bounded before they are decoded, turned upright, laid over white."""

import warnings
from functools import lru_cache
from io import BytesIO
from pathlib import Path

from PIL import Image

MAX_PIXELS = 50_000_000
"""A picture with more pixels is refused before it is decoded: 150 MB as RGB."""
MAX_FILE_BYTES = 200 * 2**20
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")
ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
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
    return _read(Path(path), max_pixels, draft=False)


def check_picture(path: str | Path, max_pixels: int = MAX_PIXELS) -> None:
    """Whether `open_picture` will do; a JPEG is read whole but decoded at an eighth of its size.

    Raises:
        FileNotFoundError, ValueError: as `open_picture`.
    """
    _read(Path(path), max_pixels, draft=True)


@lru_cache(maxsize=32)
def remembered(path: Path) -> Image.Image:
    """As `open_picture`; the last few are kept, for a reference serves many prompts. Do not draw on them."""
    return open_picture(path)


def decode_picture(data: bytes, name: str, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """As `open_picture`, of the content of a file that is called `name` in messages.

    Raises:
        ValueError: as there.
    """
    return _decoded(BytesIO(data), name, max_pixels, draft=False)


def _read(path: Path, max_pixels: int, draft: bool) -> Image.Image:
    if not path.is_file():
        raise FileNotFoundError(f"There is no picture {path}.")
    if path.stat().st_size > MAX_FILE_BYTES:
        raise ValueError(f"{path} has {path.stat().st_size:,} bytes; at most {MAX_FILE_BYTES:,} are read.")
    return _decoded(path, str(path), max_pixels, draft)


def _decoded(source: Path | BytesIO, name: str, max_pixels: int, draft: bool) -> Image.Image:
    from dsd.extractors import rgb  # torch comes with it, and names are listed without

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit below is stricter
            with Image.open(source, formats=FORMATS) as image:
                if image.width * image.height > max_pixels:
                    raise ValueError(
                        f"it is {image.width} x {image.height} px, and at most {max_pixels:,} pixels are "
                        "decoded. Make it smaller"
                    )
                if draft:
                    image.draft("RGB", _DRAFT)
                image.load()
                return rgb(image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"The picture {name} cannot be used: {error}.") from error
