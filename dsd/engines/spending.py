"""What a stage spends, beside its progress bar."""

from collections import deque
from collections.abc import Sequence
from typing import Any

from dsd.engines.progress import Gauge
from dsd.llm.ledger import Ledger, dollars, short
from dsd.llm.records import Usage

_RECENT = 256


class SpendingGauge(Gauge[Any]):
    """Tokens and dollars of this call of a stage, with the dollars that all of it will cost at that rate.

    The rate is that of the last rows: the first ones of a resumed stage may come from answers that are paid
    already. An unknown cost is shown as such. Without a ledger nothing is shown.

    Args:
        ledger: of the plug-in that does the work.
    """

    def __init__(self, ledger: Ledger | None) -> None:
        self._ledger = ledger
        self._before = self._usage
        self._spent: deque[float] = deque([0.0], maxlen=_RECENT + 1)  # in US dollars, at each row

    @property
    def _usage(self) -> Usage:
        return Usage() if self._ledger is None else self._ledger.usage

    def add(self, records: Sequence[Any]) -> None:
        """Rows were made."""
        spent = (self._usage.cost_usd or 0.0) - (self._before.cost_usd or 0.0)
        self._spent.extend([spent] * len(records))

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
        spent, rows = usage.cost_usd - before.cost_usd, len(self._spent) - 1
        if not rows:
            return told | {"cost": dollars(spent)}
        rest = missing * (self._spent[-1] - self._spent[0]) / rows
        return told | {"cost": f"{dollars(spent)} of ~{dollars(spent + rest)}"}
