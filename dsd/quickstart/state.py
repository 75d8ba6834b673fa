"""What a quickstart remembers between calls: its arguments, and the time that every step took."""

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

from dsd import grids
from dsd.data.atomic import make_folder, replace_file

_FILE = "quickstart.json"
Rows = list[list[Image.Image]]
"""Pictures, one row a character."""


class State:
    """The file `quickstart.json` of a folder.

    Args:
        folder: of the quickstart.
        arguments: what it was called with.

    Attributes:
        seconds: by step, over all calls.
        train_s: how long to train; None until that is known.

    Raises:
        ValueError: if the folder was begun with other arguments.
    """

    def __init__(self, folder: Path, arguments: Mapping[str, Any]) -> None:
        self._path = folder / _FILE
        self.arguments = json.loads(json.dumps(arguments, default=_name))
        content = json.loads(self._path.read_text()) if self._path.is_file() else {}
        begun = content.get("arguments", self.arguments)
        changed = [key for key, value in self.arguments.items() if begun.get(key) != value]
        if changed:
            told = [f"{key} was {begun.get(key)!r}, now {self.arguments[key]!r}" for key in changed]
            raise ValueError(
                f"{folder} was begun with other arguments: {'; '.join(told)}. "
                "Give the same to go on, or another folder."
            )
        self.seconds: dict[str, float] = content.get("seconds", {})
        self.train_s: float | None = content.get("train_s")

    @contextmanager
    def step(self, name: str, *, anew: bool = False) -> Iterator[None]:
        """Count the time of a step, with that of earlier calls; `anew` if it does everything again."""
        started = time.monotonic()
        yield
        before = 0.0 if anew else self.seconds.get(name, 0.0)
        self.seconds[name] = before + time.monotonic() - started
        self.save()

    def save(self) -> None:
        """Write the file, in one step."""
        make_folder(self._path.parent)
        content = {"arguments": self.arguments, "seconds": self.seconds, "train_s": self.train_s}
        replace_file(self._path, (json.dumps(content, indent=1) + "\n").encode())


def _name(value: object) -> str:
    return getattr(value, "__qualname__", None) or str(value)


def save_sheet(answers: Rows, path: Path) -> None:
    """All pictures in one, without loss, one row a character."""
    make_folder(path.parent)
    sheet = Image.new("RGB", (sum(x.width for x in answers[0]), len(answers) * answers[0][0].height))
    for i, row in enumerate(answers):
        for j, image in enumerate(row):
            sheet.paste(image, (j * image.width, i * image.height))
    part = path.with_name(f"{path.name}.part")
    sheet.save(part, "PNG")
    part.replace(path)


def load_sheet(path: Path, columns: int, panel_px: int = 64) -> Rows:
    """The pictures of a sheet.

    Raises:
        ValueError: if it has another size.
    """
    sheet = Image.open(path).convert("RGB")
    if sheet.width != columns * panel_px:
        raise ValueError(
            f"{path} is {sheet.width} px wide, not {columns} pictures of {panel_px} px. "
            "Delete it, to have it drawn again."
        )
    rows = [sheet.crop((0, top, sheet.width, top + panel_px)) for top in range(0, sheet.height, panel_px)]
    return [grids.split(row, grids.Layout(rows=1, columns=columns)) for row in rows]
