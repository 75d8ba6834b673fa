"""Captions that the prompts' writer gave each panel."""

from dsd.captioners.base import Captioner
from dsd.types import Pair


class PanelCaptioner(Captioner):
    """The caption that the pair came with: what its target panel was asked to show.

    It costs nothing, and says what was wanted, which may not be what was drawn.
    """

    free = True

    def caption(self, pair: Pair) -> str:
        """The pair's own caption.

        Raises:
            ValueError: if it has none, as where the prompt does not describe its panels.
        """
        if not pair.caption.strip():
            raise ValueError(
                "The pair has no caption: its grid's prompt does not describe the panels. Write prompts with "
                "`panels`, or caption by a vision model (captioner 'vlm')."
            )
        return pair.caption
