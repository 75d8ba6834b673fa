"""The door itself: limits, tries, fallbacks, the cache and the budget around a provider's calls."""

import asyncio
import logging
import random
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from dsd.llm import loop, parsing
from dsd.llm.budget import Budget, answer_tokens, prompt_tokens
from dsd.llm.cache import RequestCache
from dsd.llm.ledger import Ledger
from dsd.llm.pacing import Pace
from dsd.llm.provider import Provider, Reply, Structured
from dsd.llm.records import (
    Answer,
    AnswerError,
    BudgetSpent,
    CallFailed,
    DeadlinePassed,
    Price,
    Refused,
    Request,
    Unparsable,
    Usage,
)

logger = logging.getLogger(__name__)
T = TypeVar("T")
Item = TypeVar("Item")

RETRIES = {"rate_limit": 8, "timeout": 2, "connection": 4, "server": 4, "malformed": 2, "empty": 2}
"""How often a call is tried again, by the kind of its failure; others are not."""
_FIRST_WAIT_S, _LONGEST_WAIT_S = 1.0, 60.0
_REPAIR_CHARS = 4000


class LLM:
    """Asks one model, and others when it cannot be reached.

    Args:
        model: as litellm names it, "provider/model".
        api_base: another address of the provider.
        api_key: by default from the environment.
        fallbacks: models to ask in turn when all tries with the one before failed: names, or mappings with
            `model`, `api_base`, `api_key` and `price`.
        concurrency: most calls at the same time.
        rpm: most requests a minute; None for no limit.
        tpm: most tokens a minute.
        timeout_s: of one call.
        deadline_s: of one question with all its tries; None for none.
        run_deadline_s: of everything, from the first question on; then `DeadlinePassed` is raised.
        max_cost_usd: no call is made that could exceed it; then `BudgetSpent` is raised.
        price: US dollars for a million tokens, {"prompt": ..., "completion": ...}, for a model that litellm
            does not know.
        structured: whether the model takes a JSON schema: "auto" (as litellm says), "schema" (it does),
            "json_object" (it does, in the older form of llama-cpp-python and others), "prompt" (it does not).
        retries: numbers that differ from `RETRIES`.
        cache: file in which valid answers are kept; None for none.
        seed: of the model's sampling, where it takes one; replicate i gets seed + i.

    Raises:
        ModuleNotFoundError: if litellm is not installed.
        ValueError: if a number is out of range, a model's provider is unknown, or `max_cost_usd` is given and
            a price is unknown.
    """

    def __init__(
        self,
        model: str,
        *,
        api_base: str | None = None,
        api_key: str | None = None,
        fallbacks: Sequence[str | Mapping[str, Any]] = (),
        concurrency: int = 16,
        rpm: float | None = None,
        tpm: float | None = None,
        timeout_s: float = 120.0,
        deadline_s: float | None = None,
        run_deadline_s: float | None = None,
        max_cost_usd: float | None = None,
        price: Price | Mapping[str, float] | None = None,
        structured: Structured = "auto",
        retries: Mapping[str, int] | None = None,
        cache: str | Path | None = None,
        seed: int | None = None,
    ) -> None:
        _check(concurrency, timeout_s, deadline_s, run_deadline_s, max_cost_usd, retries or {})
        first = {"model": model, "api_base": api_base, "api_key": api_key, "price": price}
        others = [{"model": other} if isinstance(other, str) else dict(other) for other in fallbacks]
        self.providers = [
            Provider(**route, timeout_s=timeout_s, structured=structured) for route in [first, *others]
        ]
        self.model, self.concurrency, self.ledger = model, concurrency, Ledger()
        self._retries = {**RETRIES, **(retries or {})}
        self._budget = Budget(self.ledger, max_cost_usd, run_deadline_s)
        self._deadline_s, self._seed = deadline_s, seed
        self._pace, self._gate = Pace(rpm, tpm), asyncio.Semaphore(concurrency)
        self.cache: RequestCache | None = None
        unknown = [provider.model for provider in self.providers if provider.price is None]
        if max_cost_usd is not None and unknown:
            raise ValueError(
                f"max_cost_usd cannot be kept: the price of {unknown[0]!r} is unknown. Give price="
                "{'prompt': ..., 'completion': ...} in US dollars for a million tokens; 0 for a free one."
            )
        if cache is not None:
            self.keep_answers(Path(cache))

    def keep_answers(self, path: Path) -> None:
        """Keep valid answers in this file from now on, unless another one was named."""
        if self.cache is None:
            self.cache = RequestCache(path)

    async def ask(self, request: Request) -> Answer:
        """Ask once: from the cache, or by as many calls as it takes.

        Raises:
            Refused, Unparsable, CallFailed: if no usable answer came.
            BudgetSpent, DeadlinePassed: if none may be asked for any more.
        """
        stored = self._stored(request)
        if stored is not None:
            return stored
        spent = Usage()
        failure: CallFailed | None = None
        for provider in self.providers:
            try:
                answer = await self._within(self._asked(provider, request))
            except CallFailed as error:
                spent += error.usage
                failure = error
                logger.info("%s", error)
                continue
            except AnswerError as error:
                self.ledger.outcomes[error.status] += 1
                raise
            if self.cache is not None:
                self.cache.put(request, self.model, {"text": answer.text, "model": answer.model})
            self.ledger.outcomes["answered"] += 1
            return replace(answer, usage=spent + answer.usage)
        assert failure is not None
        failure.usage = spent
        self.ledger.outcomes["failed"] += 1
        raise failure

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run to its end and return its result; from synchronous code, also inside a notebook."""
        return loop.result(loop.submit(coroutine))

    def map(
        self, function: Callable[[Item], Awaitable[T]], items: Iterable[Item]
    ) -> Iterator[T | AnswerError]:
        """The results of an asynchronous function, in order, many items at once; a failed question becomes a
        value.

        Items are taken as they are needed, so that memory does not grow with their number. When the money or
        the time is spent, what is being asked is waited for, and its answers are kept.

        Raises:
            Stopped: if the money or the time is spent.
        """

        async def guarded(item: Item) -> T | AnswerError:
            try:
                return await function(item)
            except AnswerError as error:
                return error

        waiting: deque[Future[T | AnswerError]] = deque()
        source = iter(items)
        more = True
        try:
            while more or waiting:
                while more and len(waiting) < 4 * self.concurrency:
                    for item in source:
                        waiting.append(loop.submit(guarded(item)))
                        break
                    else:
                        more = False
                if waiting:
                    yield loop.result(waiting[0])
                    waiting.popleft()
        except (BudgetSpent, DeadlinePassed):
            for future in waiting:
                loop.settle(future)
            raise
        finally:
            for future in waiting:
                future.cancel()

    def estimate(self, request: Request) -> Usage:
        """What one question would take, by rules of thumb and without asking; a cost of None is unknown."""
        sent, received = prompt_tokens(request), answer_tokens(request)
        price = self.providers[0].price
        cost = None if price is None else price.of(sent, received)
        return Usage(calls=1, prompt_tokens=sent, completion_tokens=received, cost_usd=cost)

    def close(self) -> None:
        """Close connections and cache."""
        for provider in self.providers:
            self.run(provider.close())
        if self.cache is not None:
            self.cache.close()
            self.cache = None

    def _stored(self, request: Request) -> Answer | None:
        found = None if self.cache is None else self.cache.get(request, self.model)
        if found is None:
            return None
        try:
            value = parsing.value_of(found["text"], request)
        except ValueError:  # the form was made stricter by code that the cache's key does not show
            return None
        self.ledger.cached += 1
        return Answer(value=value, text=found["text"], model=found["model"], cached=True)

    async def _within(self, asking: Coroutine[Any, Any, Answer]) -> Answer:
        try:
            return await asyncio.wait_for(asking, self._deadline_s)
        except (TimeoutError, asyncio.TimeoutError):
            message = f"{self.model}: no answer within the deadline of {self._deadline_s:g} s."
            raise CallFailed(message, kind="timeout") from None

    async def _asked(self, provider: Provider, request: Request) -> Answer:
        """Ask one model, show it once what is wrong with its answer, and make sense of what it says."""
        messages = [message.wire() for message in request.messages]
        if request.schema is not None and not provider.takes_schema:
            messages.append({"role": "user", "content": parsing.instructions(request.schema)})
        max_tokens, usage = request.max_tokens, Usage()
        for last in (False, True):
            reply = await self._tried(provider, request, messages, max_tokens, usage)
            usage += reply.usage
            if reply.refused:
                raise Refused(f"{provider.model} declined: {reply.text[:300]}", raw=reply.text, usage=usage)
            try:
                value = parsing.value_of(reply.text, request, reply.cut)
            except ValueError as error:
                if parsing.is_refusal(reply.text):
                    text = f"{provider.model} declined: {reply.text[:300]}"
                    raise Refused(text, raw=reply.text, usage=usage) from None
                if last:
                    text = f"{provider.model} gave no valid answer: {error}."
                    raise Unparsable(text, raw=reply.text, usage=usage) from None
                self.ledger.retries += 1
                if reply.cut:
                    max_tokens *= 2
                else:
                    messages += _repair(reply.text, str(error), request)
                continue
            return Answer(value=value, text=reply.text, model=provider.model, usage=usage)
        raise AssertionError("the last turn returns or raises")

    async def _tried(
        self,
        provider: Provider,
        request: Request,
        messages: list[dict[str, Any]],
        max_tokens: int,
        spent: Usage,
    ) -> Reply:
        """Call until it works, or no more tries are left for the kind of failure."""
        tries: dict[str, int] = {}
        while True:
            try:
                reply = await self._called(provider, request, messages, max_tokens)
                if reply.text.strip() or reply.refused:
                    return reply
                spent += reply.usage
                raise CallFailed(f"{provider.model} gave an empty answer.", kind="empty")
            except CallFailed as error:
                error.usage = spent
                tries[error.kind] = tries.get(error.kind, 0) + 1
                if tries[error.kind] > self._retries.get(error.kind, 0):
                    raise
                wait = wait_s(sum(tries.values()), error.retry_after_s)
                if error.kind == "rate_limit" and error.retry_after_s is not None:
                    self._pace.hold(wait)  # for all: asking on would only lengthen it
            except AnswerError as error:
                error.usage = spent
                raise
            self.ledger.retries += 1
            await asyncio.sleep(wait)

    async def _called(
        self, provider: Provider, request: Request, messages: list[dict[str, Any]], max_tokens: int
    ) -> Reply:
        """One call, when there is room, time and money for it."""
        sent, received = prompt_tokens(request), answer_tokens(request)
        most = 0.0 if provider.price is None else provider.price.of(sent, max_tokens)
        async with self._gate:
            await self._pace.take(sent + received)
            async with self._budget.call(most):
                reply = await provider.call(
                    messages,
                    schema=request.schema,
                    max_tokens=max_tokens,
                    temperature=request.temperature,
                    seed=None if self._seed is None else self._seed + request.replicate,
                )
                self.ledger.add(reply.usage)
                self._budget.learn(reply.usage.cost_usd)
            self._pace.settle(reply.usage.prompt_tokens + reply.usage.completion_tokens - sent - received)
            return reply


def _repair(text: str, problem: str, request: Request) -> list[dict[str, Any]]:
    wanted = "in the form asked for" if request.schema is None else "with the corrected JSON object alone"
    asked = f"Your answer is not valid: {problem}. Answer again {wanted}."
    return [{"role": "assistant", "content": text[:_REPAIR_CHARS]}, {"role": "user", "content": asked}]


def wait_s(tries: int, retry_after_s: float | None) -> float:
    """As the provider says; else twice as long each time, with jitter so that calls come back scattered."""
    if retry_after_s is not None:
        return retry_after_s + random.uniform(0, 0.1)
    return random.uniform(0.5, 1.0) * min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2 ** (tries - 1))


def _check(
    concurrency: int,
    timeout_s: float,
    deadline_s: float | None,
    run_deadline_s: float | None,
    max_cost_usd: float | None,
    retries: Mapping[str, int],
) -> None:
    if concurrency < 1:
        raise ValueError(f"`concurrency` must be at least 1; got {concurrency}.")
    times = {"timeout_s": timeout_s, "deadline_s": deadline_s, "run_deadline_s": run_deadline_s}
    for name, value in times.items():
        if value is not None and value <= 0:
            raise ValueError(f"`{name}` must be above 0; got {value}.")
    if max_cost_usd is not None and max_cost_usd < 0:
        raise ValueError(f"`max_cost_usd` must be at least 0; got {max_cost_usd}.")
    if unknown := sorted(set(retries) - set(RETRIES)):
        raise ValueError(f"`retries` has no kind {unknown[0]!r}. Allowed: {', '.join(RETRIES)}.")
