"""A sheet of pairs to look at: reference beside target, the caption and the verdicts beneath."""

from collections.abc import Mapping, Sequence

from PIL import Image, ImageDraw, ImageFont

from dsd.contact import shortened, wrapped
from dsd.types import Pair

_PAPER, _INK, _MUTED = "#f8f6f1", "#23211d", "#6b655b"
_SIDE, _GAP, _MARGIN, _LINE = 168, 6, 20, 16
_COLUMNS, _LINES, _HEAD = 3, 3, 22
_LETTERS = 1000  # of a caption: more than three lines hold


def pair_sheet(pairs: Sequence[tuple[Pair, Mapping[str, str]]]) -> Image.Image:
    """Pairs in three columns.

    Args:
        pairs: each with the status that each curator gave it.

    Raises:
        ValueError: if there are none.
    """
    if not pairs:
        raise ValueError("There is no pair to show.")
    font = ImageFont.load_default(13)
    cell = 2 * _SIDE + _GAP
    height = _SIDE + _GAP + (_LINES + 1) * _LINE + _MARGIN
    columns = min(_COLUMNS, len(pairs))
    rows = -(-len(pairs) // columns)
    size = (_MARGIN + columns * (cell + _MARGIN), _MARGIN + _HEAD + rows * height)
    page = Image.new("RGB", size, _PAPER)
    draw = ImageDraw.Draw(page)
    for column in range(columns):
        for i, head in enumerate(("reference", "target")):
            place = (_MARGIN + column * (cell + _MARGIN) + i * (_SIDE + _GAP), _MARGIN)
            draw.text(place, head, _MUTED, font)
    for number, (pair, statuses) in enumerate(pairs):
        left = _MARGIN + number % columns * (cell + _MARGIN)
        top = _MARGIN + _HEAD + number // columns * height
        for i, picture in enumerate((pair.reference, pair.target)):
            shown = _fitted(picture)
            corner = left + i * (_SIDE + _GAP) + (_SIDE - shown.width) // 2, top + (_SIDE - shown.height) // 2
            page.paste(shown, corner)
        top += _SIDE + _GAP
        lines = wrapped(_plain(pair.caption[:_LETTERS]) or "(no caption)", font, cell)
        if len(lines) > _LINES:
            lines = [*lines[: _LINES - 1], shortened(f"{lines[_LINES - 1]} ...", font, cell)]
        for line, text in enumerate(lines):
            draw.text((left, top + line * _LINE), text, _INK, font)
        said = ", ".join(f"{name}: {status}" for name, status in statuses.items())
        draw.text((left, top + _LINES * _LINE), shortened(_plain(said), font, cell), _MUTED, font)
    return page


def _fitted(picture: Image.Image) -> Image.Image:
    """The picture within the square, small ones enlarged."""
    picture = picture.convert("RGB")
    scale = _SIDE / max(picture.size)
    size = tuple(max(1, round(side * scale)) for side in picture.size)
    return picture.resize((size[0], size[1]), Image.Resampling.LANCZOS)


def _plain(text: str) -> str:
    return "".join(letter if letter.isprintable() else " " for letter in text)
