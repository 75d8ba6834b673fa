"""What a stage shows of its progress."""

import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any, Generic, TypeVar

from tqdm import tqdm

from dsd.curators import Curator
from dsd.data.rows import Judged, Row, verdicts
from dsd.engines.account import Account

T = TypeVar("T")

_OTHERS = ("refused", "unparsable", "failed")


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
        """New records were made."""

    def add_rows(self, rows: Sequence[Row]) -> None:
        """New rows were made."""

    def shown(self, missing: int) -> dict[str, str]:
        """The numbers by their names, when so many of the earlier stage's rows are still to do."""
        return {}


class VerdictGauge(Gauge[Judged]):
    """The running yield of a curator, the pairs that it could not judge, and the account of its verdicts.

    Args:
        curator: with or without a ledger.
    """

    def __init__(self, curator: Curator) -> None:
        self._account = Account(curator.ledger)
        self._statuses: Counter[str] = Counter()

    def add(self, records: Sequence[Judged]) -> None:
        """Verdicts came."""
        self._statuses.update(record.verdict.status for record in records)
        self._account.add([record.verdict.cost_usd for record in records])

    def add_rows(self, rows: Sequence[Row]) -> None:
        """Rows of verdicts came."""
        self.add([verdicts("").from_row(row) for row in rows])

    def shown(self, missing: int) -> dict[str, str]:
        """Yield, other statuses, tokens, and dollars with their projection."""
        accepted, rejected = self._statuses["accepted"], self._statuses["rejected"]
        told = {"yield": f"{accepted / (accepted + rejected):.0%}"} if accepted + rejected else {}
        told |= {name: str(self._statuses[name]) for name in _OTHERS if self._statuses[name]}
        return told | self._account.shown(missing)
