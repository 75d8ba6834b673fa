"""Lines that are kept as they come: a file of JSON objects that a killed process leaves readable."""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from dsd.data.atomic import explained, make_folder, replace_file

Entry = dict[str, Any]


_PASSING = frozenset(
    {"batch_size", "device", "concurrency", "rpm", "tpm", "timeout_s", "deadline_s", "run_deadline_s",
     "max_cost_usd", "price_usd", "price", "retries", "cache", "workers"}
)  # fmt: skip


def lasting(spec: Mapping[str, Any]) -> Entry:
    """The part of a spec that results hang on: not how fast, where, or for how much money they are made."""
    return {key: value for key, value in spec.items() if key not in _PASSING}


class Journal:
    """A JSON-lines file whose first line says what the others are of.

    What `append` returned for is on the disk. A last line that was cut by a crash is dropped.

    Args:
        path: the file; made with its folder at the first `append`.
        head: what the entries come from, such as a metric's spec.

    Raises:
        ValueError: if the file belongs to another head, or a line before the last one is damaged.
    """

    def __init__(self, path: Path, head: Mapping[str, Any]) -> None:
        self._path, self._head = path, json.loads(json.dumps(head))
        self.entries: list[Entry] = self._read() if path.is_file() else []

    def append(self, entries: Iterable[Entry]) -> None:
        """Keep some more.

        Raises:
            OSError: explained, if the disk does not take them.
        """
        new = list(entries)
        if not new:
            return
        if not self._path.is_file():
            make_folder(self._path.parent)
            replace_file(self._path, _line(self._head))
        with explained(self._path), self._path.open("ab") as file:
            file.write(b"".join(map(_line, new)))
            file.flush()
            os.fsync(file.fileno())
        self.entries += new

    def _read(self) -> list[Entry]:
        content = self._path.read_bytes()
        whole, _, torn = content.rpartition(b"\n")
        if torn:
            replace_file(self._path, whole + b"\n" if whole else b"")
        lines = whole.split(b"\n") if whole else []
        found = []
        for number, line in enumerate(lines, 1):
            try:
                entry = json.loads(line)
            except ValueError as error:
                raise ValueError(
                    f"Line {number} of {self._path} is damaged: {error}. Delete the file."
                ) from error
            found.append(entry)
        if not found:
            self._path.unlink()
            return []
        if found[0] != self._head:
            raise ValueError(
                f"{self._path} holds what came of {json.dumps(found[0])[:400]}, not of "
                f"{json.dumps(self._head)[:400]}. Use another `out`, or another label."
            )
        return found[1:]


def _line(entry: Mapping[str, Any]) -> bytes:
    return json.dumps(entry, ensure_ascii=True, sort_keys=True).encode() + b"\n"
