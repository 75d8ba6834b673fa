"""What a teacher is: one that draws grids of one subject."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from dsd.registry import Recorded
from dsd.types import Grid, GridPrompt


class Teacher(Recorded, ABC):
    """Draws one grid a prompt. A grid depends on its prompt and seed, never on its neighbours in a batch.

    Attributes:
        batch_size: how many prompts it wants at once.
    """

    batch_size: int = 1

    @abstractmethod
    def draw(self, prompts: Sequence[GridPrompt], seeds: Sequence[int]) -> list[Grid]:
        """One RGB grid a prompt, in order.

        It may raise if one of them cannot be drawn: the others are then asked for one by one.

        Args:
            prompts: what to draw; their layouts may differ.
            seeds: of the noise, one a prompt.
        """
