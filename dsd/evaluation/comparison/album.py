"""The pictures that a method drew, one file each: what is there was drawn, what is not was not."""

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image, PngImagePlugin

from dsd.data.atomic import explained, make_folder, replace_file
from dsd.evaluation.methods.base import Drawing, Job, Method
from dsd.opening import open_image, opened

_FIELD = "dsd"
_STATED = ("status", "reason", "seconds", "cost_usd", "model")
_MAX_REASON = 2000


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """What is known of a picture without looking at it; see `Drawing`."""

    status: str
    reason: str = ""
    seconds: float | None = None
    cost_usd: float | None = None
    model: str = ""


class Album:
    """One method's pictures in a folder. What is known of each stands in its own file, so that no moment of
    a crash can part the two.

    Args:
        folder: for the pictures; made at the first one.
        method: who drew them; asked again for pictures that it does not keep.
    """

    def __init__(self, folder: Path, method: Method) -> None:
        self._folder, self._method = folder, method
        self._known: dict[str, Drawn] = {}
        if folder.is_dir() and method.kept:
            self._known = {
                file.stem: _read(file) for file in folder.iterdir() if file.suffix in (".png", ".json")
            }

    def settled(self, job: Job) -> bool:
        """Whether it needs not be drawn: it was, or a provider would not."""
        found = self._known.get(_file_name(job.key))
        return found is not None and found.status in ("drawn", "refused")

    def put(self, job: Job, drawing: Drawing) -> None:
        """Keep what came of a job.

        Raises:
            OSError: explained, if the disk does not take it.
        """
        name = _file_name(job.key)
        facts = {key: getattr(drawing, key) for key in _STATED} | {"key": job.key, "seed": job.seed}
        facts["reason"] = drawing.reason[:_MAX_REASON]
        self._known[name] = Drawn(**{key: facts[key] for key in _STATED})
        if not self._method.kept:
            return
        make_folder(self._folder)
        if drawing.image is None:
            replace_file(self._folder / f"{name}.json", json.dumps(facts).encode())
            return
        about, buffer = PngImagePlugin.PngInfo(), BytesIO()
        about.add_text(_FIELD, json.dumps(facts))
        drawing.image.convert("RGB").save(buffer, "PNG", pnginfo=about)
        replace_file(self._folder / f"{name}.png", buffer.getvalue())
        with explained(self._folder):
            (self._folder / f"{name}.json").unlink(missing_ok=True)

    def drawn(self, job: Job) -> Drawn:
        """What is known of a picture; "missing" if nothing is."""
        return self._known.get(_file_name(job.key), Drawn(status="missing", reason="It was not drawn yet."))

    def images(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, Image.Image]]:
        """The pictures of those jobs that have one.

        Raises:
            ValueError: if a file is damaged.
        """
        there = [job for job in jobs if self.drawn(job).status == "drawn"]
        if not self._method.kept:
            for job, drawing in self._method.draw_all(there):
                if drawing.image is not None:
                    yield job, drawing.image.convert("RGB")
            return
        for job in there:
            yield job, _opened(self._folder / f"{_file_name(job.key)}.png")


def _file_name(key: str) -> str:
    """A name that any file system takes, different for different keys."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", key)[:80].strip(".-")
    digest = hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()[:10]
    return f"{plain}.{digest}"


def _read(file: Path) -> Drawn:
    try:
        if file.suffix == ".json":
            facts: dict[str, Any] = json.loads(file.read_text())
        else:
            with opened(file) as image:
                facts = json.loads(image.info[_FIELD])
        return Drawn(**{key: facts[key] for key in _STATED})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{file} is damaged, or no picture of this command: {error}. Delete it, to have it drawn again."
        ) from error


def _opened(file: Path) -> Image.Image:
    try:
        return open_image(file).convert("RGB")
    except (OSError, ValueError) as error:
        raise ValueError(f"{error} Delete it, to have it drawn again.") from error
