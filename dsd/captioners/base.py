"""What a captioner is: one that says in words what the target of a pair shows."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

from dsd.llm.ledger import Ledger
from dsd.llm.records import Usage
from dsd.registry import Recorded
from dsd.types import Pair

logger = logging.getLogger(__name__)


class Captioner(Recorded, ABC):
    """Captions pairs one by one: a caption depends on its pair alone, and the pair stays as it is.

    Attributes:
        free: whether it asks nobody who is paid.
        fingerprint: a hash of what captions depend on beside the arguments, such as texts in files; recorded
            with them.
        ledger: what it has spent, for the progress bar; None if it asks nobody who is paid.
    """

    free: bool = False
    fingerprint: str = ""
    ledger: Ledger | None = None

    @abstractmethod
    def caption(self, pair: Pair) -> str:
        """Say what the student is told so that it draws the pair's target from its reference."""

    def caption_batch(self, pairs: Sequence[Pair]) -> list[str | Exception]:
        """For each pair its caption, or the error that there is none, in order.

        Override it to caption many pairs at once; keep that promise, and the captions of `caption`. An error
        that is not the pair's own, such as a provider that cannot be reached, is raised. Where the money or
        the time of the run ends, a `dsd.llm.Stopped` is in the place of each pair that was not captioned.
        """
        return [self._caption_or_error(pair) for pair in pairs]

    def estimate(self, pair: Pair) -> Usage | None:
        """What a caption would take, without asking anybody who is paid; None if that is unknown."""
        return Usage() if self.free else None

    def keep_answers(self, path: Path) -> None:
        """Be given a file for the answers of paid models, so that none is asked for twice."""

    def close(self) -> None:
        """Let go of connections and files. Called at the end by whoever made the captioner."""

    def _caption_or_error(self, pair: Pair) -> str | Exception:
        try:
            return self.caption(pair)
        except Exception as error:
            logger.warning("A pair of grid %r could not be captioned", pair.grid_id, exc_info=True)
            return error
