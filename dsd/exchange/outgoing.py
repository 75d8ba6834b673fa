"""A pair on its way out, and what writes it."""

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar

from dsd.types import Verdict


@dataclass(frozen=True, kw_only=True)
class Outgoing:
    """A pair on its way out.

    Attributes:
        fields: all that it holds beside its pictures, with its id.
        reference: the picture's file.
        target: the picture's file.
        verdicts: on it, by curator.
    """

    fields: Mapping[str, Any]
    reference: bytes
    target: bytes
    verdicts: Mapping[str, Verdict] = field(default_factory=dict)

    def about(self) -> dict[str, Any]:
        """The fields, and the verdicts as one text of JSON: `datasets` wants the same fields in all rows."""
        verdicts = [{"curator": name, **_plain(verdict)} for name, verdict in sorted(self.verdicts.items())]
        return {**self.fields, "verdicts": json.dumps(verdicts)}


def _plain(verdict: Verdict) -> dict[str, Any]:
    return {name: value for name, value in asdict(verdict).items() if name != "keep"}


class Writer(ABC):
    """Writes pairs into a folder. A subclass writes one layout.

    Args:
        folder: empty.
        images: the ending of pictures.
        shard_pairs: the most pairs in a file.
        shard_bytes: of pictures, after which a file ends.

    Attributes:
        data_files: where the data are in the folder, for the card.
        padding: of Subjects200K, which joins pictures.
        quality: of JPEG, likewise.
    """

    data_files: ClassVar[str]
    padding: int = 16
    quality: int = 95

    def __init__(self, folder: Path, *, images: str, shard_pairs: int, shard_bytes: int) -> None:
        self.folder, self.ending = folder, {"png": "png", "jpeg": "jpg"}[images]
        self._shard_pairs, self._shard_bytes = shard_pairs, shard_bytes
        self._pairs = self._in_file = self._bytes = 0

    def __enter__(self) -> "Writer":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def add(self, pair: Outgoing) -> str | None:
        """Write a pair, or say why it has no place in the layout."""
        self._write(pair)
        self._count(len(pair.reference) + len(pair.target))
        return None

    def finish(self) -> int:
        """Close the last file; how many pairs there are in all."""
        self._close()
        return self._pairs

    def _count(self, size: int, pairs: int = 1) -> None:
        self._pairs += pairs
        self._in_file += pairs
        self._bytes += size
        if self._in_file >= self._shard_pairs or self._bytes >= self._shard_bytes:
            self._close()
            self._in_file = self._bytes = 0

    @abstractmethod
    def _write(self, pair: Outgoing) -> None:
        """Write a pair into the file that is open, or begin one."""

    @abstractmethod
    def _close(self) -> None:
        """End the file that is being written, if there is one."""
