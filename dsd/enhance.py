"""A short wish, made into the full description of a picture that a student was trained on."""

from os import PathLike
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps
from pydantic import BaseModel, create_model, field_validator

from dsd import llm
from dsd.opening import opened
from dsd.texts import one_line

_SYSTEM = (
    "You rewrite a wish for a picture into a full description of it, for an image model that sees a "
    "reference picture and reads your description. The picture to be drawn shows the reference's subject."
)
_ASK = """This is the reference picture. The wish for a new picture with its subject:

{wish}

1. subject: describe the subject of the reference, above all what makes it recognisable: what it is, shape, colours, materials, marks, clothing. Leave out its surroundings and pose.
2. prompt: one line of at most {words} words that describes the new picture on its own. Keep every detail of the wish; where it says "it", "this character" or the like, put the subject with its details. Add pose, surroundings, light, view and style only where the wish leaves them open and in its spirit. Nothing of the reference's surroundings, unless the wish asks for it."""  # noqa: E501
_MAX_WISH_CHARS = 2000
_CHARS_PER_WORD = 12


class Enhanced(BaseModel):
    """What the model answers: first what it sees, then the prompt."""

    subject: str
    prompt: str


def enhance_prompt(
    image: Image.Image | str | PathLike[str],
    prompt: str,
    *,
    model: "str | llm.LLM",
    max_words: int = 60,
    max_side_px: int = 768,
    **options: Any,
) -> str:
    """Rewrite a short prompt into a full description of the target picture, with the reference in view.

    Students learn from long descriptions, so "this character on a beach" gives them little to go by. The
    release asks Gemini in two calls, one for the picture and one for the text; here it is one call that sees
    both. Nothing in dsd calls this on its own.

    Args:
        image: the reference, or its file.
        prompt: what is wished for.
        model: as litellm names it, "provider/model"; or a `dsd.llm.LLM`, to ask many times.
        max_words: most words of the answer. The release asks for 77 tokens, about 60 words.
        max_side_px: the reference is made smaller to this before it is sent.
        options: of `dsd.llm.LLM`, with a model's name: api_base, api_key, cache, ...

    Returns:
        one line.

    Raises:
        ValueError: if the prompt is empty, the file is no picture or a number is below 1.
        FileNotFoundError: if there is no such file.
        Refused, Unparsable, CallFailed: of `dsd.llm`, if no answer came.

    Example:
        >>> better = enhance_prompt("owl.png", "it flies", model="gemini/gemini-2.5-flash")  # doctest: +SKIP
    """
    wish = one_line(prompt, _MAX_WISH_CHARS)
    if not wish:
        raise ValueError("The prompt is empty. Say what the picture is to show.")
    for name, value in {"max_words": max_words, "max_side_px": max_side_px}.items():
        if value < 1:
            raise ValueError(f"`{name}` must be at least 1; got {value}.")
    if isinstance(model, llm.LLM) and options:
        raise TypeError(f"An LLM has its options already; got {', '.join(options)}. Give them to the LLM.")
    picture = llm.Picture(image=_opened(image), max_side_px=max_side_px)
    request = llm.Request(
        messages=[
            llm.system(_SYSTEM, llm.DATA_RULE),
            llm.user(picture, _ASK.format(wish=llm.as_data("wish", wish), words=max_words)),
        ],
        schema=_answer(max_words),
        max_tokens=512 + 4 * max_words,
    )
    if isinstance(model, llm.LLM):
        return str(model.run(model.ask(request)).value.prompt)
    door = llm.LLM(model, **options)
    try:
        return str(door.run(door.ask(request)).value.prompt)
    finally:
        door.close()


def _answer(max_words: int) -> type[Enhanced]:
    """The answer's form; a prompt that is too long is shown to the model once, to be shortened."""

    def short(cls: type[Enhanced], prompt: str) -> str:
        prompt = one_line(prompt, _CHARS_PER_WORD * max_words * 2)
        count = len(prompt.split())
        if not prompt:
            raise ValueError("it is empty")
        if count > 1.25 * max_words:  # models do not count well
            raise ValueError(f"it has {count} words, at most {max_words} are allowed")
        return prompt

    checks: Any = {"short": field_validator("prompt")(classmethod(short))}
    return create_model("Enhanced", __base__=Enhanced, __validators__=checks)


def _opened(image: Image.Image | str | PathLike[str]) -> Image.Image:
    if isinstance(image, Image.Image):
        return image
    with opened(Path(image).expanduser()) as found:
        return ImageOps.exif_transpose(found).convert("RGB")
