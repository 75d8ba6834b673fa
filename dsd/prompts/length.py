"""How many tokens a text takes in the teacher's text encoder."""

import re
from pathlib import Path
from typing import Any

from dsd import mini

T5_TOKENS = 512
"""What FLUX.1-dev's T5 reads of a prompt. CLIP reads 77 tokens of it, for its one pooled vector; a longer
prompt is no fault, as T5 has the whole."""

_PIECE = re.compile(r"[A-Za-z]+|\S")
_ENDLESS = 100_000  # transformers' way of saying that a tokenizer has no limit


class TokenCount:
    """Counts the tokens of texts, with the end mark, and knows how many are read.

    Without a tokenizer it estimates: one token for every three letters begun, for every digit and every sign,
    two for a letter of another alphabet. English prose in T5's tokens comes to about two thirds of that.

    Args:
        tokenizer: a folder or Hub id of a `transformers` tokenizer, or of a diffusers pipeline, whose second
            tokenizer is taken; "mini" for the embedded model's; None to estimate.
        limit: how many tokens are read; by default as many as the tokenizer says, and 512 if it does not.

    Attributes:
        limit: how many tokens are read.

    Raises:
        ValueError: if the limit is below 1, or there is no such tokenizer.
    """

    def __init__(self, tokenizer: str | None = None, limit: int | None = None) -> None:
        if limit is not None and limit < 1:
            raise ValueError(f"The limit of tokens must be at least 1; got {limit}.")
        self._tokenizer = None if tokenizer is None else _load(tokenizer)
        own = getattr(self._tokenizer, "model_max_length", T5_TOKENS)
        self.limit = limit or (own if own < _ENDLESS else T5_TOKENS)

    def __call__(self, text: str) -> int:
        """How many tokens the text takes."""
        if self._tokenizer is not None:
            return len(self._tokenizer(text, truncation=False, verbose=False)["input_ids"])
        return 1 + sum(map(_estimate, _PIECE.findall(text)))


def _estimate(piece: str) -> int:
    return -(-len(piece) // 3) if piece.isascii() else 2


def _load(name: str) -> Any:
    from transformers import AutoTokenizer

    where = str(mini.path()) if name == "mini" else str(Path(name).expanduser())
    folder = Path(where)
    if folder.is_dir():
        inner = [folder / part for part in ("tokenizer_2", "tokenizer") if (folder / part).is_dir()]
        tries = [(str((inner or [folder])[0]), "")]
    else:
        tries = [(where, ""), (where, "tokenizer_2")]
    for number, (place, subfolder) in enumerate(tries, start=1):
        try:
            return AutoTokenizer.from_pretrained(place, subfolder=subfolder)
        except (OSError, ValueError) as error:
            if number == len(tries):
                raise ValueError(
                    f"No tokenizer can be read from {name!r}: {error} Give a folder or Hub id of a tokenizer "
                    "or a pipeline, 'mini', or none to estimate lengths."
                ) from error
    raise AssertionError("the last try returns or raises")
