"""The pictures and words that a table of ratings names, opened as they are needed."""

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from dsd.judges import Case
from dsd.studies.reading import check_inside, open_picture

_COLUMN = re.compile(r"\{([^{}]+)\}")


@dataclass(frozen=True, kw_only=True)
class RatedCase(Case):
    """A case with what metrics know beside: no judge is shown it.

    Attributes:
        references: all pictures of the subject; the first is the case's `reference`.
        truth: what would be right, or another true view of the subject; None if there is none.
    """

    references: Sequence[Image.Image] = ()
    truth: Image.Image | None = None


def columns_in(pattern: str) -> list[str]:
    """The columns that the name of a picture is made of: those in braces, or else one of that name."""
    return _COLUMN.findall(pattern) or ([pattern] if pattern else [])


def file_of(row: Mapping[str, str], pattern: str) -> str:
    """The name of a row's picture; empty where one of its columns is, or there is no pattern."""
    parts = {name: row[name].strip() for name in columns_in(pattern)}
    if not parts or not all(parts.values()):
        return ""
    return _COLUMN.sub(lambda match: parts[match[1]], pattern) if _COLUMN.search(pattern) else parts[pattern]


def loader(
    path: Path,
    rows: Sequence[Mapping[str, str]],
    keys: Sequence[str],
    asked: Mapping[str, Any],
    images: Path | None,
) -> Callable[[Collection[str]], Iterator[RatedCase]]:
    """What opens the pictures of some items.

    Args:
        path: of the table.
        rows: of it.
        keys: what each row's item is called.
        asked: the columns, in full.
        images: the folder that files start from; by default `images` beside the table, or the table's own.

    Raises:
        FileNotFoundError: if there is no such folder.
    """
    folder = images or next(x for x in (path.parent / "images", path.parent) if x.is_dir())
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder} with the pictures of {path}. Give `images`.")

    def picture(name: str, side: str, key: str) -> Image.Image:
        try:
            if not name:
                raise ValueError("its cell is empty")
            check_inside(folder, name)
            return open_picture(folder / name)
        except (OSError, ValueError) as error:
            raise ValueError(f"The {side} picture {name!r} of {key!r} in {folder}: {error}") from error

    def load(wanted: Collection[str]) -> Iterator[RatedCase]:
        chosen = set(wanted)
        for key, row in zip(keys, rows, strict=True):
            if key not in chosen:
                continue
            names = [name for pattern in asked["reference"] if (name := file_of(row, pattern))]
            references = [picture(name, "reference", key) for name in names]
            truth = file_of(row, asked["truth"])
            yield RatedCase(
                key=key,
                generated=picture(file_of(row, asked["generated"]), "generated", key),
                reference=references[0] if references else None,
                references=references,
                truth=picture(truth, "true", key) if truth else None,
                prompt=row[asked["prompt"]] if asked["prompt"] else "",
                subject=row[asked["subject"]] if asked["subject"] else "",
            )

    return load
