"""A server on 127.0.0.1 that speaks the protocols of OpenAI, Gemini and Anthropic, and their faults.

with serve(lambda asked: '{"same": true}') as server:
    LLM("openai/judge", api_base=server.openai, api_key="test")
"""

import asyncio
import base64
import io
import json
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from aiohttp import web
from PIL import Image

Protocol = Literal["openai", "gemini", "anthropic"]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One request as the server saw it."""

    protocol: Protocol
    model: str
    body: dict[str, Any]
    texts: list[str]
    images: list[Image.Image]
    roles: list[str]
    schema: dict[str, Any] | None
    headers: dict[str, str]
    number: int


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What the server does instead of answering.

    `status` with `headers` and `text`: an error. `drop_after`: the connection is closed after so many bytes
    of the answer. `hang_s`: nothing comes for so long, then the text. `huge`: a body of so many bytes.
    `refusal`: the protocol's own refusal. `filtered`: stopped by the protocol's content filter. `cut`: the
    answer `text`, ended by the limit of tokens. `content_type` with `text`: this body, as it is.
    """

    status: int = 200
    text: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    drop_after: int | None = None
    hang_s: float = 0.0
    huge: int = 0
    refusal: str = ""
    filtered: bool = False
    cut: bool = False
    content_type: str = ""


Answering = Callable[[Asked], "str | Fault | Awaitable[str | Fault]"]


