"""The same references by several methods as one picture, for pages that take pictures only."""

from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from dsd.contact import wrapped
from dsd.data.atomic import make_folder, replace_file
from dsd.evaluation.small_world import Answers, HeldOut

_PAPER, _INK = "#f8f6f1", "#23211d"
_GAP, _MARGIN, _NAME = 6, 20, 130


def write_sheet(
    path: Path,
    cases: Sequence[HeldOut],
    answers: Mapping[str, Answers],
    *,
    characters: int = 4,
    side_px: int = 96,
) -> Path:
    """Write a PNG file: a block a character, in it a row a method; the reference, framed, on the left.

    Args:
        path: the file; its folder is created.
        cases: from `held_out`.
        answers: by method, one picture for each scene of each case.
        characters: how many of them to show, from the first on.
        side_px: of each picture.
    """
    cases = cases[:characters]
    font = ImageFont.load_default(14)
    step, scenes = side_px + _GAP, len(cases[0].scenes)
    width = 2 * _MARGIN + step + _NAME + scenes * step
    block = len(answers) * step + 3 * _MARGIN
    sheet = Image.new("RGB", (width, block * len(cases) + _MARGIN), _PAPER)
    pen = ImageDraw.Draw(sheet)
    for number, case in enumerate(cases):
        top = _MARGIN + number * block
        pen.text((_MARGIN, top), case.captions[0].rsplit(",", 1)[0], _INK, font)
        left = _MARGIN + step + _NAME
        top += 2 * _MARGIN
        for j, scene in enumerate(case.scenes):
            pen.text((left + j * step, top - _MARGIN), scene, _INK, font)
        pen.rectangle((_MARGIN - 3, top - 3, _MARGIN + side_px + 2, top + side_px + 2), outline=_INK, width=2)
        _place(sheet, case.reference, _MARGIN, top, side_px)
        for row, (name, drawn) in enumerate(answers.items()):
            y = top + row * step
            label = "\n".join(wrapped(name.replace("_", " "), font, _NAME - 16))
            pen.text((_MARGIN + step + 8, y + side_px / 2), label, _INK, font, anchor="lm")
            for j, image in enumerate(drawn[number]):
                _place(sheet, image, left + j * step, y, side_px)
    buffer = BytesIO()
    sheet.save(buffer, "PNG", optimize=True)
    make_folder(path.parent)
    replace_file(path, buffer.getvalue())
    return path


def _place(sheet: Image.Image, image: Image.Image, x: int, y: int, side_px: int) -> None:
    sheet.paste(image.convert("RGB").resize((side_px, side_px), Image.Resampling.LANCZOS), (x, y))
