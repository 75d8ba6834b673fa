"""What a curator is: one that says of a pair whether both pictures show the same subject."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence

from dsd.llm.asking import Asking
from dsd.llm.outages import is_outage
from dsd.llm.records import Stopped
from dsd.types import Pair, Verdict

logger = logging.getLogger(__name__)


class Curator(Asking[Pair], ABC):
    """Judges pairs one by one: a verdict depends on its pair alone, and the pair stays as it is.

    Only `judge` must be written. The rest is for curators that ask others, or judge many pairs at once; see
    also `dsd.llm.asking.Asking`.

    Attributes:
        pairs_at_once: how many pairs it can usefully have in hand. With more than a batch of them, several
            `judge_batch` run at once, each in a thread of its own.
    """

    pairs_at_once: int = 1

    @abstractmethod
    def judge(self, pair: Pair) -> Verdict:
        """Say whether to keep the pair, and why."""

    def judge_batch(self, pairs: Sequence[Pair]) -> list[Verdict]:
        """One verdict a pair, in order, whatever happened: a pair that cannot be judged gets the status
        "failed".

        Override it to judge many pairs at once; keep that promise, and the verdicts of `judge`.

        Raises:
            Stopped: if the money or the time given for the run is spent; nothing else but Ctrl-C leaves it.
        """
        return [self._judge_or_fail(pair) for pair in pairs]

    def judge_some(self, pairs: Sequence[Pair]) -> list[Verdict | Stopped]:
        """As `judge_batch`, but where the money or the time ends in the midst of it, what was judged before
        comes back, with the error in the place of each pair that was not.
        """
        try:
            return [*self.judge_batch(pairs)]
        except Stopped as stop:
            return [stop] * len(pairs)

    def _judge_or_fail(self, pair: Pair) -> Verdict:
        try:
            return self.judge(pair)
        except Stopped:
            raise
        except Exception as error:
            logger.warning("A pair of grid %r could not be judged", pair.grid_id, exc_info=True)
            why = f"{type(error).__name__}: {error}"
            return Verdict(status="failed", reason=why, outage=is_outage(error))
