"""The door to models that draw: image generation and editing through litellm, with the limits, tries and
typed failures of `LLM`.
"""

import asyncio
import base64
import binascii
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dsd.llm.provider import Provider  # first: it says what to install

import httpx  # isort: skip
import litellm  # isort: skip

from dsd.llm.budget import Budget
from dsd.llm.door import RETRIES, wait_s
from dsd.llm.ledger import Ledger
from dsd.llm.pacing import Pace
from dsd.llm.records import AnswerError, CallFailed, Refused, Usage

logger = logging.getLogger(__name__)

MAX_IMAGE_BYTES = 64 * 2**20
"""Of one picture as a file; more is not taken."""
_REFUSED = re.compile(
    r"moderation_blocked|content_policy_violation|rejected as a result of (?:our|the) safety system"
)
_TAKES_FORMAT = ("dall-e-2", "dall-e-3")  # others give the picture itself anyway, or do not know the word


@dataclass(frozen=True, kw_only=True)
class Painted:
    """One picture.

    Attributes:
        data: the file's content, as it came.
        cost_usd: None if unknown.
    """

    data: bytes
    cost_usd: float | None


class ImageModel:
    """Asks one model for pictures.

    Args:
        model: as litellm names it: "openai/gpt-image-1", "gemini/gemini-2.5-flash-image", ...
        api_base: another address of the provider.
        api_key: by default from the environment.
        concurrency: most calls at the same time.
        rpm: most requests a minute; None for no limit.
        timeout_s: of one call.
        run_deadline_s: of everything, from the first call on; then `DeadlinePassed` is raised.
        max_cost_usd: no call is made that could exceed it; then `BudgetSpent` is raised.
        price_usd: of one picture, where litellm does not know it or you negotiated.
        retries: numbers that differ from `RETRIES`.

    Raises:
        ModuleNotFoundError: if litellm is not installed.
        ValueError: if a number is out of range, the provider is unknown, or `max_cost_usd` is given without a
            `price_usd`.
    """

    def __init__(
        self,
        model: str,
        *,
        api_base: str | None = None,
        api_key: str | None = None,
        concurrency: int = 4,
        rpm: float | None = None,
        timeout_s: float = 300.0,
        run_deadline_s: float | None = None,
        max_cost_usd: float | None = None,
        price_usd: float | None = None,
        retries: Mapping[str, int] | None = None,
    ) -> None:
        if concurrency < 1:
            raise ValueError(f"`concurrency` must be at least 1; got {concurrency}.")
        for name, value in {"timeout_s": timeout_s, "run_deadline_s": run_deadline_s}.items():
            if value is not None and value <= 0:
                raise ValueError(f"`{name}` must be above 0; got {value}.")
        for name, value in {"max_cost_usd": max_cost_usd, "price_usd": price_usd}.items():
            if value is not None and value < 0:
                raise ValueError(f"`{name}` must be at least 0; got {value}.")
        if max_cost_usd is not None and price_usd is None:
            raise ValueError("max_cost_usd can be kept only with price_usd=, US dollars for one picture.")
        if unknown := sorted(set(retries or {}) - set(RETRIES)):
            raise ValueError(f"`retries` has no kind {unknown[0]!r}. Allowed: {', '.join(RETRIES)}.")
        self.model, self.concurrency, self.ledger = model, concurrency, Ledger()
        self._provider = Provider(model, api_base=api_base, api_key=api_key, timeout_s=timeout_s)
        self._timeout_s, self._price_usd = timeout_s, price_usd
        self._retries = {**RETRIES, **(retries or {})}
        self._budget = Budget(self.ledger, max_cost_usd, run_deadline_s)
        self._pace, self._gate = Pace(rpm, None), asyncio.Semaphore(concurrency)

    async def draw(self, prompt: str, references: Sequence[bytes] = (), **arguments: Any) -> Painted:
        """One picture of a prompt; with references (PNG files), a picture made from them.

        Args:
            prompt: what to draw.
            references: what the provider's editing is given.
            arguments: further arguments of the provider's call, such as `size` or `quality`.

        Raises:
            Refused, CallFailed: if no picture came.
            BudgetSpent, DeadlinePassed: if none may be asked for any more.
        """
        tries: dict[str, int] = {}
        while True:
            try:
                return await self._called(prompt, references, arguments)
            except CallFailed as error:
                tries[error.kind] = tries.get(error.kind, 0) + 1
                if tries[error.kind] > self._retries.get(error.kind, 0):
                    self.ledger.outcomes["failed"] += 1
                    raise
                wait = wait_s(sum(tries.values()), error.retry_after_s)
                if error.kind == "rate_limit" and error.retry_after_s is not None:
                    self._pace.hold(wait)
            except AnswerError as error:
                self.ledger.outcomes[error.status] += 1
                raise
            self.ledger.retries += 1
            await asyncio.sleep(wait)

    async def close(self) -> None:
        """Close connections."""
        await self._provider.close()

    async def _called(
        self, prompt: str, references: Sequence[bytes], arguments: Mapping[str, Any]
    ) -> Painted:
        given = {"prompt": prompt, "model": self.model, "n": 1, "timeout": self._timeout_s, "max_retries": 0}
        given |= self._provider.access() | dict(arguments)
        async with self._gate:
            await self._pace.take(0)
            async with self._budget.call(self._price_usd or 0.0):
                try:
                    response = await asyncio.wait_for(self._request(given, references), self._timeout_s)
                except (TimeoutError, asyncio.TimeoutError):
                    raise CallFailed(
                        f"{self.model} did not answer within {self._timeout_s:g} s.", kind="timeout"
                    ) from None
                except Exception as error:  # litellm raises what its providers' code raises
                    # Without the cause: its text and its request may hold keys.
                    raise _refusal(self._provider.typed(error)) from None
                cost = self._cost(response)
                self.ledger.add(Usage(calls=1, cost_usd=cost))
                self._budget.learn(cost)
            data = await self._data(response)
        self.ledger.outcomes["answered"] += 1
        return Painted(data=data, cost_usd=cost)

    def _request(self, given: dict[str, Any], references: Sequence[bytes]) -> Any:
        if references:
            return litellm.aimage_edit(
                image=list(references), **given
            )  # bytes: not all providers take tuples
        if given["model"].rpartition("/")[2] in _TAKES_FORMAT:
            given = {"response_format": "b64_json"} | given
        return litellm.aimage_generation(**given)

    def _cost(self, response: Any) -> float | None:
        if self._price_usd is not None:
            return self._price_usd
        found = (getattr(response, "_hidden_params", None) or {}).get("response_cost")
        return float(found) if isinstance(found, int | float) and found > 0 else None

    async def _data(self, response: Any) -> bytes:
        try:
            first = response.data[0]
            text, address = first.b64_json, first.url
        except (AttributeError, IndexError, TypeError):
            raise CallFailed(f"{self.model} gave an answer without a picture.", kind="malformed") from None
        if not text and address and address.startswith("data:"):
            text = address.partition("base64,")[2]
        if not text and not address:
            raise CallFailed(f"{self.model} gave an answer without a picture.", kind="malformed")
        if not text:
            return await self._fetched(address)
        if len(text) > MAX_IMAGE_BYTES * 4 // 3:
            raise CallFailed(f"{self.model} gave a picture of {len(text):,} characters.", kind="too_large")
        try:
            return base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            raise CallFailed(f"{self.model} gave a picture that is no base64.", kind="malformed") from None

    async def _fetched(self, address: str) -> bytes:
        """The picture at an address that the provider gave: bounded, without being sent on elsewhere."""
        if not address.startswith("https://"):
            raise CallFailed(f"{self.model} gave an address that is not https.", kind="malformed")
        data = bytearray()
        try:
            async with (
                httpx.AsyncClient(timeout=self._timeout_s, follow_redirects=False) as client,
                client.stream("GET", address) as answer,
            ):
                answer.raise_for_status()
                async for chunk in answer.aiter_bytes():
                    data += chunk
                    if len(data) > MAX_IMAGE_BYTES:
                        raise CallFailed(
                            f"{self.model} gave a picture of more than {MAX_IMAGE_BYTES} bytes.",
                            kind="too_large",
                        )
        except httpx.HTTPError as error:
            text = self._provider.redact(f"{type(error).__name__}: {error}")
            raise CallFailed(
                f"{self.model}: its picture could not be fetched: {text}", kind="connection"
            ) from None
        return bytes(data)


def _refusal(error: AnswerError) -> AnswerError:
    """What a provider's filter stopped is refused: litellm knows not all words in which they say so."""
    if isinstance(error, CallFailed) and error.kind == "bad_request" and _REFUSED.search(str(error)):
        return Refused(str(error), raw=error.raw, usage=error.usage)
    return error
