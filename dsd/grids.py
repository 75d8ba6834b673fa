"""Grids of panels: how panels are laid out in one picture, put together and cut apart."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

_LAYOUT = re.compile(r"([1-9]\d?)x([1-9]\d?)")


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Rows x columns of equal panels; panels are counted row by row, from the upper left."""

    rows: int
    columns: int

    def __post_init__(self) -> None:
        if self.rows < 1 or self.columns < 1:
            raise ValueError(
                f"A layout needs at least 1 row and 1 column; got {self.rows} and {self.columns}."
            )

    @classmethod
    def parse(cls, text: "str | Layout") -> "Layout":
        """Read "2x3" as 2 rows of 3 columns; a `Layout` is returned as it is.

        Raises:
            ValueError: if the text is anything else, or has more than 99 rows or columns.
        """
        if isinstance(text, Layout):
            return text
        match = _LAYOUT.fullmatch(text)
        if match is None:
            raise ValueError(
                f"{text!r} is not a layout. Write rows x columns, such as '2x2', '1x4' or '3x2'."
            )
        return cls(rows=int(match[1]), columns=int(match[2]))

    @property
    def num_panels(self) -> int:
        """How many panels a grid of this layout has."""
        return self.rows * self.columns

    def __str__(self) -> str:
        return f"{self.rows}x{self.columns}"


def split(image: Image.Image, layout: str | Layout) -> list[Image.Image]:
    """Cut a grid into its panels, row by row. The panels are copies, in the image's mode.

    >>> [panel.size for panel in split(Image.new("RGB", (96, 64)), "2x3")]
    [(32, 32), (32, 32), (32, 32), (32, 32), (32, 32), (32, 32)]

    Raises:
        ValueError: if the image does not divide into equal panels of whole pixels.
    """
    layout = Layout.parse(layout)
    if image.width % layout.columns or image.height % layout.rows:
        raise ValueError(
            f"A {image.width} x {image.height} px grid does not divide into {layout.columns} columns and "
            f"{layout.rows} rows. Crop it first, or check the teacher's `layout`."
        )
    width, height = image.width // layout.columns, image.height // layout.rows
    corners = [
        (column * width, row * height) for row in range(layout.rows) for column in range(layout.columns)
    ]
    return [image.crop((left, top, left + width, top + height)) for left, top in corners]


def compose(panels: Sequence[Image.Image], layout: str | Layout) -> Image.Image:
    """Put panels together into one grid, row by row; `split` undoes it.

    Raises:
        ValueError: if the number of panels is not the layout's, or they differ in size or mode.
    """
    layout = Layout.parse(layout)
    if len(panels) != layout.num_panels:
        raise ValueError(f"A {layout} grid takes {layout.num_panels} panels; got {len(panels)}.")
    kinds = sorted({f"{panel.width} x {panel.height} px {panel.mode}" for panel in panels})
    if len(kinds) > 1:
        raise ValueError(
            f"The panels of a grid need one size and mode; got {', '.join(kinds)}. Resize or convert them."
        )
    width, height = panels[0].size
    grid = Image.new(panels[0].mode, (layout.columns * width, layout.rows * height))
    for index, panel in enumerate(panels):
        row, column = divmod(index, layout.columns)
        grid.paste(panel, (column * width, row * height))
    return grid
