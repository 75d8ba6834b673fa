"""What a quickstart remembers between calls: its arguments, and the time that every step took."""

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dsd.data.atomic import make_folder, replace_file

_FILE = "quickstart.json"


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
        begun, now = _flat(content.get("arguments", self.arguments)), _flat(self.arguments)
        if changed := [key for key in {**begun, **now} if begun.get(key) != now.get(key)]:
            told = [f"{key} was {begun.get(key)!r}, now {now.get(key)!r}" for key in changed]
            raise ValueError(
                f"{folder} was begun with other arguments: {'; '.join(told)}. "
                "Give the same to go on, or another folder."
            )
        self.seconds: dict[str, float] = content.get("seconds", {})
        self.train_s: float | None = content.get("train_s")

    @contextmanager
    def step(self, name: str, *, anew: bool = False) -> Iterator[None]:
        """Count the time of a step, also of one that is stopped, with that of earlier calls; `anew` if it
        does everything again.
        """
        before, started = 0.0 if anew else self.seconds.get(name, 0.0), time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = before + time.monotonic() - started
            self.save()

    def save(self) -> None:
        """Write the file, in one step."""
        make_folder(self._path.parent)
        content = {"arguments": self.arguments, "seconds": self.seconds, "train_s": self.train_s}
        replace_file(self._path, (json.dumps(content, indent=1) + "\n").encode())


def _name(value: object) -> str:
    return getattr(value, "__qualname__", None) or str(value)


def _flat(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments, with the recipe's fields beside the others."""
    return {**arguments, **(arguments.get("recipe") or {}), "recipe": None}
