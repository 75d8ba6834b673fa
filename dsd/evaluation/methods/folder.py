"""Pictures that were made elsewhere, so that anybody's method is scored without its code."""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal

from PIL import Image

from dsd.evaluation.benchmarks.base import folder_of, text_of
from dsd.evaluation.benchmarks.pictures import ENDINGS, open_picture
from dsd.evaluation.methods.base import Drawing, Job, Method

INDEX = "images.jsonl"
Layout = Literal["auto", "index", "keys", "dreambench++"]
_NUMBERED = re.compile(r"(\d+)(?:_(\d+))?")
_MAX_BYTES = 256 * 2**20

Key = tuple[str, int]


class FolderMethod(Method):
    """Finds the pictures of a benchmark in a folder, in one of three layouts.

    - "index": `images.jsonl`, one object a line: `key` (of the case), `image` (a path within the folder) and,
      if there are several a case, `index` from 0.
    - "keys": files called by the case's key, `<key>.png` or `<key>_0.png`, and `<key>_1.png`, ... for more.
    - "dreambench++": what its authors' scripts write, `tgt_image/<collection>/<prompt>_<index>.jpg`.

    Args:
        path: the folder.
        layout: which; "auto" takes the index if it is there, then `tgt_image`, then the keys.
        label: what made the pictures, for reports.
        seconds_per_image: as their maker says; None if unknown.
        tuning_s_per_subject: seconds of tuning for each subject, as their maker says; 0 for a zero-shot
            method, None if unknown.

    Raises:
        FileNotFoundError: if there is no such folder, or it lacks the layout's index.
        ValueError: if two files are one picture, the index cannot be read, or a number is below 0.
    """

    about = "pictures made elsewhere"
    batch_size = 8
    timed = False

    def __init__(
        self,
        path: str | Path,
        layout: Layout = "auto",
        label: str = "",
        seconds_per_image: float | None = None,
        tuning_s_per_subject: float | None = None,
    ) -> None:
        for name, value in {
            "seconds_per_image": seconds_per_image,
            "tuning_s_per_subject": tuning_s_per_subject,
        }.items():
            if value is not None and value < 0:
                raise ValueError(f"`{name}` must be at least 0; got {value}.")
        self.path = folder_of(path, "pictures made elsewhere")
        self._label, self._seconds, self._tuning_s = label, seconds_per_image, tuning_s_per_subject
        self._files = self._found(layout)

    @property
    def model(self) -> str:
        """What made the pictures."""
        return self._label or self.path.name

    def use_spellings(self, canonical: Callable[[str], str]) -> None:
        """Let keys of the folder be spelt as a benchmark's authors spell them.

        Args:
            canonical: from a key in the folder to the benchmark's; `ValueError` for what is none.
        """
        respelt: dict[Key, Path] = {}
        for (key, index), file in self._files.items():
            try:
                known = canonical(key)
            except ValueError:
                known = key
            _add(respelt, (known, index), file)
        self._files = respelt

    def draw(self, jobs: Sequence[Job]) -> list[Drawing]:
        """The picture of each job, or that it is missing or damaged."""
        return [self._picture(job) for job in jobs]

    def tuning_seconds(self) -> float | None:
        """As the pictures' maker says."""
        return self._tuning_s

    def _picture(self, job: Job) -> Drawing:
        file = self._files.get((job.case.key, job.index))
        if file is None:
            reason = f"{self.path} has no picture number {job.index} of {job.case.key!r}."
            return Drawing(status="missing", reason=reason, model=self.model)
        try:
            image: Image.Image = open_picture(file)
        except (ValueError, FileNotFoundError) as error:
            return Drawing(status="failed", reason=str(error), model=self.model)
        return Drawing(image=image, seconds=self._seconds, model=self.model)

    def _found(self, layout: Layout) -> dict[Key, Path]:
        chosen = layout
        if layout == "auto":
            chosen = "index" if (self.path / INDEX).is_file() else "keys"
            chosen = "dreambench++" if (self.path / "tgt_image").is_dir() else chosen
        readers = {"index": self._by_index, "keys": self._by_keys, "dreambench++": self._by_collections}
        if chosen not in readers:
            raise ValueError(f"Unknown layout {layout!r}. Allowed: auto, {', '.join(readers)}.")
        found: dict[Key, Path] = {}
        for key, file in readers[chosen]():
            _add(found, key, file)
        if not found:
            raise FileNotFoundError(f"{self.path} holds no picture in the layout {chosen!r}.")
        return found

    def _by_index(self) -> Iterator[tuple[Key, Path]]:
        for number, line in enumerate(text_of(self.path / INDEX, _MAX_BYTES).splitlines(), 1):
            if not line.strip():
                continue
            where = f"Line {number} of {self.path / INDEX}"
            try:
                entry = json.loads(line)
                key, name, index = entry["key"], entry["image"], entry.get("index", 0)
            except (ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
                raise ValueError(
                    f"{where} must be an object with `key` and `image`; got {line[:80]}."
                ) from error
            if not (isinstance(key, str) and isinstance(name, str) and type(index) is int and index >= 0):
                raise ValueError(f"{where}: `key` and `image` are texts, and `index` is a number from 0.")
            file = self.path / name
            if not file.resolve().is_relative_to(self.path.resolve()):
                raise ValueError(f"{where} names {name!r}, which is outside the folder.")
            yield (key, index), file

    def _by_keys(self) -> Iterator[tuple[Key, Path]]:
        for file in self._pictures(self.path):
            stem, line, number = file.stem.rpartition("_")
            yield (file.stem, 0), file
            if line and number.isdecimal():
                yield (stem, int(number)), file

    def _by_collections(self) -> Iterator[tuple[Key, Path]]:
        for folder in sorted(path for path in (self.path / "tgt_image").iterdir() if path.is_dir()):
            for file in self._pictures(folder):
                found = _NUMBERED.fullmatch(file.stem)
                if found is None:
                    raise ValueError(f"{file} is not called <prompt>_<index>, such as 3_0{file.suffix}.")
                yield (f"{folder.name}-{found[1]}", int(found[2] or 0)), file

    @staticmethod
    def _pictures(folder: Path) -> list[Path]:
        return sorted(path for path in folder.iterdir() if path.suffix.lower() in ENDINGS)


def _add(found: dict[Key, Path], key: Key, file: Path) -> None:
    if key in found and found[key] != file:
        raise ValueError(f"{found[key]} and {file} are both picture number {key[1]} of {key[0]!r}. Keep one.")
    found[key] = file
