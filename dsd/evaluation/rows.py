"""Pictures in rows, one row a character, kept in one file."""

from io import BytesIO
from pathlib import Path

from PIL import Image

from dsd import grids
from dsd.data.atomic import make_folder, replace_file
from dsd.opening import MAX_PIXELS, open_image

Rows = list[list[Image.Image]]
"""Pictures, one row a character."""


def save_rows(answers: Rows, path: Path) -> None:
    """All pictures in one, in one step and without loss, one row a character."""
    make_folder(path.parent)
    width, height = answers[0][0].size
    sheet = Image.new("RGB", (len(answers[0]) * width, len(answers) * height))
    for i, row in enumerate(answers):
        for j, image in enumerate(row):
            sheet.paste(image, (j * width, i * height))
    buffer = BytesIO()
    sheet.save(buffer, "PNG")
    replace_file(path, buffer.getvalue())


def load_rows(path: Path, rows: int, columns: int, panel_px: int = 64) -> Rows:
    """The pictures of a sheet.

    Raises:
        ValueError: if it is damaged, or has another size.
    """
    try:
        sheet = open_image(path, max_pixels=max(MAX_PIXELS, rows * columns * panel_px**2)).convert("RGB")
    except ValueError as error:
        raise ValueError(f"{error} Delete it, to have it drawn again.") from error
    if sheet.size != (columns * panel_px, rows * panel_px):
        raise ValueError(
            f"{path} is {sheet.width} x {sheet.height} px, not {rows} rows of {columns} pictures of "
            f"{panel_px} px. Delete it, to have it drawn again."
        )
    panels = grids.split(sheet, grids.Layout(rows=rows, columns=columns))
    return [panels[i * columns : (i + 1) * columns] for i in range(rows)]
