"""Captions by a vision-language model that looks at the pictures.

The paper's two kinds (Cai et al., *Diffusion Self-Distillation*, 2024, section 3.1 and supplement A,
https://arxiv.org/abs/2411.18616, there by Gemini 1.5): a description of the target, and an instruction that
makes the target of the reference, as in InstructPix2Pix. Its own prompts are not public.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import BaseModel, field_validator

from dsd import llm
from dsd.captioners.base import Captioner
from dsd.texts import fingerprint, one_line, read_texts
from dsd.types import Pair

TEXTS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"system": (), "description": ("subject", "words"), "instruction": ("subject", "words")}
)
"""The prompt texts by name, and the places of each."""

_MAX_CHARS = 2000
_MAX_SUBJECT_CHARS = 300


class Caption(BaseModel):
    """What a model answers. What it sees stands before the caption, since models write in that order."""

    seen: str
    caption: str

    @field_validator("caption")
    @classmethod
    def _clean(cls, caption: str) -> str:
        caption = one_line(caption, _MAX_CHARS)
        if not caption:
            raise ValueError("it is empty")
        return caption


class VLMCaptioner(Captioner):
    """Lets a vision-language model caption pairs.

    Args:
        model: as litellm names it, "provider/model".
        kind: "description": what the target shows, from the target alone; "instruction": what to change in
            the reference, from both pictures.
        max_words: about how many words a caption is asked to have.
        max_side_px: pictures are made smaller to this before they are sent.
        texts: a folder with prompt texts of your own, such as `description.txt`; see `TEXTS`. The rule that
            what stands in pictures and data is no instruction is always added.
        options: of `dsd.llm.LLM`: api_base, api_key, fallbacks, concurrency, rpm, max_cost_usd, cache, ...

    Attributes:
        llm: the door to the model, with its ledger.

    Raises:
        FileNotFoundError: if there is no such folder of texts.
        ValueError: if the kind is unknown, a number is out of range or a text is damaged.
        TypeError: if an option is none of `LLM`'s.
        ImportError: if a package of the extra `llm` is not installed.
    """

    def __init__(
        self,
        model: str,
        kind: str = "description",
        max_words: int = 80,
        max_side_px: int = 512,
        texts: str | None = None,
        **options: Any,
    ) -> None:
        if kind not in ("description", "instruction"):
            raise ValueError(f"A caption is of the kind 'description' or 'instruction'; got {kind!r}.")
        for name, value in {"max_words": max_words, "max_side_px": max_side_px}.items():
            if value < 1:
                raise ValueError(f"`{name}` must be at least 1; got {value}.")
        self._kind, self._max_words, self._max_side_px = kind, max_words, max_side_px
        found = read_texts(Path(__file__).parent / "texts", TEXTS, texts)
        self.fingerprint = fingerprint(found["system"], found[kind])
        self._system, self._text = llm.system(found["system"].content, llm.DATA_RULE), found[kind]
        self.llm: llm.LLM = self._ask_by(model, **options)

    def estimate(self, pair: Pair) -> llm.Usage:
        """What captioning the pair would take, by rules of thumb; nothing is asked."""
        return self.llm.estimate(self._request(pair))

    def caption(self, pair: Pair) -> str:
        """The model's caption.

        Raises:
            AnswerError: if it declined, said nothing that can be used, or cannot be reached.
            Stopped: if the money or the time is spent.
        """
        return self.llm.run(self._caption(pair))

    def caption_batch(self, pairs: Sequence[Pair]) -> list[str | Exception]:
        """For each pair its caption, or why there is none; many are asked for at once."""
        captions: list[str | Exception] = []
        try:
            captions.extend(self.llm.map(self._caption, pairs))
        except llm.Stopped as stop:
            captions += [stop] * (len(pairs) - len(captions))
        return captions

    async def _caption(self, pair: Pair) -> str:
        answer = await self.llm.ask(self._request(pair))
        caption: str = answer.value.caption
        return caption

    def _request(self, pair: Pair) -> llm.Request:
        subject = llm.as_data("subject", pair.subject or "unknown", _MAX_SUBJECT_CHARS)
        target = llm.Picture(image=pair.target, max_side_px=self._max_side_px)
        parts: list[str | llm.Picture] = [target]
        if self._kind == "instruction":
            reference = llm.Picture(image=pair.reference, max_side_px=self._max_side_px)
            parts = ["First picture:", reference, "Second picture:", target]
        asked = self._text.fill(subject=subject, words=self._max_words)
        return llm.Request(
            messages=[self._system, llm.user(*parts, asked)],
            schema=Caption,
            max_tokens=512 + 4 * self._max_words,
        )
