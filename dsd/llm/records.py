"""A request, its answer, what both cost, and the typed failures."""

import functools
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from pydantic import BaseModel

from dsd.llm.messages import Message

ErrorKind = Literal[
    "rate_limit", "quota", "timeout", "connection", "server", "malformed", "too_large", "empty",
    "authentication", "not_found", "context", "bad_request",
]  # fmt: skip
"""Why a call failed. All up to "empty", but for "quota" and "too_large", are worth another try."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """One question to a model.

    Attributes:
        messages: the dialogue so far; the last turn is the user's.
        schema: the pydantic model of the answer; None for plain text. Fields that reason stand before those
            that conclude, since models write in that order.
        read: makes sense of an answer in plain text: returns its value, or raises a ValueError that says what
            is wrong with it, in words that a model can act on. None takes every text.
        max_tokens: of the answer.
        temperature: of sampling; None leaves it to the provider, as some models demand.
        version: of the prompt's text, where it does not show in the messages.
        replicate: number of the vote; each one is asked anew, and cached on its own.
    """

    messages: Sequence[Message]
    schema: type[BaseModel] | None = None
    read: Callable[[str], Any] | None = None
    max_tokens: int = 1024
    temperature: float | None = 0.0
    version: str = ""
    replicate: int = 0

    def key(self, model: str) -> str:
        """What its answer is cached under: a hash of all that the answer depends on, pictures by content."""
        content = {
            "model": model,
            "messages": [message.hashed() for message in self.messages],
            "schema": None if self.schema is None else described(self.schema),
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
            "version": self.version,
            "replicate": self.replicate,
        }
        text = json.dumps(content, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


@functools.lru_cache(maxsize=256)
def described(schema: type[BaseModel]) -> dict[str, Any]:
    """Its JSON schema. Pydantic makes it anew at every call: that would be most of a cache hit's time."""
    return schema.model_json_schema()


@dataclass(frozen=True, kw_only=True)
class Usage:
    """What was sent and received.

    Attributes:
        calls: to the provider; 0 for an answer from the cache.
        prompt_tokens: all tokens sent, those of pictures too.
        completion_tokens: all tokens received.
        cost_usd: None if the price is unknown.
    """

    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: float | None = 0.0

    def __add__(self, other: "Usage") -> "Usage":
        """Both together; the cost is unknown if either is."""
        known = self.cost_usd is not None and other.cost_usd is not None
        return Usage(
            calls=self.calls + other.calls,
            prompt_tokens=self.prompt_tokens + other.prompt_tokens,
            completion_tokens=self.completion_tokens + other.completion_tokens,
            cost_usd=(self.cost_usd or 0.0) + (other.cost_usd or 0.0) if known else None,
        )

    def scaled(self, factor: float) -> "Usage":
        """So many times as much."""
        return Usage(
            calls=round(self.calls * factor),
            prompt_tokens=round(self.prompt_tokens * factor),
            completion_tokens=round(self.completion_tokens * factor),
            cost_usd=None if self.cost_usd is None else self.cost_usd * factor,
        )


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a model said.

    Attributes:
        value: an object of the request's schema, what its `read` returned, or the text.
        text: the answer as it came.
        model: which model gave it, the wanted one or a fallback.
        usage: of this answer, repairs and failed tries included; zero if it came from the cache.
        cached: whether it came from the cache.
    """

    value: Any
    text: str
    model: str
    usage: Usage = field(default_factory=Usage)
    cached: bool = False


class AnswerError(RuntimeError):
    """No usable answer came. `status` is that of the verdict it leads to.

    Attributes:
        raw: the last answer as it came, if there was one.
        usage: what was spent all the same.
    """

    status: ClassVar[Literal["refused", "unparsable", "failed"]] = "failed"

    def __init__(self, message: str, *, raw: str = "", usage: Usage | None = None) -> None:
        super().__init__(message)
        self.raw, self.usage = raw, usage or Usage()


class Refused(AnswerError):
    """The model, or a filter in front of it, would not answer."""

    status = "refused"


class Unparsable(AnswerError):
    """The answer does not fit the schema, nor after the model was shown why."""

    status = "unparsable"


class CallFailed(AnswerError):
    """The provider could not be reached, or returned errors, after all tries."""

    def __init__(
        self,
        message: str,
        *,
        kind: ErrorKind,
        raw: str = "",
        usage: Usage | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message, raw=raw, usage=usage)
        self.kind, self.retry_after_s = kind, retry_after_s


class Stopped(RuntimeError):
    """Nothing more is asked: the money or the time given for the run is spent, or nobody answers. What was
    answered is kept in the cache, so that the next run goes on from there.
    """


class BudgetSpent(Stopped):
    """Another call could exceed `max_cost_usd`."""


class DeadlinePassed(Stopped):
    """The time for the whole run, `run_deadline_s`, is over."""


class OutOfService(Stopped):
    """Whoever is asked has not answered many times in a row: it cannot be reached, or returns errors."""


@dataclass(frozen=True, kw_only=True)
class Price:
    """What a model costs, for those that litellm does not know, or as you negotiated.

    Attributes:
        prompt: US dollars for a million tokens sent.
        completion: US dollars for a million tokens received.
    """

    prompt: float
    completion: float

    def of(self, prompt_tokens: int, completion_tokens: int) -> float:
        """US dollars."""
        return (self.prompt * prompt_tokens + self.completion * completion_tokens) / 1e6

    @staticmethod
    def parse(given: "Price | Mapping[str, float] | None") -> "Price | None":
        """A price from a spec.

        Raises:
            ValueError: if it lacks a field, has an unknown one, or is negative.
        """
        if given is None or isinstance(given, Price):
            return given
        if set(given) != {"prompt", "completion"} or any(value < 0 for value in given.values()):
            raise ValueError(
                f"A price is {{'prompt': ..., 'completion': ...}} in US dollars for a million tokens, none "
                f"below 0; got {dict(given)}."
            )
        return Price(prompt=float(given["prompt"]), completion=float(given["completion"]))
