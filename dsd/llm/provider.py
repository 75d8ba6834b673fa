"""One model of one provider, reached through litellm, with its errors typed and its answers bounded."""

import asyncio
import email.utils
import logging
import math
import os
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from pydantic import BaseModel

from dsd.llm.records import AnswerError, CallFailed, ErrorKind, Price, Refused, Usage, described
from dsd.llm.secrets import Redactor

try:
    import httpx
    import litellm
    import openai
    from litellm.llms.custom_httpx.http_handler import AsyncHTTPHandler
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"Language models need the package {error.name!r}. Install it: "
        "pip install 'diffusion-self-distillation[llm]'"
    ) from error

logger = logging.getLogger(__name__)
litellm.suppress_debug_info = True  # it prints to stdout at every error

Structured = Literal["auto", "schema", "json_object", "prompt"]

_LONGEST_RETRY_AFTER_S = 86_400.0  # a day; servers that say more are not believed
MAX_ANSWER_BYTES = 8 * 2**20
_MAX_MESSAGE_CHARS = 600
_BY_SDK = frozenset({"openai", "custom_openai", "litellm_proxy", "lm_studio", "perplexity", "deepinfra"})
_BY_HANDLER = frozenset(
    {"anthropic", "gemini", "hosted_vllm", "openrouter", "deepseek", "xai", "mistral", "together_ai",
     "fireworks_ai", "huggingface"}
)  # fmt: skip


class _TooLarge(Exception):
    pass


async def _plainly(request: httpx.Request) -> None:
    """The size of a compressed answer is not known before it fills the memory."""
    request.headers["accept-encoding"] = "identity"


async def _bounded(response: httpx.Response) -> None:
    """Break off an answer that is larger than any honest one."""
    coding = response.headers.get("content-encoding", "identity")
    declared = response.headers.get("content-length", "0")
    if coding != "identity" or (declared.isdigit() and int(declared) > MAX_ANSWER_BYTES):
        await response.aclose()
        raise _TooLarge(f"an answer of {declared} bytes, {coding}")
    assert isinstance(response.stream, httpx.AsyncByteStream)
    response.stream = _Counted(response.stream)


class _Counted(httpx.AsyncByteStream):
    def __init__(self, stream: httpx.AsyncByteStream) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size = 0
        async for chunk in self._stream:
            size += len(chunk)
            if size > MAX_ANSWER_BYTES:
                raise _TooLarge(f"an answer of more than {MAX_ANSWER_BYTES} bytes")
            yield chunk

    async def aclose(self) -> None:
        await self._stream.aclose()


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What came back, before anyone made sense of it.

    Attributes:
        text: of the answer.
        refused: the provider says that the model, or a filter, declined.
        cut: the limit of tokens ended it.
        usage: of this one call.
    """

    text: str
    refused: bool
    cut: bool
    usage: Usage


class Provider:
    """Calls one model.

    Args:
        model: as litellm names it, "provider/model".
        api_base: another address of the provider; needed for servers of one's own.
        api_key: by default from the environment, where litellm looks for it.
        timeout_s: of one call, from the first byte sent to the last one received.
        structured: whether the model takes a JSON schema: "auto" asks litellm, "schema" says yes, "prompt"
            says no; "json_object" is the older form, with the schema beside it, of llama-cpp-python and
            others, which hold a model to it without showing it: it is in the prompt too.
        price: of a model that litellm does not know, or as negotiated.

    Raises:
        ValueError: if litellm does not know the provider.
    """

    def __init__(
        self,
        model: str,
        *,
        api_base: str | None = None,
        api_key: str | None = None,
        timeout_s: float = 120.0,
        structured: Structured = "auto",
        price: Price | Mapping[str, float] | None = None,
    ) -> None:
        if structured not in get_args(Structured):
            raise ValueError(f"`structured` must be one of {get_args(Structured)}; got {structured!r}.")
        self.model, self._api_base, self._timeout_s = model, api_base, timeout_s
        self.redact = Redactor([api_key or ""])
        try:
            short, self.name, key, base = litellm.get_llm_provider(model, api_base=api_base, api_key=api_key)
        except litellm.exceptions.BadRequestError as error:
            raise ValueError(
                f"litellm knows no provider for the model {model!r}. Write 'provider/model', such as "
                "'openai/gpt-4o', 'gemini/gemini-2.5-flash', or 'hosted_vllm/NAME' with api_base for a "
                f"server of your own. It says: {self.redact(str(error))[:_MAX_MESSAGE_CHARS]}"
            ) from None
        self._key = api_key or key
        self._older_form = structured == "json_object"
        self.takes_schema = structured == "schema" or (
            structured == "auto" and bool(litellm.supports_response_schema(short, self.name))
        )
        self._price = Price.parse(price) or _known_price(short, self.name)
        self._handler: AsyncHTTPHandler | None = None
        self._client = self._make_client(base)

    @property
    def price(self) -> Price | None:
        """None if it is unknown."""
        return self._price

    async def call(
        self,
        messages: list[dict[str, Any]],
        *,
        schema: type[BaseModel] | None,
        max_tokens: int,
        temperature: float | None,
        seed: int | None,
    ) -> Reply:
        """One call, tried once.

        Raises:
            Refused: if a filter of the provider stopped it.
            CallFailed: if it came to nothing.
        """
        given: dict[str, Any] = {"max_tokens": max_tokens, "temperature": temperature, "seed": seed}
        if schema is not None and self.takes_schema:
            given["response_format"] = schema
        elif schema is not None and self._older_form:
            given["response_format"] = {"type": "json_object", "schema": described(schema)}
        if self._client is not None:
            given["client"] = self._client
        try:
            response = await asyncio.wait_for(
                litellm.acompletion(
                    model=self.model,
                    messages=messages,
                    api_base=self._api_base,
                    api_key=self._key,
                    timeout=self._timeout_s,
                    num_retries=0,
                    max_retries=0,
                    drop_params=True,  # some models take no temperature or seed; of this call alone
                    **{name: value for name, value in given.items() if value is not None},
                ),
                self._timeout_s,
            )
        except (TimeoutError, asyncio.TimeoutError):
            raise CallFailed(
                f"{self.model} did not answer within {self._timeout_s:g} s.", kind="timeout"
            ) from None
        except Exception as error:  # litellm raises what its providers' code raises
            # Without the cause: its text and its request may hold keys.
            raise self.typed(error) from None
        return self._reply(response)

    async def close(self) -> None:
        """Close the connections."""
        if self._handler is not None:
            await self._handler.client.aclose()

    def _make_client(self, base: str | None) -> Any:
        """A client with bounded answers, in the form that this provider's code takes; None where it takes
        none, so that only the time bounds an answer.
        """
        if self.name not in _BY_SDK | _BY_HANDLER:
            return None
        hooks = {"request": [_plainly], "response": [_bounded]}
        self._handler = AsyncHTTPHandler(timeout=self._timeout_s, event_hooks=hooks)
        if self.name in _BY_HANDLER:
            return self._handler
        key = self._key or os.environ.get("OPENAI_API_KEY") or "none"
        http = self._handler.client
        return openai.AsyncOpenAI(
            api_key=key, base_url=self._api_base or base, http_client=http, max_retries=0
        )

    def _reply(self, response: Any) -> Reply:
        try:
            choice = response.choices[0]
            text, reason = choice.message.content or "", str(choice.finish_reason)
            fields = getattr(choice.message, "provider_specific_fields", None) or {}
            said_no = getattr(choice.message, "refusal", None) or fields.get("refusal")
        except (AttributeError, IndexError, TypeError):
            raise CallFailed(f"{self.model} gave an answer without a message.", kind="malformed") from None
        used = getattr(response, "usage", None)
        sent = int(getattr(used, "prompt_tokens", 0) or 0)
        received = int(getattr(used, "completion_tokens", 0) or 0)
        usage = Usage(
            calls=1,
            prompt_tokens=sent,
            completion_tokens=received,
            cost_usd=None if self._price is None else self._price.of(sent, received),
        )
        return Reply(
            text=self.redact(said_no or text),
            refused=bool(said_no) or reason in ("content_filter", "refusal", "safety"),
            cut=reason == "length",
            usage=usage,
        )

    def access(self) -> dict[str, Any]:
        """What litellm's other calls to this provider need."""
        given = {"custom_llm_provider": self.name, "api_base": self._api_base, "api_key": self._key}
        return {name: value for name, value in given.items() if value is not None}

    def typed(self, error: Exception) -> AnswerError:
        """An error of litellm's as one of ours, without keys."""
        text = f"{type(error).__name__}: {error}"
        message = f"{self.model}: {self.redact(text)[:_MAX_MESSAGE_CHARS]}"
        if isinstance(error, litellm.exceptions.ContentPolicyViolationError):
            return Refused(message)
        kind = _kind(error, text)
        return CallFailed(message, kind=kind, retry_after_s=_retry_after(error))


