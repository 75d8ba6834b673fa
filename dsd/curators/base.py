"""What a curator is: one that says of a pair whether both pictures show the same subject."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from dsd.llm.records import Stopped, Usage
from dsd.registry import Recorded
from dsd.types import Pair, Verdict

logger = logging.getLogger(__name__)


@runtime_checkable
class Spending(Protocol):
    """What has been spent so far, live; `dsd.llm.Ledger` is one."""

    @property
    def usage(self) -> Usage:
        """All calls, tokens and dollars up to now."""


class Curator(Recorded, ABC):
    """Judges pairs one by one: a verdict depends on its pair alone, and the pair stays as it is.

    Only `judge` must be written. The rest is for curators that ask others, or judge many pairs at once.

    Attributes:
        free: whether it asks nobody who is paid, so that a verdict that names no cost has cost nothing.
        pairs_at_once: how many pairs it can usefully have in hand. With more than a batch of them, several
            `judge_batch` run at once, each in a thread of its own.
        ledger: what it has spent, for the progress bar; None if it keeps no account.
        fingerprint: a hash of what its verdicts depend on beside its arguments, such as texts in files. It
            is recorded with the verdicts.
    """

    free: bool = False
    pairs_at_once: int = 1
    ledger: Spending | None = None
    fingerprint: str = ""

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

    def estimate(self, pair: Pair) -> Usage | None:
        """What judging the pair would take, without asking anybody who is paid; None if that is unknown."""
        return Usage() if self.free else None

    def keep_answers(self, path: Path) -> None:
        """Be given a file for the answers of paid models, so that none is asked for twice."""

    def cancel(self) -> None:
        """End what `judge_batch` is doing in other threads; nothing more is paid for. Called when the stage
        is stopped.
        """

    def close(self) -> None:
        """Let go of connections and files. Called at the end by whoever made the curator."""

    def _judge_or_fail(self, pair: Pair) -> Verdict:
        try:
            return self.judge(pair)
        except Stopped:
            raise
        except Exception as error:
            logger.warning("A pair of grid %r could not be judged", pair.grid_id, exc_info=True)
            return Verdict(status="failed", reason=f"{type(error).__name__}: {error}")


def all_or_stop(judged: Sequence[Verdict | Stopped]) -> list[Verdict]:
    """What `judge_batch` makes of `judge_some`.

    Raises:
        Stopped: if there is one among them.
    """
    verdicts = []
    for verdict in judged:
        if isinstance(verdict, Stopped):
            raise verdict
        verdicts.append(verdict)
    return verdicts
