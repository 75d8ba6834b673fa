"""Labelled pairs from a table of image files."""

import hashlib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from dsd.data.atomic import sha256_of
from dsd.studies.curators_pairs import Label, LabelledPairs, meaning
from dsd.studies.reading import check_inside, csv_rows, open_picture
from dsd.types import Pair

COLUMNS = {"reference": "reference", "target": "target", "label": "same_subject", "group": "kind"}
"""What the columns are called by default. `group` may be missing. `reference_subject` and `target_subject`
may be named too; else the table of subjects says whom a picture shows."""

_KEYS = (*COLUMNS, "reference_subject", "target_subject")
_HARD = "same class"
_SHOWN = 3


def of_table(
    path: Path,
    *,
    columns: Mapping[str, str] | None = None,
    images: Path | None = None,
    subjects: Path | None = None,
    hard: str | None = None,
) -> LabelledPairs:
    """Labelled pairs from a CSV file, with every picture opened once to see that it is whole.

    Args:
        path: the table: a row a pair, with two paths and a label (1 or 0, same or different, yes or no; pairs
            that are "unsure" or without a label are left out).
        columns: names of its columns where they are not those of `COLUMNS`.
        images: the folder that the paths start from; by default `images` beside the table, if there is one,
            else the table's own. Paths that lead out of it are refused.
        subjects: a CSV file with the columns `image` and `subject`; by default `subjects.csv` beside the
            table, if there is one.
        hard: the group of the hard negatives; by default one that begins with "same class", if there is one.

    Raises:
        FileNotFoundError: if the table, the folder or the subjects are not there.
        ValueError: if a column is missing, a label says nothing, a picture is missing, damaged or too large,
            a pair is there twice, or there is no such group.
    """
    if strange := sorted(set(columns or {}) - set(_KEYS)):
        raise ValueError(f"`columns` names {strange[0]!r}. Allowed: {', '.join(_KEYS)}.")
    names = {**COLUMNS, **(columns or {})}
    folder = images or next(x for x in (path.parent / "images", path.parent) if x.is_dir())
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder} with the pictures of {path}. Give `images`.")
    rows = _rows(path, names, optional=() if "group" in (columns or {}) else ("group",))
    shown_by = _subjects(path, subjects)
    digests = _digests(path, folder, [row[side] for row in rows for side in ("reference", "target")])
    labels: list[Label] = []
    files: dict[str, tuple[Path, Path]] = {}
    lines: dict[str, int] = {}
    left_out = 0
    for line, row in enumerate(rows, 2):
        pair_id = hashlib.sha256(
            f"{digests[row['reference']]} {digests[row['target']]}".encode()
        ).hexdigest()[:20]
        try:
            same = meaning(row["label"])
        except ValueError as error:
            raise ValueError(f"{path}, line {line}, column {names['label']!r}: {error}") from error
        if pair_id in lines:
            raise ValueError(f"{path}, line {line} shows the same two pictures as line {lines[pair_id]}.")
        lines[pair_id] = line
        if same is None:
            left_out += 1
            continue
        seen = [row.get(f"{x}_subject") or shown_by.get(row[x], "") for x in ("reference", "target")]
        if all(seen) and same != (seen[0] == seen[1]):
            raise ValueError(
                f"{path}, line {line} says {row['label']!r}, but the pictures show {seen[0]!r} and "
                f"{seen[1]!r}. Mend the label or the subjects."
            )
        labels.append(
            Label(
                pair_id=pair_id,
                same=same,
                group=row.get("group", ""),
                subjects=tuple(dict.fromkeys(seen)) if all(seen) else (),
                pictures=tuple(dict.fromkeys(digests[row[x]] for x in ("reference", "target"))),
            )
        )
        files[pair_id] = folder / row["reference"], folder / row["target"]

    def load(ids: Collection[str]) -> Iterator[tuple[str, Pair]]:
        wanted = set(ids)
        for pair_id, (reference, target) in files.items():
            if pair_id in wanted:  # without its subject, which would tell a judge who reads it the label
                pair = Pair(
                    reference=open_picture(reference),
                    target=open_picture(target),
                    kind="object",
                    source=source,
                )
                yield pair_id, pair

    source = path.parent.resolve().name
    groups = sorted({label.group for label in labels if not label.same})
    if hard is not None and hard not in groups:
        raise ValueError(f"{path} has no different pairs of the group {hard!r}. Groups: {', '.join(groups)}.")
    return LabelledPairs(
        source=source,
        truth=f"Labels come with the pictures, in {path.name}.",
        labels=tuple(labels),
        load=load,
        hard=hard or next((group for group in groups if group.startswith(_HARD)), ""),
        left_out=left_out,
    )


def _rows(path: Path, names: Mapping[str, str], optional: Collection[str]) -> list[dict[str, str]]:
    """The rows by our names of the columns."""
    rows = []
    for line, row in csv_rows(path, [name for key, name in names.items() if key not in optional]):
        found = {key: row[name] for key, name in names.items() if name in row}
        if not (found["reference"] and found["target"]):
            raise ValueError(f"{path}, line {line} does not name two pictures.")
        rows.append(found)
    return rows


def _subjects(path: Path, subjects: Path | None) -> dict[str, str]:
    """Who is on each picture, as far as a table says so."""
    table = subjects or path.parent / "subjects.csv"
    if not table.is_file():
        if subjects is not None:
            raise FileNotFoundError(f"There is no table of subjects {subjects}. Check the path.")
        return {}
    return {row["image"]: row["subject"] for _, row in csv_rows(table, ("image", "subject"))}


def _digests(path: Path, folder: Path, names: Collection[str]) -> dict[str, str]:
    """The SHA-256 of each picture's file, by its name.

    Raises:
        ValueError: with the first few of those that are missing, outside the folder, damaged or too large.
    """
    found, problems = {}, []
    for name in dict.fromkeys(names):
        try:
            check_inside(folder, name)
            open_picture(folder / name)
            found[name] = sha256_of(folder / name)
        except (OSError, ValueError) as error:
            problems.append(f"{name}: {'No such file' if isinstance(error, FileNotFoundError) else error}")
    if problems:
        more = f" and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise ValueError(
            f"{path} names {len(problems)} pictures that cannot be used: {'; '.join(problems[:_SHOWN])}"
            f"{more}. Paths start from {folder}; give another folder as `images`."
        )
    return found
