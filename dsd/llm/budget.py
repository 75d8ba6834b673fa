"""The money and the time of a run, and what a question is expected to take of them."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from dsd.llm.ledger import Ledger
from dsd.llm.messages import Picture
from dsd.llm.records import BudgetSpent, DeadlinePassed, Request, described

_CHARS_PER_TOKEN = 3.5
_PIXELS_PER_TOKEN = 750  # Anthropic's rule; others take fewer at 512 px
_ANSWER_SHARE = 3  # answers are seldom longer than a third of what they may be


class Budget:
    """Lets calls pass while there is time and money for them.

    Args:
        ledger: what is spent so far.
        max_cost_usd: None for no limit.
        run_deadline_s: of all calls, from the first on; None for none.
    """

    def __init__(self, ledger: Ledger, max_cost_usd: float | None, run_deadline_s: float | None) -> None:
        self._ledger, self._max_cost_usd, self._run_deadline_s = ledger, max_cost_usd, run_deadline_s
        self._reserved_usd = self._dearest_usd = 0.0
        self._started: float | None = None
        self._known = max_cost_usd is None
        self._first = asyncio.Lock()

    @asynccontextmanager
    async def call(self, expected_usd: float) -> AsyncIterator[None]:
        """Around one call, whose cost goes to the ledger before it ends.

        As much is set aside as the dearest call so far has cost, so that calls at the same time cannot exceed
        the limit together; and the first call goes alone, for what is expected is a rule of thumb.

        Raises:
            DeadlinePassed, BudgetSpent: if the call may not be made.
        """
        async with AsyncExitStack() as stack:
            if not self._known:
                await stack.enter_async_context(self._first)
            most = max(expected_usd, self._dearest_usd)
            self._check(most)
            self._reserved_usd += most
            try:
                yield
            finally:
                self._reserved_usd -= most

    def _check(self, most_usd: float) -> None:
        now = time.monotonic()
        self._started = now if self._started is None else self._started
        if self._run_deadline_s is not None and now - self._started > self._run_deadline_s:
            raise DeadlinePassed(
                f"The {self._run_deadline_s:g} s given for this run are over ({self._ledger}). What was "
                "answered is kept; call it again to go on."
            )
        if self._max_cost_usd is None:
            return
        spent = (self._ledger.usage.cost_usd or 0.0) + self._reserved_usd
        if spent + most_usd > self._max_cost_usd:
            raise BudgetSpent(
                f"Another call of up to ${most_usd:.4f} could exceed max_cost_usd={self._max_cost_usd:g} "
                f"({self._ledger}). What was answered is kept; raise the limit to go on."
            )

    def learn(self, cost_usd: float | None) -> None:
        """A call has cost so much."""
        self._known = True
        self._dearest_usd = max(self._dearest_usd, cost_usd or 0.0)


def prompt_tokens(request: Request) -> int:
    """How many tokens a request sends, by rules of thumb."""
    tokens = 0.0
    for message in request.messages:
        for part in message.parts:
            if isinstance(part, Picture):
                width, height = part.sent_size()
                tokens += width * height / _PIXELS_PER_TOKEN
            else:
                tokens += len(part) / _CHARS_PER_TOKEN
    if request.schema is not None:
        tokens += len(str(described(request.schema))) / _CHARS_PER_TOKEN
    return round(tokens) + 10


def answer_tokens(request: Request) -> int:
    """How many tokens its answer is expected to have."""
    return request.max_tokens // _ANSWER_SHARE
