"""What a captioner is: one that says in words what the target of a pair shows."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence

from dsd.llm.asking import Asking
from dsd.types import Pair

logger = logging.getLogger(__name__)


class Captioner(Asking[Pair], ABC):
    """Captions pairs one by one: a caption depends on its pair alone, and the pair stays as it is.

    For those that ask a model see also `dsd.llm.asking.Asking`.
    """

    @abstractmethod
    def caption(self, pair: Pair) -> str:
        """Say what the student is told so that it draws the pair's target from its reference."""

    def caption_batch(self, pairs: Sequence[Pair]) -> list[str | Exception]:
        """For each pair its caption, or the error that there is none, in order.

        Override it to caption many pairs at once; keep that promise, and the captions of `caption`. A service
        that does not answer is an error of each pair too (see `dsd.llm.outages.is_outage`): the stage ends
        when too many come in a row, and records none of them. Where the money or the time of the run ends, a
        `dsd.llm.Stopped` is in the place of each pair that was not captioned.
        """
        return [self._caption_or_error(pair) for pair in pairs]

    def _caption_or_error(self, pair: Pair) -> str | Exception:
        try:
            return self.caption(pair)
        except Exception as error:
            logger.warning("A pair of grid %r could not be captioned", pair.grid_id, exc_info=True)
            return error
