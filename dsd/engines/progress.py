"""What a stage shows of its progress."""

import sys
from collections.abc import Sequence
from typing import Any, Generic, TypeVar

from tqdm import tqdm

T = TypeVar("T")


def progress_bar(name: str, total: int, progress: bool, done: int = 0) -> "tqdm[Any]":
    """A bar on stderr that begins at what is done already."""
    return tqdm(
        total=total,
        initial=done,
        desc=name,
        unit="row",
        file=sys.stderr,
        disable=not progress,
        mininterval=0.5,
    )


class Gauge(Generic[T]):
    """Numbers beside a stage's bar; this one shows none."""

    def add(self, records: Sequence[T]) -> None:
        """New rows were made."""

    def shown(self, missing: int) -> dict[str, str]:
        """The numbers by their names, when so many of the earlier stage's rows are still to do."""
        return {}
