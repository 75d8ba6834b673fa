"""Pictures whose subjects are known."""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int
from PIL import Image

from dsd.data.atomic import sha256_of
from dsd.studies.reading import check_inside, csv_rows, open_picture

MOST_PICTURES = 2000
"""More have too many pairs for intervals."""

_KEYS = ("image", "subject", "class")


@dataclass(frozen=True, kw_only=True)
class KnownPictures:
    """Pictures whose subjects are known, in columns.

    Attributes:
        files: of the pictures.
        subjects: whom each shows.
        classes: what kind of thing that is; "" where unknown.
        digest: a hash of the pictures, in order.
    """

    files: Sequence[Path]
    subjects: Sequence[str]
    classes: Sequence[str]
    digest: str

    def open(self, numbers: Collection[int]) -> list[Image.Image]:
        """Some of the pictures, whole."""
        return [open_picture(self.files[i]) for i in numbers]

    @property
    def pairs(self) -> Int[np.ndarray, "pairs 2"]:
        """The numbers of all pairs of two pictures."""
        return np.stack(np.triu_indices(len(self.files), 1), axis=1)

    def same(self, pairs: Int[np.ndarray, "pairs 2"]) -> Bool[np.ndarray, " pairs"]:
        """Whether both pictures of a pair show one subject."""
        names = np.array(self.subjects, dtype=object)
        alike: Bool[np.ndarray, " pairs"] = names[pairs[:, 0]] == names[pairs[:, 1]]
        return alike

    def same_class(self, pairs: Int[np.ndarray, "pairs 2"]) -> Bool[np.ndarray, " pairs"]:
        """Whether both pictures of a pair show things of one class that is known."""
        names = np.array(self.classes, dtype=object)
        alike: Bool[np.ndarray, " pairs"] = (names[pairs[:, 0]] == names[pairs[:, 1]]) & (
            names[pairs[:, 0]] != ""
        )
        return alike


def of_subjects(
    path: Path, *, columns: Mapping[str, str] | None = None, images: Path | None = None
) -> KnownPictures:
    """Pictures from a CSV file, a row a picture, each opened once to see that it is whole.

    Args:
        path: the table, with the columns `image`, `subject` and, if subjects are of classes, `class`.
        columns: names of the columns where they are others.
        images: the folder that files start from; by default `images` beside the table, or the table's own.

    Raises:
        FileNotFoundError: if the table or the folder is not there.
        ValueError: if a column is missing, a picture cannot be read or is there twice, a subject is of two
            classes, or there are too many pictures, or too few to compare.
    """
    if strange := sorted(set(columns or {}) - set(_KEYS)):
        raise ValueError(f"`columns` names {strange[0]!r}. Allowed: {', '.join(_KEYS)}.")
    names = {key: (columns or {}).get(key, key) for key in _KEYS}
    if not path.is_file():
        raise FileNotFoundError(f"There is no table of pictures {path}. Check the path.")
    folder = images or next(x for x in (path.parent / "images", path.parent) if x.is_dir())
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder} with the pictures of {path}. Give `images`.")
    needed = [names[key] for key in _KEYS if key != "class" or "class" in (columns or {})]
    files: list[Path] = []
    subjects: list[str] = []
    classes: list[str] = []
    digests: dict[str, int] = {}
    class_of: dict[str, str] = {}
    for line, row in csv_rows(path, needed):
        image, subject, kind = row[names["image"]], row[names["subject"]], row.get(names["class"], "")
        if not image or not subject:
            raise ValueError(f"{path}, line {line} does not name a picture and its subject.")
        if class_of.setdefault(subject, kind) != kind:
            raise ValueError(
                f"{path}, line {line}: {subject!r} is a {kind!r}, and was a {class_of[subject]!r}."
            )
        try:
            check_inside(folder, image)
            open_picture(folder / image)
        except (OSError, ValueError) as error:
            raise ValueError(f"{path}, line {line}: the picture {image!r} in {folder}: {error}") from error
        digest = sha256_of(folder / image)
        if digest in digests:
            raise ValueError(
                f"{path}, line {line}: {image!r} is the same picture as that of line {digests[digest]}. "
                "Leave one of them out."
            )
        digests[digest] = line
        files.append(folder / image)
        subjects.append(subject)
        classes.append(kind)
        if len(files) > MOST_PICTURES:
            raise ValueError(f"{path} names more than {MOST_PICTURES:,} pictures. Give some of them.")
    counts = {name: subjects.count(name) for name in dict.fromkeys(subjects)}
    if len(counts) < 2 or max(counts.values()) < 2:
        raise ValueError(
            f"{path} has {len(files)} pictures of {len(counts)} subjects. At least two subjects are needed, "
            "and two pictures of one of them."
        )
    content = hashlib.sha256("\0".join([*digests, *subjects, *classes]).encode()).hexdigest()[:16]
    return KnownPictures(files=files, subjects=subjects, classes=classes, digest=content)
