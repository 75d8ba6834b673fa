"""What a stage spends, beside its progress bar."""

from collections.abc import Sequence
from typing import Any

from dsd.engines.progress import Gauge
from dsd.llm.ledger import Ledger, dollars, short
from dsd.llm.records import Usage


class SpendingGauge(Gauge[Any]):
    """Tokens and dollars of this call of a stage, with the dollars that all of it will cost at that rate.

    An unknown cost is shown as such. Without a ledger nothing is shown.

    Args:
        ledger: of the plug-in that does the work.
    """

    def __init__(self, ledger: Ledger | None) -> None:
        self._ledger, self._rows = ledger, 0
        self._before = self._usage

    @property
    def _usage(self) -> Usage:
        return Usage() if self._ledger is None else self._ledger.usage

    def add(self, records: Sequence[Any]) -> None:
        """Rows were made."""
        self._rows += len(records)

    def shown(self, missing: int) -> dict[str, str]:
        """Tokens, and dollars with their projection."""
        if self._ledger is None:
            return {}
        usage, before = self._usage, self._before
        tokens = (
            usage.prompt_tokens + usage.completion_tokens - before.prompt_tokens - before.completion_tokens
        )
        told = {"tokens": short(tokens)}
        if usage.cost_usd is None or before.cost_usd is None:
            return told | {"cost": "unknown"}
        spent = usage.cost_usd - before.cost_usd
        if not self._rows:
            return told | {"cost": dollars(spent)}
        return told | {"cost": f"{dollars(spent)} of ~{dollars(spent * (self._rows + missing) / self._rows)}"}
