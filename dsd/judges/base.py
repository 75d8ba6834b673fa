"""What a judge is: one that rates generated pictures on a scale, and never guesses a rating."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from PIL import Image

from dsd.llm.asking import Asking
from dsd.llm.records import Stopped

logger = logging.getLogger(__name__)

RatingStatus = Literal["rated", "refused", "unparsable", "failed"]
"""What became of a question. `refused`: a model would not answer; `unparsable`: its answer held no rating;
`failed`: it could not be asked at all. All but "rated" are missing values: counted, and never a number."""

RATING_STATUSES: tuple[str, ...] = get_args(RatingStatus)


@dataclass(frozen=True, kw_only=True)
class Case:
    """One generated picture to be rated.

    Attributes:
        key: what the picture is called in its benchmark; ratings are joined by it.
        generated: the picture.
        reference: the picture of the subject; None where a rubric does not look at it.
        prompt: what was to be drawn.
        subject: what the reference shows, in words; empty if unknown.
    """

    key: str
    generated: Image.Image
    reference: Image.Image | None = None
    prompt: str = ""
    subject: str = ""


@dataclass(frozen=True, kw_only=True)
class Rating:
    """What a judge said of one picture.

    Attributes:
        key: of the case.
        rubric: name of what it was rated by.
        judge: who rated: a model's name, or a person's.
        run: number of the repetition, from 0.
        value: on the rubric's scale; None unless the status is "rated".
        status: see `RatingStatus`.
        reason: why, in the judge's words, or what went wrong.
        raw: the answer as it came.
        cost_usd: what the rating cost; None if unknown.

    Raises:
        ValueError: if there is a value without the status "rated", or that status without a value.
    """

    key: str
    rubric: str
    judge: str
    run: int = 0
    value: float | None = None
    status: RatingStatus = "rated"
    reason: str = ""
    raw: str = ""
    cost_usd: float | None = None

    def __post_init__(self) -> None:
        if self.status not in RATING_STATUSES:
            raise ValueError(f"Unknown rating status {self.status!r}. Allowed: {', '.join(RATING_STATUSES)}.")
        if (self.value is None) == (self.status == "rated"):
            raise ValueError(
                f"A rating has a value if and only if its status is 'rated'; got value={self.value!r} and "
                f"status={self.status!r}."
            )


class Judge(Asking[Case], ABC):
    """Rates pictures one by one: a rating depends on its case, and the number of the run, alone.

    Only `rate` must be written. The rest is for judges that ask others, or rate many pictures at once; see
    also `dsd.llm.asking.Asking`, whose `estimate` is asked for one rating.

    Attributes:
        rubric_name: what the ratings are called by.
        low: lowest rating of the scale.
        high: highest rating of the scale.
        runs: how often each picture is rated where nobody says it.
    """

    rubric_name: str
    low: float
    high: float
    runs: int = 1

    @abstractmethod
    def rate(self, case: Case, run: int = 0) -> Rating:
        """Rate one picture."""

    def rate_batch(self, cases: Sequence[Case], runs: int | None = None) -> list[Rating]:
        """All runs of the first case, then of the second, and so on, whatever happened: a case that cannot be
        rated gets the status "failed".

        Override it to rate many at once; keep that promise, and the ratings of `rate`.

        Args:
            cases: what to rate; they stay as they are.
            runs: how often each; `self.runs` by default.

        Raises:
            Stopped: if the money or the time given for the run is spent; nothing else but Ctrl-C leaves it.
            ValueError: if `runs` is below 1.
        """
        return [self._rate_or_fail(case, run) for case in cases for run in range(self._num_runs(runs))]

    def rate_some(self, cases: Sequence[Case], runs: int | None = None) -> list[Rating | Stopped]:
        """As `rate_batch`, but where the money or the time ends in the midst of it, what was rated before
        comes back, with the error in the place of each rating that was not made.
        """
        try:
            return [*self.rate_batch(cases, runs)]
        except Stopped as stop:
            return [stop] * (len(cases) * self._num_runs(runs))

    def _num_runs(self, runs: int | None) -> int:
        if runs is not None and runs < 1:
            raise ValueError(f"`runs` must be at least 1; got {runs}.")
        return self.runs if runs is None else runs

    def _rate_or_fail(self, case: Case, run: int) -> Rating:
        try:
            return self.rate(case, run)
        except Stopped:
            raise
        except Exception as error:
            logger.warning("The picture %r could not be rated", case.key, exc_info=True)
            return Rating(
                key=case.key,
                rubric=self.rubric_name,
                judge=type(self).__name__,
                run=run,
                status="failed",
                reason=f"{type(error).__name__}: {error}",
            )
