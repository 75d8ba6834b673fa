"""A benchmark of one's own: a folder of pictures and an index."""

import json
from pathlib import Path
from typing import Any

from dsd.evaluation.benchmarks.base import Benchmark, BenchmarkCase, folder_of, text_of
from dsd.evaluation.benchmarks.pictures import check_picture
from dsd.opening import is_file

INDEX = "cases.jsonl"
_TEXTS = ("key", "prompt", "subject", "subject_name", "category", "kind", "truth")
_MAX_BYTES = 256 * 2**20


class OwnFolder(Benchmark):
    """Cases that `cases.jsonl` in a folder lists, one JSON object a line.

    `prompt` and `reference` (a picture's path within the folder, or a list of them) must be there. Beside
    them: `key` (by default "<subject>-<number of the line within the subject>"), `subject` (an id; by default
    the first reference's path without its ending), `subject_name` (in words), `category`, `kind` (of the
    prompt) and `truth` (a picture's path: what would be right).

    Args:
        root: the folder.

    Raises:
        FileNotFoundError: if there is no such folder.
    """

    title = "Own folder"

    def __init__(self, root: str | Path) -> None:
        self.root = folder_of(root, INDEX)

    def load(self) -> list[BenchmarkCase]:
        """All cases, in the order of the index.

        Raises:
            FileNotFoundError: if the index or a picture is missing.
            ValueError: if a line is wrong, or a picture cannot be read or is outside the folder.
        """
        cases: list[BenchmarkCase] = []
        counts: dict[str, int] = {}
        checked: set[Path] = set()
        # Not splitlines: JSON may hold other ends of lines within its texts.
        lines = text_of(self.root / INDEX, _MAX_BYTES).split("\n")
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            entry = self._entry(number, line)
            pictures = tuple(self._picture(number, name) for name in entry["reference"])
            truth = self._picture(number, entry["truth"]) if "truth" in entry else None
            for picture in {*pictures, *([truth] if truth else [])} - checked:
                check_picture(picture)
                checked.add(picture)
            subject = entry.get("subject") or Path(entry["reference"][0]).with_suffix("").as_posix()
            key = entry.get("key") or f"{subject}-{counts.get(subject, 0)}"
            counts[subject] = counts.get(subject, 0) + 1
            try:
                cases.append(
                    BenchmarkCase(
                        key=key,
                        prompt=entry["prompt"],
                        pictures=pictures,
                        subject=subject,
                        subject_name=entry.get("subject_name", ""),
                        category=entry.get("category", ""),
                        kind=entry.get("kind", ""),
                        truth=truth,
                    )
                )
            except ValueError as error:
                raise ValueError(f"Line {number} of {self.root / INDEX}: {error}") from error
        return cases

    def _entry(self, number: int, line: str) -> dict[str, Any]:
        where = f"Line {number} of {self.root / INDEX}"
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{where} is not JSON: {error}.") from error
        if not isinstance(entry, dict) or not {"prompt", "reference"} <= set(entry):
            raise ValueError(f"{where} must be an object with `prompt` and `reference`; got {line[:80]}.")
        if unknown := sorted(set(entry) - {*_TEXTS, "reference"}):
            raise ValueError(
                f"{where} has an unknown field {unknown[0]!r}. Allowed: reference, {', '.join(_TEXTS)}."
            )
        given = entry["reference"]
        entry["reference"] = [given] if isinstance(given, str) else given
        texts = [(name, entry[name]) for name in _TEXTS if name in entry]
        wrong = [name for name, value in texts if not isinstance(value, str)]
        names = entry["reference"]
        if (
            not isinstance(names, list)
            or not names
            or not all(isinstance(name, str) and name for name in names)
        ):
            wrong.append("reference")
        if wrong:
            kind = "a path or a list of paths" if wrong[0] == "reference" else "a text"
            raise ValueError(f"{where}: `{wrong[0]}` must be {kind}.")
        return entry

    def _picture(self, number: int, name: str) -> Path:
        path = self.root / name
        try:
            inside = path.resolve().is_relative_to(self.root.resolve())
        except (OSError, ValueError):  # no name of a file
            inside = False
        if not inside:
            raise ValueError(
                f"Line {number} of {self.root / INDEX} names {name!r}, which is outside the folder."
            )
        if not is_file(path):
            raise FileNotFoundError(
                f"Line {number} of {self.root / INDEX} names {name!r}, which is not there."
            )
        return path
