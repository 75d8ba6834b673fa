"""What the tests of language models share: a question, a door to the test's server, and what it costs."""

import json
from collections.abc import Callable

from PIL import Image, ImageDraw
from pydantic import BaseModel, Field

from dsd import llm
from tests.providers import Asked, Fault, Server

KEY = "sk-very-secret-0123456789"
PRICE = {"prompt": 1.0, "completion": 10.0}
COST = 1000 / 1e6 + 100 * 10 / 1e6  # of one call of the server
MODELS = {"openai": "openai/judge", "gemini": "gemini/gemini-2.5-flash", "anthropic": "anthropic/claude-x"}


class Opinion(BaseModel):
    reasoning: str
    same: bool
    score: float = Field(ge=0, le=1)


GOOD = json.dumps({"reasoning": "both are red", "same": True, "score": 0.75})


def door(server: Server, protocol: str = "openai", **options: object) -> llm.LLM:
    defaults = {"api_base": getattr(server, protocol), "api_key": KEY, "timeout_s": 5.0, "price": PRICE}
    return llm.LLM(MODELS[protocol], **(defaults | options))  # type: ignore[arg-type]


def question(text: str = "Same?", **options: object) -> llm.Request:
    given = {"messages": [llm.system("You judge."), llm.user(text)], "schema": Opinion} | options
    return llm.Request(**given)  # type: ignore[arg-type]


def ask(model: llm.LLM, request: llm.Request) -> llm.Answer:
    try:
        return model.run(model.ask(request))
    finally:
        model.close()


def drawing() -> Image.Image:
    image = Image.new("RGB", (300, 200), "white")
    ImageDraw.Draw(image).ellipse((50, 30, 200, 180), fill="red")
    return image


def once(fault: Fault, text: str = GOOD) -> Callable[[Asked], str | Fault]:
    return lambda asked: fault if asked.number == 0 else text
