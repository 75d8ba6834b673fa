"""The folder of a study: what it was asked, what it planned, and one folder for each of its cells.

study.json                  the question, its arguments, and what was planned before the first cell
cells/NAME/manifest.json    written last: a cell that has one is finished, and is never done again
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dsd.data.atomic import discard_folder, make_folder
from dsd.evaluation.page import write_json

_FILE = "study.json"
_MANIFEST = "manifest.json"


class Cell:
    """One run of a study, in a folder of its own.

    Args:
        path: its folder.
        spec: what it does; a finished cell of another spec is not taken for it.
    """

    def __init__(self, path: Path, spec: Mapping[str, Any]) -> None:
        self.path, self.spec = path, _plain(spec)

    @property
    def name(self) -> str:
        """The name of its folder."""
        return self.path.name

    @property
    def manifest(self) -> dict[str, Any] | None:
        """What the finished cell found, with its spec; None if it is not finished.

        Raises:
            ValueError: if the folder belongs to another spec, or the file is damaged.
        """
        file = self.path / _MANIFEST
        if not file.is_file():
            return None
        found = _read(file)
        if changed := _differences(found.get("spec", {}), self.spec):
            raise ValueError(
                f"{self.path} holds another cell: {changed}. Give another folder, or delete this one."
            )
        return found

    def begin(self) -> Path:
        """Its folder, made if need be."""
        make_folder(self.path)
        return self.path

    def finish(self, found: Mapping[str, Any]) -> dict[str, Any]:
        """Write the manifest, which makes it finished; returns it as `manifest` reads it."""
        write_json(self.path / _MANIFEST, {"spec": self.spec, **found})
        written = self.manifest
        assert written is not None
        return written


class StudyFolder:
    """The folder of one study.

    Args:
        path: the folder.
        question: which study it is.
        arguments: all that decides what comes out, apart from what only adds cells.

    Raises:
        ValueError: if the folder was begun with another question or other arguments.
    """

    def __init__(self, path: Path, question: str, arguments: Mapping[str, Any]) -> None:
        self.path, self.question, self.arguments = path, question, _plain(arguments)
        file = path / _FILE
        content = _read(file) if file.is_file() else {}
        begun = {"question": content.get("question", question), **content.get("arguments", self.arguments)}
        if changed := _differences(begun, {"question": question, **self.arguments}):
            raise ValueError(
                f"{path} was begun with other arguments: {changed}. Give the same to go on, or another "
                "folder."
            )
        self.plan: dict[str, Any] | None = content.get("plan")

    def keep(self, plan: Mapping[str, Any]) -> dict[str, Any]:
        """Keep what was planned, for this call and later ones."""
        self.plan = _plain(plan)
        make_folder(self.path)
        content = {"question": self.question, "arguments": self.arguments, "plan": self.plan}
        write_json(self.path / _FILE, content)
        return self.plan

    def cell(self, name: str, spec: Mapping[str, Any]) -> Cell:
        """The cell of that name; other than letters, digits, "-", "_" and "." become "-"."""
        return Cell(self.path / "cells" / slug(name), spec)

    def discard(self, cell: Cell) -> None:
        """Forget a cell, finished or not."""
        discard_folder(cell.path)


def slug(name: str) -> str:
    """A name as a file's name."""
    return re.sub(r"[^\w.-]+", "-", name).strip(".-") or "unnamed"


def _plain(value: Mapping[str, Any]) -> dict[str, Any]:
    """What JSON makes of it; classes and functions by their names."""
    plain: dict[str, Any] = json.loads(json.dumps(value, default=_name))
    return plain


def _name(value: object) -> str:
    return getattr(value, "__qualname__", None) or str(value)


def _read(file: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is damaged: {error}. Delete it, to have it done again.") from error
    return content


def _differences(begun: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    keys = [key for key in {**begun, **now} if begun.get(key) != now.get(key)]
    return "; ".join(f"{key} was {begun.get(key)!r}, now {now.get(key)!r}" for key in keys)
