"""From what a model wrote to an object of the wanted form."""

import json
import re
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, ValidationError

from dsd.llm.records import Request, described

_SORRY = re.compile(
    r"^\W*(i['\u2019]?m sorry|i am sorry|sorry|i apologi[sz]e|i can(no|['\u2019])t|i am unable|"
    r"i['\u2019]m unable|i (won['\u2019]t|will not)|as an ai)\b",
    re.IGNORECASE,
)
_DECODER = json.JSONDecoder()
_MAX_ERROR_CHARS = 1500
_MAX_CHARS = 400_000
_MAX_FAILURES = 200


def parse(text: str, schema: type[BaseModel]) -> BaseModel:
    """The one object in the text that fits the schema; prose and fences around it are tolerated.

    Nothing is mended: a cut or damaged object is an error, not a guess. Two objects that fit and differ are
    an error too.

    Raises:
        ValueError: saying what is wrong, in words that a model can act on.
    """
    found: list[BaseModel] = []
    problem = "there is no JSON object in it"
    for value in _objects(text):
        try:
            fitting = schema.model_validate(value)
        except ValidationError as error:
            problem = _explained(error)
            continue
        if fitting not in found:
            found.append(fitting)
    if len(found) > 1:
        raise ValueError(f"there are {len(found)} JSON objects in it that say different things")
    if not found:
        raise ValueError(problem)
    return found[0]


def value_of(text: str, request: Request, cut: bool = False) -> Any:
    """What an answer says, in the form that was asked for.

    Args:
        text: the answer.
        request: what was asked.
        cut: the limit of tokens ended the answer: what it would have gone on to say may change what it says.

    Raises:
        ValueError: saying what is wrong, in words that a model can act on.
    """
    too_long = f"cut off: it is longer than {request.max_tokens} tokens"
    if cut and request.read is not None:
        raise ValueError(too_long)
    try:
        if request.schema is not None:
            return parse(text, request.schema)
        return text if request.read is None else request.read(text)
    except ValueError as error:
        raise ValueError(f"{error} ({too_long})" if cut else str(error)) from None


def is_refusal(text: str) -> bool:
    """Whether a text without an object reads as if the model declined."""
    return bool(_SORRY.match(text)) and "{" not in text


def instructions(schema: type[BaseModel]) -> str:
    """What a model is told that takes no schema."""
    return (
        "Answer with one JSON object and nothing else: no fences, no comments. Write its fields in this "
        f"order. It must fit this JSON schema:\n{json.dumps(described(schema))}"
    )


def _objects(text: str) -> Iterator[Any]:
    """The outermost JSON objects, from left to right."""
    if len(text) > _MAX_CHARS:
        raise ValueError(f"it has {len(text):,} characters; at most {_MAX_CHARS:,} are read")
    start, failures = text.find("{"), 0
    while start >= 0:
        try:
            value, end = _DECODER.raw_decode(text, start)
        except (ValueError, RecursionError):  # not JSON, or a number of thousands of digits
            end, failures = start + 1, failures + 1
            if failures > _MAX_FAILURES:  # each may have read all the rest
                raise ValueError("there are too many braces in it that begin no JSON object") from None
        else:
            yield value
        start = text.find("{", end)


def _explained(error: ValidationError) -> str:
    lines = [
        f"{'.'.join(map(str, fault['loc'])) or 'the object'}: {fault['msg']}"
        for fault in error.errors(include_url=False, include_input=False)
    ]
    return "; ".join(lines)[:_MAX_ERROR_CHARS]
