"""Many pictures on one sheet, each with what it was drawn from."""

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

_PAPER, _INK, _MUTED = "#f8f6f1", "#23211d", "#6b655b"
_MARGIN, _GAP, _LINE = 16, 6, 17
_MAX_LINES = 12
_MAX_LETTERS = 4096  # of a line: no sheet has room for more

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
Row = tuple[Sequence[str], Sequence[Image.Image]]
"""The lines that say what a row is of, and its pictures."""


def contact_sheet(
    blocks: Sequence[tuple[Image.Image, str, Sequence[Row]]], heads: Sequence[str], side_px: int | None = None
) -> Image.Image:
    """A block for each reference, with the reference on the left; a row for each of its prompts and settings,
    with its words; a column for each head.

    Args:
        blocks: reference, its name, and its rows.
        heads: of the columns, as many as each row has pictures.
        side_px: of the longer side of each picture; None for its own size, at least 96 px and at most 256 px.

    Raises:
        ValueError: if there is nothing to show, or a row has more or fewer pictures than there are heads.
    """
    rows = [row for _, _, found in blocks for row in found]
    if not rows or not heads or any(len(pictures) != len(heads) for _, pictures in rows):
        raise ValueError(f"Each row needs a picture for each of {len(heads)} columns; got {len(rows)} rows.")
    own = rows[0][1][0].size
    scale = (side_px or min(256, max(96, *own))) / max(own)
    width, height = (max(1, round(side * scale)) for side in own)
    font = ImageFont.load_default(13)
    words = max(120, min(240, 2 * width))
    said = [[line for text in texts for line in wrapped(text, font, words)][:_MAX_LINES] for texts, _ in rows]
    heights = [max(height, _LINE * len(lines)) for lines in said]
    left = _MARGIN + width + _GAP
    pictures_left = left + words + 2 * _GAP
    page = Image.new(
        "RGB",
        (
            pictures_left + len(heads) * (width + _GAP) - _GAP + _MARGIN,
            2 * _MARGIN + _LINE + sum(heights) + _GAP * len(rows) + (_LINE + _MARGIN) * len(blocks),
        ),
        _PAPER,
    )
    draw = ImageDraw.Draw(page)
    for column, head in enumerate(heads):
        place = pictures_left + column * (width + _GAP)
        draw.text((place, _MARGIN), shortened(head, font, width), _MUTED, font)
    top, number = _MARGIN + _LINE + 2, 0
    for reference, name, found in blocks:
        draw.rectangle((_MARGIN - 3, top - 3, _MARGIN + width + 2, top + height + 2), outline=_INK, width=2)
        page.paste(_sized(reference, width, height), (_MARGIN, top))
        draw.text((_MARGIN, top + height + 5), shortened(name, font, width), _INK, font)
        for _, pictures in found:
            for line, text in enumerate(said[number]):
                draw.text((left + _GAP, top + line * _LINE), text, _INK, font)
            for column, picture in enumerate(pictures):
                page.paste(_sized(picture, width, height), (pictures_left + column * (width + _GAP), top))
            top += heights[number] + _GAP
            number += 1
        top += _LINE + _MARGIN
    return page


def wrapped(text: str, font: Font, width: int) -> list[str]:
    """A text in lines of at most so many pixels; a longer word is cut."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(shortened(word, font, width))
        else:
            lines[-1] = longer if lines[-1] else shortened(word, font, width)
    return lines


def shortened(text: str, font: Font, width: int) -> str:
    """A text in one line of at most so many pixels."""
    if len(text) <= _MAX_LETTERS and font.getlength(text) <= width:
        return text
    # By halves, for words may come from strangers: letter by letter would take minutes for a long one.
    fits, too_many = 0, min(len(text), _MAX_LETTERS) + 1
    while too_many - fits > 1:
        middle = (fits + too_many) // 2
        fits, too_many = (
            (middle, too_many) if font.getlength(f"{text[:middle]}...") <= width else (fits, middle)
        )
    return f"{text[:fits]}..."


def _sized(picture: Image.Image, width: int, height: int) -> Image.Image:
    picture = picture.convert("RGB")
    return (
        picture
        if picture.size == (width, height)
        else picture.resize((width, height), Image.Resampling.LANCZOS)
    )
