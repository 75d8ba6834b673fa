"""Providers' batch mode: many questions in one file, answered within a day at half the price.

    door.run(batches.answer(door, requests))     # fills the cache
    door.run(door.ask(requests[0]))              # found there

What a batch left without a valid answer is asked as usual afterwards.
"""

import asyncio
import hashlib
import json
import logging
from collections.abc import Sequence
from typing import Any

import litellm
from litellm.llms.base_llm.base_utils import type_to_response_format_param

from dsd.llm import parsing
from dsd.llm.cache import RequestCache
from dsd.llm.door import LLM
from dsd.llm.provider import Provider
from dsd.llm.records import CallFailed, Request, Usage

logger = logging.getLogger(__name__)

PROVIDERS = ("openai", "azure", "vertex_ai", "bedrock", "hosted_vllm", "litellm_proxy", "mistral", "xai")
MAX_FILE_BYTES = 190_000_000  # OpenAI takes 200 MB
MAX_REQUESTS = 50_000
_DISCOUNT = 0.5
_MAX_ANSWERS_BYTES = 2**30
_FAILED = ("failed", "expired", "cancelled")


async def answer(door: LLM, requests: Sequence[Request], *, poll_s: float = 60.0) -> Usage:
    """Have requests answered in batch mode, into the door's cache.

    A batch that was sent is noted in the cache, so that a run that was killed while it waited asks for the
    same batch again instead of paying for another.

    Args:
        door: with a cache, and a model of one of `PROVIDERS`.
        requests: those that the cache answers already are left out.
        poll_s: between two looks at a batch.

    Returns:
        what was spent.

    Raises:
        ValueError: if the provider has no batch mode that litellm reaches, or the door has no cache.
        CallFailed: if the provider refuses or fails a batch.
    """
    provider, cache = door.providers[0], door.cache
    if provider.name not in PROVIDERS:
        raise ValueError(
            f"{provider.model!r} has no batch mode that litellm reaches. Those that have: "
            f"{', '.join(PROVIDERS)}."
        )
    if cache is None:
        raise ValueError("Batch mode keeps its answers in the cache. Give the model `cache`, a file.")
    missing = {
        request.key(door.model): request for request in requests if cache.get(request, door.model) is None
    }
    spent = Usage()
    for part in _parts(provider, missing):
        spent += await _answer_part(door, provider, cache, part, missing, poll_s)
    return spent


def _parts(provider: Provider, requests: dict[str, Request]) -> list[dict[str, bytes]]:
    """Lines of the files to send, by key; none larger than providers take."""
    parts: list[dict[str, bytes]] = [{}]
    size = 0
    for key, request in requests.items():
        line = _line(provider, key, request)
        if parts[-1] and (size + len(line) > MAX_FILE_BYTES or len(parts[-1]) >= MAX_REQUESTS):
            parts.append({})
            size = 0
        parts[-1][key] = line
        size += len(line)
    return [part for part in parts if part]


def _line(provider: Provider, key: str, request: Request) -> bytes:
    messages = [message.wire() for message in request.messages]
    body: dict[str, Any] = {"model": provider.model.partition("/")[2], "messages": messages}
    body["max_tokens"] = request.max_tokens
    if request.temperature is not None:
        body["temperature"] = request.temperature
    if request.schema is not None and provider.takes_schema:
        body["response_format"] = type_to_response_format_param(request.schema)
    elif request.schema is not None:
        messages.append({"role": "user", "content": parsing.instructions(request.schema)})
    line = {"custom_id": key, "method": "POST", "url": "/v1/chat/completions", "body": body}
    return json.dumps(line).encode() + b"\n"


async def _answer_part(
    door: LLM,
    provider: Provider,
    cache: RequestCache,
    part: dict[str, bytes],
    requests: dict[str, Request],
    poll_s: float,
) -> Usage:
    name = hashlib.sha256("".join(sorted(part)).encode()).hexdigest()
    batch_id = cache.batch(name)
    try:
        if batch_id is None:
            file = await litellm.acreate_file(
                file=("requests.jsonl", b"".join(part.values())), purpose="batch", **provider.access()
            )
            batch = await litellm.acreate_batch(
                completion_window="24h",
                endpoint="/v1/chat/completions",
                input_file_id=file.id,
                **provider.access(),
            )
            batch_id = batch.id
            cache.note_batch(name, batch_id)
            logger.info("Batch %s of %d requests was sent", batch_id, len(part))
        while True:
            batch = await litellm.aretrieve_batch(batch_id=batch_id, **provider.access())
            if batch.status in ("completed", *_FAILED):
                break
            await asyncio.sleep(poll_s)
        content = b""
        if batch.output_file_id:  # an expired batch has the answers that came in time
            content = (await litellm.afile_content(file_id=batch.output_file_id, **provider.access())).content
    except Exception as error:  # litellm raises what its providers' code raises
        raise provider.typed(error) from None
    cache.note_batch(name, None)
    if batch.status in _FAILED and not content:
        raise CallFailed(f"{provider.model}: batch {batch_id} ended as {batch.status!r}.", kind="server")
    if len(content) > _MAX_ANSWERS_BYTES:
        raise CallFailed(f"{provider.model}: batch {batch_id} is {len(content)} bytes.", kind="too_large")
    spent = Usage()
    for line in content.splitlines():
        spent += _keep(door, provider, cache, line, requests)
    return spent


def _keep(
    door: LLM, provider: Provider, cache: RequestCache, line: bytes, requests: dict[str, Request]
) -> Usage:
    """Put one line's answer into the cache, if it is one to a request of ours and valid."""
    try:
        row = json.loads(line)
        request, body = requests[row["custom_id"]], row["response"]["body"]
        text = body["choices"][0]["message"]["content"]
        sent, received = int(body["usage"]["prompt_tokens"]), int(body["usage"]["completion_tokens"])
    except (ValueError, KeyError, IndexError, TypeError):
        logger.warning("A line of a batch of %s is no answer: %r", provider.model, line[:200])
        return Usage()
    cost = None if provider.price is None else _DISCOUNT * provider.price.of(sent, received)
    usage = Usage(calls=1, prompt_tokens=sent, completion_tokens=received, cost_usd=cost)
    door.ledger.add(usage)
    try:
        if not isinstance(text, str) or not text.strip():
            raise ValueError("it is empty")
        parsing.value_of(text, request, cut=body["choices"][0].get("finish_reason") == "length")
    except ValueError as error:
        logger.info("An answer of a batch of %s is not valid: %s", provider.model, error)
        return usage
    cache.put(request, door.model, {"text": provider.redact(text), "model": provider.model})
    return usage
