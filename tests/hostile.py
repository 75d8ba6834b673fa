"""What strangers may send: pictures that claim more than they are, and words that are code somewhere."""

import io
import struct
import zlib

import numpy as np
from PIL import Image


def png_bomb(side=60_000):
    """A PNG of a hundred bytes whose head promises side x side pixels."""

    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(b"\0" * 99))
        + chunk(b"IEND", b"")
    )


def webp_bomb(side=16_383):
    """A WebP whose canvas is said to be side x side pixels."""
    whole = encoded("WEBP")
    vp8x = struct.pack("<I", 0) + (side - 1).to_bytes(3, "little") * 2
    body = b"WEBP" + b"VP8X" + struct.pack("<I", 10) + vp8x + whole[12:]
    return b"RIFF" + struct.pack("<I", len(body)) + body


def jpeg_bomb(side=60_000):
    """A JPEG whose frame is said to be side x side pixels."""
    data = bytearray(encoded("JPEG"))
    at = data.find(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", side, side)
    return bytes(data)


def bmp_bomb(side=60_000):
    """A BMP whose head promises side x side pixels."""
    data = bytearray(encoded("BMP"))
    data[18:26] = struct.pack("<ii", side, side)
    return bytes(data)


def tiff_bomb(side=60_000):
    """A TIFF whose tags promise side x side pixels."""
    data = encoded("TIFF")
    for tag in (256, 257):  # width, length: a long each
        at = data.find(struct.pack("<HH", tag, 4))
        at = data.find(struct.pack("<HH", tag, 3)) if at < 0 else at
        data = data[: at + 2] + struct.pack("<HII", 4, 1, side) + data[at + 12 :]
    return data


BOMBS = {"png": png_bomb, "webp": webp_bomb, "jpg": jpeg_bomb, "bmp": bmp_bomb, "tiff": tiff_bomb}

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 16 16\n%%EndComments\n(/tmp/owned) (w) file closefile\n%%EOF\n"
"""A program that Pillow would hand to Ghostscript."""


def encoded(kind, size=(16, 16)):
    """A small picture of noise as a file."""
    buffer = io.BytesIO()
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(buffer, kind)
    return buffer.getvalue()
