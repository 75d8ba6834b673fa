"""What a prompt writer is: one that says what the teacher shall draw."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from pathlib import Path

from dsd.llm.ledger import Ledger
from dsd.llm.records import Usage
from dsd.registry import Recorded
from dsd.types import GridPrompt


class PromptWriter(Recorded, ABC):
    """Writes grid prompts. Prompt `i` depends on `(seed, i)` alone: writing can stop and go on anywhere.

    Attributes:
        free: whether it asks nobody who is paid.
        fingerprint: a hash of what prompts depend on beside the arguments, such as texts in files; recorded
            with them.
        ledger: what it has spent, for the progress bar; None if it asks nobody who is paid.
    """

    free: bool = False
    fingerprint: str = ""
    ledger: Ledger | None = None

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

    def estimate(self, count: int) -> Usage | None:
        """What so many prompts would take, without asking anybody who is paid; None if that is unknown."""
        return Usage() if self.free else None

    def keep_answers(self, path: Path) -> None:
        """Be given a file for the answers of paid models, so that none is asked for twice."""

    def close(self) -> None:
        """Let go of connections and files. Called at the end by whoever made the writer."""


def prompt_seed(seed: int, index: int) -> int:
    """A seed for prompt `index` of a list: 63 bits of a hash of both, the same on every machine."""
    digest = hashlib.sha256(f"{seed}:{index}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
