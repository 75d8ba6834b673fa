"""The layout of Subjects200K: Parquet, both pictures side by side in `image`, a text for each in
`description`, ratings from 0 to 5 in `quality_assessment`.

A row is two pairs, one in each direction; a direction whose text is null, while the other's is not, is none.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from dsd.exchange import parquet_files
from dsd.exchange.foreign import Found, Options, Refused, picture, text
from dsd.types import Pair, Verdict

COLUMNS = ("image", "collection", "quality_assessment", "description")
RATINGS = ("compositeStructure", "objectConsistency", "imageQuality")
CURATOR = "quality_assessment"


def read(source: Path, options: Options) -> Iterator[Found | Refused]:
    """See `Reader`.

    Raises:
        ValueError: if there is no column `image`, or a file is damaged.
    """
    files = parquet_files.find(source, ".parquet")
    for path in files:
        if "image" not in (there := parquet_files.names(path)):
            raise ValueError(f"{path} has no column 'image'; it has {', '.join(map(repr, there[:20]))}.")
    for where, values in parquet_files.rows(files, COLUMNS, source):
        try:
            yield from _pairs(where, values(), options)
        except ValueError as error:
            yield Refused(where=where, reason=str(error))


def _pairs(where: str, row: Mapping[str, Any], options: Options) -> list[Found]:
    panels = split(picture(row["image"], "image"), options.padding)
    about = row.get("description") or {}
    verdict = _verdict(row.get("quality_assessment"), options.min_quality)
    texts = [text(about.get(f"description_{i}"), "description", default="\0") for i in (0, 1)]
    found = []
    for reference, target in ((0, 1), (1, 0)):
        if texts[target] == "\0" and texts[reference] != "\0":
            continue
        pair = Pair(
            reference=panels[reference],
            target=panels[target],
            caption=texts[target].replace("\0", ""),
            subject=text(about.get("item"), "item"),
            kind=text(about.get("category"), "category", default="object"),
            grid_id=f"{options.name}: {where}",
            reference_panel=reference,
            target_panel=target,
            source=text(row.get("collection"), "collection", default=options.name),
        )
        verdicts = {} if verdict is None else {CURATOR: verdict}
        found.append(Found(where=f"{where}, {reference} to {target}", pair=pair, verdicts=verdicts))
    return found


def split(image: Image.Image, padding: int | None) -> tuple[Image.Image, Image.Image]:
    """The two pictures.

    Args:
        image: both beside each other, with so many pixels around them and between them.
        padding: those pixels; None for square pictures, of which the sizes tell.

    Raises:
        ValueError: if the sizes do not fit.
    """
    width, height = image.size
    border = 2 * height - width if padding is None else padding
    if padding is None and not 0 <= border < height / 2:
        raise ValueError(
            f"A picture of {width} x {height} px is no two squares beside each other. Give `padding`, the "
            "pixels around and between its two pictures."
        )
    panel_height = height - 2 * border
    panel_width = (width - 3 * border) // 2
    if panel_height > 0 and 2 * border <= width - 2 * panel_height <= 4 * border:
        panel_width = panel_height  # squares; the border at the right may be wider or missing
    if min(panel_width, panel_height) < 1:
        raise ValueError(f"A picture of {width} x {height} px has no room for a padding of {border} px.")
    lefts = (border, 2 * border + panel_width)
    left, right = (image.crop((x, border, x + panel_width, border + panel_height)) for x in lefts)
    return left, right


def joined(left: Image.Image, right: Image.Image, padding: int) -> Image.Image:
    """The reverse of `split`, on white.

    Raises:
        ValueError: if they differ in size or mode.
    """
    if left.size != right.size or left.mode != right.mode:
        raise ValueError(
            f"Its pictures differ: {left.width} x {left.height} px of mode {left.mode!r}, {right.width} x "
            f"{right.height} px of mode {right.mode!r}. They cannot stand side by side."
        )
    size = (2 * left.width + 3 * padding, left.height + 2 * padding)
    page = Image.new(left.mode, size, "white" if left.mode in ("RGB", "RGBA") else 0)
    page.paste(left, (padding, padding))
    page.paste(right, (2 * padding + left.width, padding))
    return page


def _verdict(ratings: Any, min_quality: int) -> Verdict | None:
    """The ratings as a verdict: accepted if all reach the minimum, as the data set's own filter has it."""
    if ratings is None:
        return None
    values = {name: ratings.get(name) for name in RATINGS}
    if all(value is None for value in values.values()):
        return None
    if not all(type(value) is int and 0 <= value <= 5 for value in values.values()):
        raise ValueError(f"The ratings are not three whole numbers from 0 to 5: {str(values)[:120]}.")
    said = ", ".join(f"{name} {value}" for name, value in values.items())
    lowest = min(values.values())
    return Verdict(keep=lowest >= min_quality, score=lowest / 5, reason=said, raw=json.dumps(values))
