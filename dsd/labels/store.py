"""What people said of pairs, on disk: one file a person, one line a label, on the disk before it counts."""

import fcntl
import json
import logging
import math
import os
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from os import PathLike
from pathlib import Path
from typing import Literal, cast, get_args

from dsd.data.atomic import explained, make_folder
from dsd.data.storage import Location, RemotePath, location
from dsd.data.store import Run

logger = logging.getLogger(__name__)

LabelName = Literal["same", "different", "unsure"]
"""Whether both pictures of a pair show the same subject."""

LABELS: tuple[LabelName, ...] = get_args(LabelName)

FOLDER = "labels"
_PERSON = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_LINE_BYTES = 4096  # a line of ours has about 200


@dataclass(frozen=True, kw_only=True)
class Label:
    """What one person said of one pair.

    Attributes:
        pair_id: the pair.
        label: "same", "different" or "unsure".
        person: who said it; see `person_name`.
        time: when, ISO 8601 in UTC, such as "2025-03-01T12:30:00+00:00".
        seconds: how long the pair was looked at; None if unknown.
    """

    pair_id: str
    label: LabelName
    person: str
    time: str
    seconds: float | None = None

    def __post_init__(self) -> None:
        if self.label not in LABELS:
            raise ValueError(f"Unknown label {self.label!r}. Allowed: {', '.join(LABELS)}.")
        if not self.pair_id:
            raise ValueError("A label needs the id of a pair; got an empty one.")
        person_name(self.person)
        moment = datetime.fromisoformat(self.time)
        if moment.utcoffset() is None or moment.utcoffset() != timezone.utc.utcoffset(None):
            raise ValueError(f"The time of a label is in UTC and ends in +00:00; got {self.time!r}.")
        if self.seconds is not None and not (math.isfinite(self.seconds) and self.seconds >= 0):
            raise ValueError(f"The seconds of a label are a finite number from 0 on; got {self.seconds}.")


def person_name(name: str) -> str:
    """A person's name as it stands in labels and in the file's name: lower case.

    Raises:
        ValueError: unless it has 1 to 64 of the letters a to z, digits, ".", "_" and "-", the first of them a
            letter or digit.
    """
    lower = name.lower()  # some file systems do not tell Ann from ann
    if not _PERSON.fullmatch(lower):
        raise ValueError(
            f"{name!r} cannot be a person's name, which is part of a file's name. Allowed: 1 to 64 of the "
            "letters a to z, digits, '.', '_' and '-', beginning with a letter or digit."
        )
    return lower


def now() -> str:
    """The time as labels have it."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


class LabelFile:
    """The labels of one person, in `labels/PERSON.jsonl` of a run.

    Lines are only ever added; of several lines about a pair the last one holds. Several processes may add to
    one file at once. A line that a crash left torn is passed over.

    Args:
        run: the run or its folder.
        person: see `person_name`.

    Attributes:
        path: the file, there or not.
        person: the name in lower case.
    """

    def __init__(self, run: Run | str | PathLike[str], person: str) -> None:
        folder = run.path if isinstance(run, Run) else location(run)
        self.person = person_name(person)
        self.path = folder / FOLDER / f"{self.person}.jsonl"
        self._state: tuple[int, int, int] | str | None = None
        self._labels: dict[str, Label] = {}
        self._told: set[int] = set()

    def __repr__(self) -> str:
        return f"LabelFile({str(self.path)!r})"

    def add(self, pair_id: str, label: LabelName, seconds: float | None = None) -> Label:
        """Add a label; when this returns, it is on the disk.

        Raises:
            ValueError: if a value is not allowed.
            OSError: explained, if it could not be written.
        """
        added = Label(pair_id=pair_id, label=label, person=self.person, time=now(), seconds=seconds)
        line = json.dumps(asdict(added)).encode() + b"\n"
        if isinstance(self.path, RemotePath):
            self.path.append(line)
            return added
        make_folder(self.path.parent)
        with explained(self.path):
            new = not self.path.exists()
            descriptor = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                size = os.fstat(descriptor).st_size
                if size and os.pread(descriptor, 1, size - 1) != b"\n":
                    line = b"\n" + line  # after a torn line
                while line:
                    line = line[os.write(descriptor, line) :]
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            if new:
                _sync(self.path.parent)
                _sync(self.path.parent.parent)
        return added

    def read(self) -> dict[str, Label]:
        """The label that holds of each pair, by the pair's id, in the order in which pairs were first seen.

        Reads what is on disk now, and nothing if nothing has changed. Lines that are no label are passed over
        with a warning.
        """
        try:
            state = _state(self.path)
        except FileNotFoundError:
            return {}
        if state != self._state:
            self._labels = {label.pair_id: label for label in self._lines(self.path.read_bytes())}
            self._state = state
        return dict(self._labels)

    def _lines(self, content: bytes) -> Iterator[Label]:
        for number, line in enumerate(content.split(b"\n"), start=1):
            if not line:
                continue
            try:
                yield self._label(line)
            except (ValueError, TypeError, OverflowError, RecursionError) as error:
                if number not in self._told:
                    self._told.add(number)
                    logger.warning(
                        "Line %d of %s is no label (%s) and is passed over", number, self.path, error
                    )

    def _label(self, line: bytes) -> Label:
        if len(line) > _LINE_BYTES:
            raise ValueError(f"it has {len(line)} bytes, more than {_LINE_BYTES}")
        found = json.loads(line)
        if not isinstance(found, dict):
            raise TypeError("it is no JSON object")
        if not all(isinstance(found.get(key), str) for key in ("pair_id", "label", "person", "time")):
            raise TypeError("pair_id, label, person and time must be texts")
        seconds = found.get("seconds")
        if seconds is not None and (isinstance(seconds, bool) or not isinstance(seconds, int | float)):
            raise TypeError("seconds must be a number")
        if found["person"] != self.person:
            raise ValueError(f"it is by {found['person']!r}")
        return Label(
            pair_id=found["pair_id"],
            label=cast(LabelName, found["label"]),
            person=found["person"],
            time=found["time"],
            seconds=None if seconds is None else float(seconds),
        )


def people(run: Run | str | PathLike[str]) -> list[str]:
    """Who has labelled pairs of a run, in alphabetical order."""
    folder = (run.path if isinstance(run, Run) else location(run)) / FOLDER
    return sorted(path.stem for path in folder.glob("*.jsonl") if _PERSON.fullmatch(path.stem))


def read(run: Run | str | PathLike[str], person: str | None = None) -> list[Label]:
    """The labels that hold, person by person: one a person and pair.

    Labels of pairs that the run does not have (any more) are left out, with a warning that counts them.

    Args:
        run: the run or its folder.
        person: only this one's labels.

    Raises:
        FileNotFoundError: if the run has no pairs.
        ValueError: if `person` is no name.
    """
    run = run if isinstance(run, Run) else Run(run)
    known = set(run.pairs.ids())
    names = people(run) if person is None else [person_name(person)]
    labels = [label for name in names for label in LabelFile(run, name).read().values()]
    found = [label for label in labels if label.pair_id in known]
    if len(found) < len(labels):
        logger.warning(
            "%d of %d labels in %s are of pairs that the run does not have, and are left out",
            len(labels) - len(found),
            len(labels),
            run.path / FOLDER,
        )
    return found


def _state(path: Location) -> tuple[int, int, int] | str:
    if isinstance(path, RemotePath):
        return path.version()
    status = os.stat(path)
    return status.st_ino, status.st_size, status.st_mtime_ns


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
