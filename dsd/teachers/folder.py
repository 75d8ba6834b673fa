"""Grids that were drawn elsewhere: a folder of pictures."""

import json
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from dsd.opening import ENDINGS, is_inside, open_image
from dsd.teachers.base import Teacher
from dsd.types import Grid, GridPrompt

_MAX_INDEX_BYTES = 2**28


class FolderTeacher(Teacher):
    """Finds the grid of a prompt in a folder.

    An index says which picture belongs to which prompt: a JSON-lines file of objects with `image` (a path
    within the folder) and `text` (the whole prompt) or `id` (of the grid prompt); or a plain text file of
    prompts, one a line, that go with the folder's pictures in the order of their names. Write the run's
    prompts with the prompt writer "file".

    Args:
        path: the folder.
        index: the index, a path or a name within the folder; by default its `metadata.jsonl`, `prompts.jsonl`
            or `prompts.txt`, whichever is there.

    Raises:
        FileNotFoundError: if the folder, the index or a picture named in it does not exist.
        ValueError: if the index cannot be read, or names a picture outside the folder.
    """

    batch_size = 8

    def __init__(self, path: str | Path, index: str | Path | None = None) -> None:
        self.path = Path(path).expanduser()
        if not self.path.is_dir():
            raise FileNotFoundError(f"There is no folder {self.path}. Give one that holds pictures of grids.")
        self._images = self._read(self._index_path(index))

    def draw(self, prompts: Sequence[GridPrompt], seeds: Sequence[int]) -> list[Grid]:
        """The pictures of those prompts, as RGB. The seeds are recorded, but had no part in them.

        Raises:
            LookupError: if the index does not name a prompt.
        """
        return [
            Grid(image=self._picture(prompt), prompt=prompt, seed=seed, teacher="folder")
            for prompt, seed in zip(prompts, seeds, strict=True)
        ]

    def _picture(self, prompt: GridPrompt) -> Image.Image:
        path = self._images.get(prompt.id) or self._images.get(prompt.text)
        if path is None:
            raise LookupError(f"{self.path} has no grid of the prompt {prompt.text!r}. Add it to the index.")
        return open_image(path).convert("RGB")

    def _index_path(self, index: str | Path | None) -> Path:
        names = ["metadata.jsonl", "prompts.jsonl", "prompts.txt"] if index is None else [str(index)]
        for path in [
            *(self.path / name for name in names),
            *(Path(name) for name in names if index is not None),
        ]:
            if path.is_file():
                return path
        raise FileNotFoundError(
            f"{self.path} has no index ({', '.join(names)}): a JSON-lines file of "
            "{'image': ..., 'text': ...}, or a text file of prompts, one a line."
        )

    def _read(self, index: Path) -> dict[str, Path]:
        """Prompt texts and ids to paths."""
        if (size := index.stat().st_size) > _MAX_INDEX_BYTES:
            raise ValueError(f"{index} has {size:,} bytes; at most {_MAX_INDEX_BYTES:,} are read.")
        try:
            content = index.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"{index} is not UTF-8 text: {error}. Save it as UTF-8.") from error
        lines = [line for line in content.splitlines() if line.strip()]
        if index.suffix == ".txt":
            pictures = sorted(path for path in self.path.iterdir() if path.suffix.lower() in ENDINGS)
            if len(pictures) != len(lines):
                raise ValueError(
                    f"{index} has {len(lines)} prompts, but {self.path} has {len(pictures)} pictures. Give "
                    "one line each, in the order of the pictures' names."
                )
            entries: list[dict[str, object]] = [
                {"image": path.name, "text": text} for path, text in zip(pictures, lines, strict=True)
            ]
        else:
            entries = [self._entry(index, number, line) for number, line in enumerate(lines, 1)]
        found = {}
        for entry in entries:
            name = str(entry.get("image", entry.get("file_name")))
            if not is_inside(self.path, name):
                raise ValueError(f"{index} names the picture {name!r}, which leads out of {self.path}.")
            path = self.path / name
            if not path.is_file():
                raise FileNotFoundError(f"{index} names the picture {path}, which does not exist.")
            found.update({str(entry[key]): path for key in ("id", "text") if key in entry})
        return found

    @staticmethod
    def _entry(index: Path, number: int, line: str) -> dict[str, object]:
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"Line {number} of {index} is not JSON: {error}.") from error
        if (
            not isinstance(entry, dict)
            or not {"image", "file_name"} & set(entry)
            or not {"id", "text"} & set(entry)
        ):
            raise ValueError(
                f"Line {number} of {index} must be an object with `image` and with `text` or `id`; got "
                f"{line[:80]}."
            )
        return entry
