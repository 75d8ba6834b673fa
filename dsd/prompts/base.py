"""What a prompt writer is: one that says what the teacher shall draw."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator

from dsd.llm.asking import Asking
from dsd.types import GridPrompt


class PromptWriter(Asking[int], ABC):
    """Writes grid prompts. Prompt `i` depends on `(seed, i)` alone: writing can stop and go on anywhere.

    For those that ask a model see also `dsd.llm.asking.Asking`; `estimate` is asked for a number of prompts.
    """

    @abstractmethod
    def write(self, count: int, seed: int, *, start: int = 0) -> Iterator[GridPrompt]:
        """Prompts number `start`, `start + 1`, ..., `count - 1` of the endless list that belongs to `seed`.

        `count` counts from the beginning: a run that has 200 of 500 prompts goes on with
        `write(500, seed, start=200)`.
        """

    def resume(self, written: Iterable[GridPrompt]) -> None:
        """Be told, before `write(..., start=...)`, the prompts that are written already, in order.

        For writers whose prompts must differ from all others; the rest have no use for them.
        """


def prompt_seed(seed: int, index: int) -> int:
    """A seed for prompt `index` of a list: 63 bits of a hash of both, the same on every machine."""
    digest = hashlib.sha256(f"{seed}:{index}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
