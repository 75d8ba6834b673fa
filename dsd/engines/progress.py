"""What a stage shows of its progress."""

import sys
from collections import Counter, deque
from collections.abc import Sequence
from typing import Any, Generic, TypeVar

from tqdm import tqdm

from dsd.curators import Curator
from dsd.data.rows import Judged
from dsd.llm.ledger import dollars, short
from dsd.llm.records import Usage

T = TypeVar("T")

_RECENT = 256


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


class VerdictGauge(Gauge[Judged]):
    """The running yield of a curator, the pairs that it could not judge, and what this call of the stage
    spends.

    The cost of the whole call is projected from the mean cost of the last verdicts: the first ones of a
    resumed stage may come from answers that are paid already. A cost that is unknown is shown as such.

    Args:
        curator: with or without a ledger.
    """

    def __init__(self, curator: Curator) -> None:
        self._curator = curator
        self._before = self._usage
        self._statuses: Counter[str] = Counter()
        self._cost_usd: float | None = 0.0
        self._recent: deque[float] = deque(maxlen=_RECENT)
        self._names_costs = False

    @property
    def _usage(self) -> Usage:
        return Usage() if self._curator.ledger is None else self._curator.ledger.usage

    def add(self, records: Sequence[Judged]) -> None:
        """Verdicts came."""
        for record in records:
            self._statuses[record.verdict.status] += 1
            cost = record.verdict.cost_usd
            self._names_costs |= cost is not None
            self._recent.append(cost or 0.0)
            self._cost_usd = None if cost is None or self._cost_usd is None else self._cost_usd + cost

    def shown(self, missing: int) -> dict[str, str]:
        """Yield, other statuses, tokens, and dollars with their projection."""
        accepted, rejected = self._statuses["accepted"], self._statuses["rejected"]
        told = {"yield": f"{accepted / (accepted + rejected):.0%}"} if accepted + rejected else {}
        told |= {name: str(self._statuses[name]) for name in _OTHERS if self._statuses[name]}
        if self._curator.ledger is None and not self._names_costs:
            return told
        usage = self._usage
        tokens = usage.prompt_tokens + usage.completion_tokens
        tokens -= self._before.prompt_tokens + self._before.completion_tokens
        if self._curator.ledger is not None:
            told["tokens"] = short(tokens)
        return told | {"cost": self._cost(usage, missing)}

    def _cost(self, usage: Usage, missing: int) -> str:
        if self._curator.ledger is None:
            spent = self._cost_usd
        elif usage.cost_usd is None or self._before.cost_usd is None:
            spent = None
        else:
            spent = usage.cost_usd - self._before.cost_usd
        if spent is None or self._cost_usd is None:
            return "unknown" if spent is None else dollars(spent)
        if not self._recent:
            return dollars(spent)
        rest = missing * sum(self._recent) / len(self._recent)
        return f"{dollars(spent)} of ~{dollars(max(spent, self._cost_usd + rest))}"


_OTHERS = ("refused", "unparsable", "failed")
