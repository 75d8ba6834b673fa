"""The first pass: which captions have a clear subject, and of which category."""

import random
from collections import Counter
from collections.abc import Mapping, Sequence

from dsd import llm
from dsd.llm.outages import is_outage
from dsd.prompts.answers import Sight, sight_of
from dsd.texts import Text

_BLOCK = 32
_LOOKS = 64  # captions that are looked at for each prompt of a kind, before others are taken again

Kept = list[tuple[int, str]]
"""Captions with their positions in the shuffled source."""


class Inspiration:
    """Captions with a clear subject, by category, in an order that belongs to a seed.

    They are looked at one by one, each in a request of its own, so that none can speak for another; and no
    more of them than are needed.

    Args:
        captions: to choose from.
        kinds: the categories.
        model: who looks at them.
        texts: the prompt texts `filter_system` and `filter`.
        seed: of the order.
        outcomes: where to count what becomes of the captions.
    """

    def __init__(
        self,
        captions: Sequence[str],
        kinds: Sequence[str],
        model: llm.LLM,
        texts: Mapping[str, Text],
        *,
        seed: int,
        outcomes: Counter[str],
    ) -> None:
        self._captions = list(captions)
        random.Random(f"captions:{seed}").shuffle(self._captions)
        self._kinds, self._llm, self._texts, self._outcomes = tuple(kinds), model, texts, outcomes
        self._kept: dict[str, Kept] = {kind: [] for kind in kinds}
        self._looked_at = 0

    def find(self, kind: str, number: int) -> str:
        """Caption `number` of a kind, counted from 0.

        Where there are too few, they are taken again from the first one on; where there are none, those of
        all kinds. Which caption it is depends on the captions and the seed alone, not on what was asked for
        before.

        Raises:
            ValueError: if no caption has a clear subject.
            CallFailed: if the model cannot be reached.
        """
        reach = _LOOKS * (number + 1)
        while self._looked_at < min(reach, len(self._captions)) and len(self._kept[kind]) <= number:
            self._look()
        if found := self._before(reach, kind):
            return found[number % len(found)]
        while not (others := self._before(reach, *self._kinds)) and reach < len(self._captions):
            reach += _BLOCK
            while self._looked_at < min(reach, len(self._captions)):
                self._look()
        if not others:
            raise ValueError(
                f"None of the {len(self._captions)} captions has a clear subject, says the model. Give "
                "others, or none."
            )
        return others[number % len(others)]

    def _before(self, reach: int, *kinds: str) -> list[str]:
        """The captions of some kinds among the first `reach`, in order."""
        kept = sorted(item for kind in kinds for item in self._kept[kind])
        return [caption for position, caption in kept if position < reach]

    def _look(self) -> None:
        """Have the next captions judged."""
        block = self._captions[self._looked_at : self._looked_at + _BLOCK]
        failures: list[llm.AnswerError] = []
        for position, sight in enumerate(self._llm.map(self._ask, block), start=self._looked_at):
            if isinstance(sight, llm.AnswerError):
                if is_outage(sight):
                    raise sight
                self._outcomes[f"captions {sight.status}"] += 1
                failures.append(sight)
            elif sight.usable:
                self._outcomes["captions kept"] += 1
                self._kept[sight.kind].append((position, self._captions[position]))
            else:
                self._outcomes["captions without a clear subject"] += 1
        if len(failures) == len(block):
            raise failures[-1]  # then it is not the captions
        self._looked_at += len(block)

    async def _ask(self, caption: str) -> Sight:
        answer = await self._llm.ask(look(caption, self._kinds, self._texts))
        found: Sight = answer.value
        return found


def look(caption: str, kinds: Sequence[str], texts: Mapping[str, Text]) -> llm.Request:
    """The question whether a caption has a clear subject."""
    asked = texts["filter"].fill(caption=llm.as_data("caption", caption), kinds=", ".join(kinds))
    return llm.Request(
        messages=[llm.system(texts["filter_system"].content, llm.DATA_RULE), llm.user(asked)],
        schema=sight_of(tuple(kinds)),
        max_tokens=512,
    )
