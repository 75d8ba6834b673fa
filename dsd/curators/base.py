"""What a curator is: one that says of a pair whether both pictures show the same subject."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence

from dsd.registry import Recorded
from dsd.types import Pair, Verdict

logger = logging.getLogger(__name__)


class Curator(Recorded, ABC):
    """Judges pairs one by one: a verdict depends on its pair alone, and the pair stays as it is."""

    @abstractmethod
    def judge(self, pair: Pair) -> Verdict:
        """Say whether to keep the pair, and why."""

    def judge_batch(self, pairs: Sequence[Pair]) -> list[Verdict]:
        """One verdict a pair, in order, whatever happened: a pair that cannot be judged gets the status
        "failed".

        Override it to judge many pairs at once; keep that promise, and the verdicts of `judge`.
        """
        return [self._judge_or_fail(pair) for pair in pairs]

    def _judge_or_fail(self, pair: Pair) -> Verdict:
        try:
            return self.judge(pair)
        except Exception as error:
            logger.warning("A pair of grid %r could not be judged", pair.grid_id, exc_info=True)
            return Verdict(status="failed", reason=f"{type(error).__name__}: {error}")
