"""What was asked, answered and spent."""

from collections import Counter

from dsd.llm.records import Usage


class Ledger:
    """Sums over all questions to one `LLM`; read it at any time.

    Attributes:
        usage: calls, tokens and dollars; the dollars are None once a call of unknown price was made.
        cached: how many answers came from the cache.
        retries: how many calls were tried again.
        outcomes: how many questions ended as "answered", "refused", "unparsable" or "failed".
    """

    def __init__(self) -> None:
        self.usage = Usage()
        self.cached = self.retries = 0
        self.outcomes: Counter[str] = Counter()

    def add(self, usage: Usage) -> None:
        """A call was made."""
        self.usage += usage

    def __str__(self) -> str:
        tokens = self.usage.prompt_tokens + self.usage.completion_tokens
        return f"{short(tokens)} tokens, {dollars(self.usage.cost_usd)}"


def short(count: float) -> str:
    """A number in at most four characters: 999, 12k, 3.4M."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.3g}{unit}" if count < 100 * size else f"{count / size:.0f}{unit}"
    return f"{count:.0f}"


def dollars(cost_usd: float | None) -> str:
    """An amount, or that it is unknown."""
    if cost_usd is None:
        return "$ unknown"
    return f"${cost_usd:.2f}" if cost_usd >= 1 or cost_usd == 0 else f"${cost_usd:.4f}"
