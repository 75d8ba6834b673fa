"""Cases that a rubric tells the judge beforehand, with their scores: in words, or with pictures."""

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from io import BytesIO
from os import PathLike
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from dsd import opening

READABLE = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV")
"""Modes of pictures whose range is known."""

MOST_WITH_PICTURES = 8
"""Examples of a rubric that have pictures: all are sent, and paid for, with every case."""

MAX_PICTURE_BYTES = 8 * 2**20
_MAX_PIXELS = 50_000_000
_DATA_URL = "data:;base64,"
_SIDES = ("reference", "generated")


@dataclass(frozen=True, kw_only=True)
class Example:
    """A case and its score.

    Attributes:
        case: what the pictures show, in words; may be empty where there are pictures.
        score: on the rubric's scale.
        why: the reason.
        reference: the picture of the subject: a file, an image, or the content of a file, as which it is
            kept; None for none.
        generated: the generated picture, likewise; None for an example in words alone.
        prompt: what was to be drawn; only beside pictures.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if a picture is damaged or too large, its range is not known, or there is neither a
            generated picture nor a text.
    """

    case: str = ""
    score: int
    why: str = ""
    reference: Any = field(default=None, repr=False)
    generated: Any = field(default=None, repr=False)
    prompt: str = ""

    def __post_init__(self) -> None:
        for name in ("case", "why", "prompt"):
            if not isinstance(getattr(self, name), str):
                raise ValueError(f"`{name}` of an example is a text; got {getattr(self, name)!r}.")
        for side in _SIDES:
            given = getattr(self, side)
            if given is not None:
                object.__setattr__(self, side, _content(given, f"of an example ({side})"))
        if self.generated is None and (self.reference is not None or self.prompt):
            raise ValueError("An example with a reference or a prompt needs its `generated` picture.")
        if self.generated is None and not self.case.strip():
            raise ValueError("An example needs a `case` in words, or pictures.")

    @property
    def has_pictures(self) -> bool:
        """Whether it is shown, and not only told."""
        return self.generated is not None

    def image(self, side: str) -> Image.Image:
        """The "reference" or the "generated" picture, upright."""
        content = getattr(self, side)
        assert isinstance(content, bytes), "the rubric was found fit"
        image = opening.decode_image(content, f"of an example ({side})", _MAX_PIXELS)
        return ImageOps.exif_transpose(image) if image.getexif() else image

    def as_dict(self) -> dict[str, Any]:
        """Its parts in JSON's own types, pictures as data URLs: what `example_of` takes."""
        plain: dict[str, Any] = {"case": self.case, "score": self.score, "why": self.why}
        for side in _SIDES:
            content = getattr(self, side)
            if content is not None:
                plain[side] = _DATA_URL + base64.b64encode(content).decode()
        return plain | ({"prompt": self.prompt} if self.prompt else {})


def example_of(given: Any, folder: Path | None = None) -> Example:
    """An example from what a file or a mapping says.

    Args:
        given: its parts.
        folder: that the pictures must be in, if they come from a rubric's file: one that was passed on is
            not to send other pictures of a machine to a provider.

    Raises:
        FileNotFoundError, ValueError: as `Example`, and if there are other parts.
    """
    if isinstance(given, Example):
        return given
    known = [f.name for f in fields(Example)]
    if not isinstance(given, Mapping) or "score" not in given or not set(given) <= set(known):
        raise ValueError(
            "An example is {case: ..., score: ..., why: ...}, and with pictures {reference: FILE, generated: "
            f"FILE, prompt: ...}} beside; got {_short(given)}."
        )
    parts = dict(given)
    for side in _SIDES:
        name = parts.get(side)
        if not isinstance(name, str) or folder is None or name.startswith("data:"):
            continue
        if not opening.is_inside(folder, name):
            raise ValueError(f"The picture {name!r} of an example leads out of the folder of the rubric.")
        parts[side] = folder / name
    return Example(**parts)


def check_examples(examples: Sequence[Example], shows: Sequence[str]) -> None:
    """Whether examples show what the rubric shows.

    Raises:
        ValueError: if not, or if there are too many with pictures.
    """
    shown = [example for example in examples if example.has_pictures]
    if len(shown) > MOST_WITH_PICTURES:
        raise ValueError(
            f"{len(shown)} examples have pictures; at most {MOST_WITH_PICTURES} may, since all are sent with "
            "every case."
        )
    for example in shown:
        for part, there in (("reference", example.reference is not None), ("prompt", bool(example.prompt))):
            if there != (part in shows):
                raise ValueError(
                    f"An example with pictures {'has a' if there else 'lacks the'} {part}, and the rubric "
                    f"shows {', '.join(shows)}. Examples show the same."
                )


def _content(given: Any, name: str) -> bytes:
    """The content of a picture's file, which can be read."""
    if isinstance(given, Image.Image):
        buffer = BytesIO()
        given.save(buffer, format="PNG")
        content = buffer.getvalue()
    elif isinstance(given, bytes):
        content = given
    elif isinstance(given, str) and given.startswith("data:"):
        try:
            content = base64.b64decode(given.partition(",")[2], validate=True)
        except binascii.Error as error:
            raise ValueError(f"The picture {name} is no data URL in base64: {error}.") from error
    elif isinstance(given, str | PathLike):
        path = Path(given).expanduser()
        if not opening.is_file(path):
            raise FileNotFoundError(f"There is no picture {str(path)[:1000]} {name}.")
        size = path.stat().st_size
        content = path.read_bytes() if size <= MAX_PICTURE_BYTES else bytes(MAX_PICTURE_BYTES + 1)
    else:
        raise ValueError(f"The picture {name} is a file or an image; got {_short(given)}.")
    if len(content) > MAX_PICTURE_BYTES:
        raise ValueError(f"The picture {name} has more than {MAX_PICTURE_BYTES:,} bytes. Make it smaller.")
    mode = opening.decode_image(content, name, _MAX_PIXELS).mode
    if mode not in READABLE:
        raise ValueError(
            f"The picture {name} has pixels of the mode {mode!r}, whose range is not known. Bring them to 8 "
            "bits, such as mode 'RGB', first."
        )
    return content


def _short(given: Any) -> str:
    return repr(given)[:200]
