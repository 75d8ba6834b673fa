"""What a stage spends, beside its progress bar."""

from collections.abc import Sequence
from typing import Any

from dsd.engines.account import Account
from dsd.engines.progress import Gauge
from dsd.llm.asking import Spending


class SpendingGauge(Gauge[Any]):
    """The account of a stage whose rows name no costs.

    Args:
        ledger: of the plug-in that does the work.
    """

    def __init__(self, ledger: Spending | None) -> None:
        self._account = Account(ledger)

    def add(self, records: Sequence[Any]) -> None:
        """Records were made."""
        self._account.share(len(records))

    def add_rows(self, rows: Sequence[Any]) -> None:
        """Rows were made."""
        self.add(rows)

    def shown(self, missing: int) -> dict[str, str]:
        """Tokens, and dollars with their projection."""
        return self._account.shown(missing)
