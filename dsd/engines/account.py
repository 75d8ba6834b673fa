"""What a call of a stage spends, and what all of it will cost."""

from collections import deque
from collections.abc import Sequence

from dsd.llm.asking import Spending
from dsd.llm.ledger import dollars, short
from dsd.llm.records import Usage

_RECENT = 256


class Account:
    """Tokens and dollars of this call of a stage, with the dollars that all of it will cost.

    The rest is projected from the mean cost of the last rows: the first ones of a resumed stage may come from
    answers that are paid already. An unknown cost is shown as such. Where there is neither a ledger nor a row
    that names its cost, nothing is shown.

    Args:
        ledger: of the plug-in that does the work, if it keeps one.
    """

    def __init__(self, ledger: Spending | None) -> None:
        self._ledger = ledger
        self._before = self._usage
        self._rows_usd: float | None = 0.0
        self._recent: deque[float] = deque(maxlen=_RECENT)
        self._names_costs = False

    @property
    def _usage(self) -> Usage:
        return Usage() if self._ledger is None else self._ledger.usage

    @property
    def _spent_usd(self) -> float | None:
        """By the ledger, or else by the rows; what is still on its way is in the ledger alone."""
        if self._ledger is None:
            return self._rows_usd
        usage, before = self._usage.cost_usd, self._before.cost_usd
        return None if usage is None or before is None else usage - before

    def add(self, costs_usd: Sequence[float | None]) -> None:
        """Rows were made that name their costs."""
        for cost in costs_usd:
            self._names_costs |= cost is not None
            self._recent.append(cost or 0.0)
            self._rows_usd = None if cost is None or self._rows_usd is None else self._rows_usd + cost

    def share(self, num_rows: int) -> None:
        """Rows were made that name no costs: what was spent since the last ones is theirs, in equal parts."""
        if num_rows and self._ledger is not None:
            spent = self._spent_usd
            known = spent is not None and self._rows_usd is not None
            each = ((spent or 0.0) - (self._rows_usd or 0.0)) / num_rows if known else None
            self.add([each] * num_rows)

    def shown(self, missing: int) -> dict[str, str]:
        """Tokens, and dollars with their projection to so many rows that are still missing."""
        if self._ledger is None and not self._names_costs:
            return {}
        usage, before = self._usage, self._before
        tokens = usage.prompt_tokens + usage.completion_tokens
        tokens -= before.prompt_tokens + before.completion_tokens
        told = {} if self._ledger is None else {"tokens": short(tokens)}
        return told | {"cost": self._cost(missing)}

    def _cost(self, missing: int) -> str:
        spent = self._spent_usd
        if spent is None:
            return "unknown"
        if self._rows_usd is None or not self._recent:
            return dollars(spent)
        rest = missing * sum(self._recent) / len(self._recent)
        return f"{dollars(spent)} of ~{dollars(max(spent, self._rows_usd + rest))}"