def _kind(error: Exception, text: str) -> ErrorKind:
    known = litellm.exceptions
    chain: BaseException | None = error
    while chain is not None:
        if isinstance(chain, _TooLarge):
            return "too_large"
        chain = chain.__cause__ or chain.__context__
    if "converting to valid response" in text:  # litellm's words for a body that is not the provider's JSON
        return "malformed"
    table: list[tuple[Any, ErrorKind]] = [
        (known.RateLimitError, "quota" if "insufficient_quota" in text else "rate_limit"),
        (known.Timeout, "timeout"),
        (known.ContextWindowExceededError, "context"),
        ((known.AuthenticationError, known.PermissionDeniedError), "authentication"),
        (known.NotFoundError, "not_found"),
        ((known.BadRequestError, known.UnprocessableEntityError), "bad_request"),
        (known.APIResponseValidationError, "malformed"),
        ((known.InternalServerError, known.ServiceUnavailableError, known.BadGatewayError), "server"),
        (known.APIConnectionError, "connection"),
    ]
    for classes, kind in table:
        if isinstance(error, classes):
            return kind
    status = getattr(error, "status_code", None)
    return "server" if isinstance(status, int) and status >= 500 else "malformed"


def _retry_after(error: Exception) -> float | None:
    """Seconds that the provider asks to wait; None if it does not say."""
    headers = getattr(error, "litellm_response_headers", None)
    if headers is None:
        headers = getattr(getattr(error, "response", None), "headers", None)
    value = None if headers is None else headers.get("retry-after")
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:  # the other form is a date
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except (TypeError, ValueError, OverflowError):
            seconds = math.nan
    if not math.isfinite(seconds):
        logger.debug("Retry-After %r is neither seconds nor a date", value)
        return None
    return min(max(0.0, seconds), _LONGEST_RETRY_AFTER_S)


def _known_price(name: str, provider: str) -> Price | None:
    """From litellm's table; None if the model is not in it."""
    for key in (f"{provider}/{name}", name):
        entry = litellm.model_cost.get(key)
        if entry and entry.get("litellm_provider", provider).startswith(provider):
            sent, received = entry.get("input_cost_per_token"), entry.get("output_cost_per_token")
            if sent is not None and received is not None:
                return Price(prompt=1e6 * sent, completion=1e6 * received)
    return None