class Server:
    """The base addresses of the three protocols, and all that was asked."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.openai = f"{url}/openai/v1"
        self.gemini = f"{url}/gemini"
        self.anthropic = f"{url}/anthropic"
        self.asked: list[Asked] = []
        self.in_flight = self.most_in_flight = 0
        self.files: dict[str, bytes] = {}
        self.batches: dict[str, dict[str, Any]] = {}


def _picture(data: str) -> Image.Image:
    image = Image.open(io.BytesIO(base64.b64decode(data)))
    image.load()
    return image


def _openai_parts(body: dict[str, Any]) -> tuple[list[str], list[Image.Image], list[str]]:
    texts, images, roles = [], [], []
    for message in body["messages"]:
        roles.append(message["role"])
        content = message["content"]
        for part in [{"type": "text", "text": content}] if isinstance(content, str) else content or []:
            if part["type"] == "text":
                texts.append(part["text"])
            else:
                images.append(_picture(part["image_url"]["url"].partition("base64,")[2]))
    return texts, images, roles


def _gemini_parts(body: dict[str, Any]) -> tuple[list[str], list[Image.Image], list[str]]:
    texts, images, roles = [], [], []
    system = body.get("system_instruction") or body.get("systemInstruction") or {"parts": []}
    contents = [{"role": "system", **system}] if system["parts"] else []
    for content in contents + body["contents"]:
        roles.append(content.get("role", "user"))
        for part in content["parts"]:
            if "text" in part:
                texts.append(part["text"])
            inline = part.get("inline_data") or part.get("inlineData")
            if inline:
                images.append(_picture(inline["data"]))
    return texts, images, roles


def _anthropic_parts(body: dict[str, Any]) -> tuple[list[str], list[Image.Image], list[str]]:
    texts, images, roles = [], [], []
    system = body.get("system", [])
    first = [{"role": "system", "content": system}] if system else []
    for message in first + body["messages"]:
        roles.append(message["role"])
        content = message["content"]
        for part in [{"type": "text", "text": content}] if isinstance(content, str) else content:
            if part["type"] == "text":
                texts.append(part["text"])
            elif part["type"] == "image":
                images.append(_picture(part["source"]["data"]))
    return texts, images, roles


def _schema(protocol: Protocol, body: dict[str, Any]) -> dict[str, Any] | None:
    if protocol == "openai":
        return ((body.get("response_format") or {}).get("json_schema") or {}).get("schema")
    if protocol == "gemini":
        config = body.get("generationConfig") or {}
        return next((config[k] for k in config if "schema" in k.lower()), None)
    if body.get("tools"):
        return body["tools"][0]["input_schema"]
    return ((body.get("output_format") or body.get("output_config", {}).get("format")) or {}).get("schema")


def _openai_answer(body: dict[str, Any], text: str, fault: Fault) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": text}
    if fault.refusal:
        message |= {"content": None, "refusal": fault.refusal}
    reason = "content_filter" if fault.filtered else "length" if fault.cut else "stop"
    return {
        "id": "c-1", "object": "chat.completion", "created": 1, "model": body["model"],
        "choices": [{"index": 0, "message": message, "finish_reason": reason}],
        "usage": {"prompt_tokens": 1000, "completion_tokens": 100, "total_tokens": 1100},
    }  # fmt: skip


def _gemini_answer(body: dict[str, Any], text: str, fault: Fault) -> dict[str, Any]:
    usage = {"promptTokenCount": 1000, "candidatesTokenCount": 100, "totalTokenCount": 1100}
    if fault.filtered:
        return {"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}, "usageMetadata": usage}
    reason = "SAFETY" if fault.refusal else "MAX_TOKENS" if fault.cut else "STOP"
    candidate = {"content": {"role": "model", "parts": [{"text": text}]}, "finishReason": reason, "index": 0}
    return {"candidates": [candidate], "usageMetadata": usage, "modelVersion": "test"}


def _anthropic_answer(body: dict[str, Any], text: str, fault: Fault) -> dict[str, Any]:
    tools = body.get("tools")
    content: list[dict[str, Any]] = [{"type": "text", "text": text}]
    reason = "end_turn"
    if tools and not (fault.refusal or fault.filtered):
        try:
            content = [{"type": "tool_use", "id": "t1", "name": tools[0]["name"], "input": json.loads(text)}]
            reason = "tool_use"
        except ValueError:
            pass  # a model may answer in prose where a tool was wanted
    if fault.refusal or fault.filtered:
        content, reason = [], "refusal"
    if fault.cut:
        reason = "max_tokens"
    return {
        "id": "m-1", "type": "message", "role": "assistant", "model": body["model"], "content": content,
        "stop_reason": reason, "stop_sequence": None, "usage": {"input_tokens": 1000, "output_tokens": 100},
    }  # fmt: skip


_PARTS = {"openai": _openai_parts, "gemini": _gemini_parts, "anthropic": _anthropic_parts}
_ANSWERS = {"openai": _openai_answer, "gemini": _gemini_answer, "anthropic": _anthropic_answer}


class _App:
    def __init__(self, server: Server, answering: Answering) -> None:
        self.server, self.answering = server, answering
        self.lock = asyncio.Lock()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        path = request.path
        protocol: Protocol = next(p for p in ("openai", "gemini", "anthropic") if path.startswith(f"/{p}"))
        body = await request.json()
        model = body.get("model") or path.rpartition("/")[2].partition(":")[0]
        texts, images, roles = _PARTS[protocol](body)
        asked = Asked(
            protocol=protocol, model=model, body=body, texts=texts, images=images, roles=roles,
            schema=_schema(protocol, body), headers=dict(request.headers), number=len(self.server.asked),
        )  # fmt: skip
        self.server.asked.append(asked)
        self.server.in_flight += 1
        self.server.most_in_flight = max(self.server.most_in_flight, self.server.in_flight)
        try:
            answer = self.answering(asked)
            if not isinstance(answer, str | Fault):
                answer = await answer
            return await self.send(request, asked, answer)
        finally:
            self.server.in_flight -= 1

    async def send(self, request: web.Request, asked: Asked, answer: str | Fault) -> web.StreamResponse:
        fault = answer if isinstance(answer, Fault) else Fault(text=answer)
        if fault.hang_s:
            await asyncio.sleep(fault.hang_s)
        if fault.status != 200:
            error = {"error": {"message": fault.text or "a fault", "type": "fault", "code": fault.status}}
            return web.json_response(error, status=fault.status, headers=fault.headers)
        if fault.content_type:
            return web.Response(body=fault.text.encode(), headers={"Content-Type": fault.content_type})
        if fault.huge:
            response = web.StreamResponse(headers={"Content-Type": "application/json"})
            await response.prepare(request)
            for _ in range(fault.huge // 65536):
                await response.write(b" " * 65536)
            return response
        body = json.dumps(_ANSWERS[asked.protocol](asked.body, fault.text, fault)).encode()
        if fault.drop_after is not None:
            headers = {"Content-Type": "application/json", "Content-Length": str(len(body))}
            response = web.StreamResponse(headers=headers)
            await response.prepare(request)
            await response.write(body[: fault.drop_after])
            assert request.transport is not None
            request.transport.close()
            return response
        return web.Response(body=body, content_type="application/json", headers=fault.headers)

    # The three calls of OpenAI's batch mode: a file of requests, a batch of it, a file of answers.

    async def upload(self, request: web.Request) -> web.Response:
        form = await request.post()
        name = f"file-{len(self.server.files)}"
        self.server.files[name] = form["file"].file.read()  # type: ignore[union-attr]
        return web.json_response(_file(name, len(self.server.files[name])))

    async def create_batch(self, request: web.Request) -> web.Response:
        body = await request.json()
        name = f"batch-{len(self.server.batches)}"
        lines = []
        for line in self.server.files[body["input_file_id"]].splitlines():
            row = json.loads(line)
            texts, images, roles = _openai_parts(row["body"])
            asked = Asked(
                protocol="openai", model=row["body"]["model"], body=row["body"], texts=texts, images=images,
                roles=roles, schema=_schema("openai", row["body"]), headers={},
                number=len(self.server.asked),
            )  # fmt: skip
            self.server.asked.append(asked)
            answer = self.answering(asked)
            fault = answer if isinstance(answer, Fault) else Fault(text=str(answer))
            answered = _openai_answer(row["body"], fault.text, fault)
            response = {"status_code": fault.status, "request_id": "r", "body": answered}
            lines.append(json.dumps({"id": "l", "custom_id": row["custom_id"], "response": response}))
        output = f"file-{len(self.server.files)}"
        self.server.files[output] = "\n".join(lines).encode()
        self.server.batches[name] = {
            "id": name, "object": "batch", "endpoint": body["endpoint"],
            "input_file_id": body["input_file_id"], "completion_window": "24h", "status": "in_progress",
            "created_at": 1, "output_file_id": output,
            "looks": 0,
        }  # fmt: skip
        return web.json_response(self.server.batches[name] | {"output_file_id": None})

    async def batch(self, request: web.Request) -> web.Response:
        found = self.server.batches[request.match_info["batch"]]
        found["looks"] += 1
        if found["looks"] >= 2:
            found["status"] = "completed"
            return web.json_response(found)
        return web.json_response(found | {"output_file_id": None})

    async def content(self, request: web.Request) -> web.Response:
        return web.Response(body=self.server.files[request.match_info["file"]])


def _file(name: str, size: int) -> dict[str, Any]:
    about = {"id": name, "object": "file", "bytes": size, "created_at": 1, "filename": "requests.jsonl"}
    return about | {"purpose": "batch", "status": "processed"}


@contextmanager
def serve(answering: Answering) -> Iterator[Server]:
    """Serve on a free port until the block ends; `answering` runs in the server's thread."""
    ready, state = threading.Event(), {}

    async def main() -> None:
        server = Server("")
        app = web.Application(client_max_size=2**30)
        calls = _App(server, answering)
        app.router.add_post("/openai/v1/files", calls.upload)
        app.router.add_get("/openai/v1/files/{file}/content", calls.content)
        app.router.add_post("/openai/v1/batches", calls.create_batch)
        app.router.add_get("/openai/v1/batches/{batch}", calls.batch)
        app.router.add_post("/{path:.*}", calls.handle)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        server.__init__(f"http://127.0.0.1:{port}")  # type: ignore[misc]
        state["server"], state["stop"] = server, asyncio.Event()
        state["loop"] = asyncio.get_running_loop()
        ready.set()
        await state["stop"].wait()
        await runner.cleanup()

    thread = threading.Thread(target=lambda: asyncio.run(main()), daemon=True)
    thread.start()
    assert ready.wait(10), "the server did not start"
    try:
        yield state["server"]
    finally:
        state["loop"].call_soon_threadsafe(state["stop"].set)
        thread.join(10)
