"""Prompts that are longer than a model reads. Pipelines cut them without a word."""

from collections.abc import Sequence
from typing import Any

_MAX_TEXT_TOKENS = 512
_NAMES = ("tokenizer", "tokenizer_2", "tokenizer_3")


def cut_by(holder: Any, prompts: Sequence[str], longest: int | None = None) -> list[str]:
    """Those of the prompts that none of a model's tokenizers takes whole.

    Args:
        holder: what has the tokenizers: a diffusers pipeline or a backbone.
        prompts: what is to be drawn.
        longest: tokens that its longest text encoder is given, if fewer than its tokenizer says.
    """
    tokenizers = [x for name in _NAMES if callable(x := getattr(holder, name, None))]
    if not tokenizers:
        return []
    limits = [min(x.model_max_length, longest or _MAX_TEXT_TOKENS, _MAX_TEXT_TOKENS) for x in tokenizers]

    def whole(prompt: str) -> bool:
        return any(
            len(tokenizer(prompt, truncation=False, verbose=False)["input_ids"]) <= limit
            for tokenizer, limit in zip(tokenizers, limits, strict=True)
        )

    return [prompt for prompt in prompts if not whole(prompt)]
