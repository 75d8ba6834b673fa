"""A language model's draft of a grid, put into the words that the teacher gets."""

from collections.abc import Iterable, Mapping

from dsd.grids import Layout
from dsd.prompts.answers import Draft
from dsd.prompts.length import TokenCount
from dsd.texts import Text
from dsd.types import GridPrompt

MIN_WORDS, _MAX_WORDS = 8, 60  # that a panel is asked to have
_TOKENS_PER_WORD = 1.6


class Composer:
    """Puts drafts into the prompt texts `grid` and `panel`.

    Args:
        texts: with these two.
        layout: of the grids.
        tokens: counts a text's tokens, and knows the limit.
    """

    def __init__(self, texts: Mapping[str, Text], layout: Layout, tokens: TokenCount) -> None:
        self._texts, self._layout, self._tokens = texts, layout, tokens

    def compose(self, draft: Draft, kind: str, seed: int) -> tuple[GridPrompt, int]:
        """The whole prompt, and how many tokens it has, or the longest of its captions."""
        layout = self._layout
        placed = zip(_places(layout), draft.panels, strict=True)
        text = self._texts["grid"].fill(
            rows=layout.rows,
            columns=layout.columns,
            count=layout.num_panels,
            kind=kind,
            subject=draft.subject,
            panels=" ".join(
                self._texts["panel"].fill(place=place, caption=caption) for place, caption in placed
            ),
        )
        prompt = GridPrompt(
            text=text,
            subject=draft.subject,
            panels=tuple(draft.panels),
            layout=str(layout),
            kind=kind,
            writer="llm",
            seed=seed,
        )
        return prompt, max(map(self._tokens, (text, *draft.panels)))

    def words_of_panel(self, kinds: Iterable[str]) -> int:
        """How many words a panel may have, so that all of them are within the limit of tokens.

        Raises:
            ValueError: if hardly any are left.
        """
        frame = Draft(
            plan="", subject="subject of it", panels=[f"subject {i}" for i in range(self._layout.num_panels)]
        )
        room = self._tokens.limit - self.compose(frame, max(kinds, key=len), 0)[1]
        words = int(room / _TOKENS_PER_WORD / (self._layout.num_panels + 1))  # and the subject itself
        if words < MIN_WORDS // 2:
            raise ValueError(
                f"A {self._layout} prompt does not fit into {self._tokens.limit} tokens: "
                f"{max(words, 0)} words are left for each panel. Choose a smaller layout, or shorten "
                "`grid.txt` and `panel.txt`."
            )
        return min(_MAX_WORDS, max(MIN_WORDS, words))


def _places(layout: Layout) -> list[str]:
    """How each panel is called: "Top left", or "Row 1, column 3" where there are no such words."""
    rows = {1: [""], 2: ["top", "bottom"], 3: ["top", "middle", "bottom"]}.get(layout.rows)
    columns = {1: [""], 2: ["left", "right"], 3: ["left", "centre", "right"]}.get(layout.columns)
    if rows is None or columns is None or layout.num_panels == 1:
        return [
            f"Row {row}, column {column}"
            for row in range(1, layout.rows + 1)
            for column in range(1, layout.columns + 1)
        ]
    return [f"{row} {column}".strip().capitalize() for row in rows for column in columns]
