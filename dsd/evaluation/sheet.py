"""References beside a method's answers as one picture, for pages that take pictures only (a README)."""

from collections.abc import Sequence
from io import BytesIO
from os import PathLike
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from dsd.data.atomic import make_folder, replace_file
from dsd.evaluation.small_world import Answers, HeldOut

_PAPER, _INK, _MUTED = "#f8f6f1", "#23211d", "#6b655b"
_MARGIN, _GAP, _LINE = 24, 8, 22
_APART = 40  # between the columns of characters


def answers_sheet(
    cases: Sequence[HeldOut],
    answers: Answers,
    *,
    characters: int = 6,
    columns: int = 2,
    side_px: int = 128,
) -> Image.Image:
    """The first characters: the reference, framed, then what was drawn of it, with the caption's subject
    above and the scenes asked for below.

    Args:
        cases: from `held_out`.
        answers: one picture for each scene of each case.
        characters: how many of them to show, from the first on.
        columns: how many of them stand side by side.
        side_px: of each picture.

    Raises:
        ValueError: if there is no character to show, or a number is below 1.
    """
    cases, answers = cases[:characters], answers[:characters]
    if min(characters, columns, side_px, len(cases)) < 1 or len(cases) != len(answers):
        raise ValueError(
            f"Got {len(cases)} characters with {len(answers)} rows of answers, {columns} columns and "
            f"{side_px} px. There must be at least one of each, and one row a character."
        )
    font = ImageFont.load_default(15)
    width = (1 + len(cases[0].scenes)) * (side_px + _GAP) + _GAP
    height = side_px + 2 * _LINE + 2 * _GAP
    rows = -(-len(cases) // columns)
    across = min(columns, len(cases)) * (width + _APART) - _APART
    sheet = Image.new("RGB", (2 * _MARGIN + across, 2 * _MARGIN + rows * (height + _GAP) - _GAP), _PAPER)
    for i, (case, drawn) in enumerate(zip(cases, answers, strict=True)):
        left = _MARGIN + (i % columns) * (width + _APART)
        top = _MARGIN + (i // columns) * (height + _GAP)
        _row(sheet, font, case, drawn, (left, top), side_px)
    return sheet


def write_answers(
    path: str | PathLike[str], cases: Sequence[HeldOut], answers: Answers, **layout: int
) -> Path:
    """Write `answers_sheet` as a PNG file, in one step; returns the file.

    Args:
        path: the file; its folder is created.
        cases: from `held_out`.
        answers: one picture for each scene of each case.
        layout: further arguments of `answers_sheet`.
    """
    file, buffer = Path(path), BytesIO()
    answers_sheet(cases, answers, **layout).save(buffer, "PNG", optimize=True)
    make_folder(file.parent)
    replace_file(file, buffer.getvalue())
    return file


def _row(
    sheet: Image.Image,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    case: HeldOut,
    drawn: Sequence[Image.Image],
    corner: tuple[int, int],
    side_px: int,
) -> None:
    draw, (left, top) = ImageDraw.Draw(sheet), corner
    draw.text((left, top), case.captions[0].rsplit(",", 1)[0], _INK, font)
    top += _LINE + 2
    below = top + side_px + 4
    draw.rectangle((left - 4, top - 4, left + side_px + 3, top + side_px + 3), outline=_INK, width=2)
    for number, (image, label) in enumerate(
        zip([case.reference, *drawn], ["reference", *case.scenes], strict=True)
    ):
        place = left + number * (side_px + _GAP) + (_GAP if number else 0)
        sheet.paste(image.convert("RGB").resize((side_px, side_px), Image.Resampling.LANCZOS), (place, top))
        draw.text((place, below + (2 if number == 0 else 0)), label, _MUTED if number else _INK, font)
