"""How the verdicts of several curators on one pair become one decision.

The same rule decides while the curators are asked (`curators.ensemble`), one after the other and no more of
them than it takes, and afterwards over verdicts that are stored (`data.policy`).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from dsd.types import STATUSES

RULES = ("all", "any", "vote", "weights", "cascade")
"""`all`, `any`, `vote`: so many curators accept; `weights`: the weighted mean of their scores reaches a
threshold; `cascade`: the first curator that is sure decides."""

NOT_ASKED = -1
"""The code of a curator that has not judged a pair, where the others are numbers of `STATUSES`."""

UNDECIDED, REJECTED, ACCEPTED = -1, 0, 1
"""Outcomes of `Rule.decide`."""

_JUDGED = 2  # codes below it are those of "accepted" and "rejected"

Codes = Int[np.ndarray, "members pairs"]
Scores = Float[np.ndarray, "members pairs"]


def as_float(number: float | int | str) -> float:
    """It as a float.

    Raises:
        ValueError: if it is no number, or an integer beyond the range of floats.
    """
    try:
        return float(number)
    except OverflowError as error:
        raise ValueError("A number must fit into a float; got an integer of over 300 digits.") from error


def codes(statuses: Sequence[str | None]) -> Int[np.ndarray, " pairs"]:
    """Statuses as numbers; None stands for `NOT_ASKED`."""
    number = {None: NOT_ASKED} | {status: i for i, status in enumerate(STATUSES)}
    return np.array([number[status] for status in statuses], dtype=np.int8)


@dataclass(frozen=True, kw_only=True)
class Unsure:
    """When a member of a cascade leaves a pair to the next one.

    Whatever is set here, it does so where it could not judge: refused, unparsable, failed.

    Attributes:
        low: the lowest score at which it is unsure; with `high`. A verdict without a score is unsure then.
        high: the highest score at which it is unsure.
        statuses: those at which it is unsure.
    """

    low: float | None = None
    high: float | None = None
    statuses: tuple[str, ...] = ()

    @classmethod
    def parse(cls, given: Any) -> "Unsure":
        """Read `[0.4, 0.8]` (scores), `["accepted"]` (statuses), or None (only where it could not judge).

        Raises:
            ValueError: if it is neither.
        """
        if isinstance(given, Unsure):
            return given
        items = [given] if isinstance(given, str) else given
        if items is None:
            return cls()
        if isinstance(items, Sequence) and items and all(item in STATUSES for item in items):
            return cls(statuses=tuple(items))
        numbers = [x for x in items if isinstance(x, int | float)] if isinstance(items, Sequence) else []
        if len(numbers) == 2 == len(items) and numbers[0] <= numbers[1]:
            return cls(low=as_float(numbers[0]), high=as_float(numbers[1]))
        raise ValueError(
            f"A member is `unsure` at scores [low, high] or at statuses such as ['accepted']; got {given!r}. "
            f"Statuses: {', '.join(STATUSES)}."
        )

    def at(self, code: Int[np.ndarray, " pairs"], score: Float[np.ndarray, " pairs"]) -> np.ndarray:
        """At which of its verdicts it leaves the pair to the next member; (pairs,) of bool."""
        unsure = (code >= _JUDGED) | np.isin(code, codes(self.statuses))
        if self.low is not None:
            sure = (score < self.low) | (score > self.high)  # no score, NaN, is neither
            unsure |= ~sure
        return unsure


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A rule over the verdicts of `num_members` curators.

    Attributes:
        name: one of `RULES`.
        num_members: how many curators there are.
        votes: for "vote": how many must accept; more than half of them by default.
        weights: for "weights": one for each, none below 0; equal by default.
        threshold: for "weights": the lowest weighted mean to accept. A verdict without a score counts as 1
            if accepted and 0 if rejected.
        unsure: for "cascade": one for each but the last, who decides in any case. By default each is unsure
            where it accepts, so that the first who rejects decides.
    """

    name: str
    num_members: int
    votes: int | None = None
    weights: tuple[float, ...] | None = None
    threshold: float = 0.5
    unsure: tuple[Unsure, ...] | None = None

    def __post_init__(self) -> None:
        if self.name not in RULES:
            raise ValueError(f"Unknown rule {self.name!r}. Allowed: {', '.join(RULES)}.")
        if self.num_members < 1:
            raise ValueError(f"The rule {self.name!r} needs at least one curator to ask; got none.")
        for field, rule in {"votes": "vote", "weights": "weights", "unsure": "cascade"}.items():
            if getattr(self, field) is not None and self.name != rule:
                raise ValueError(
                    f"`{field}` goes with the rule {rule!r} only; got it with {self.name!r}. Leave it out, "
                    f"or write rule={rule!r}."
                )
        if self.votes is not None and not 1 <= self.votes <= self.num_members:
            raise ValueError(
                f"`votes` must be 1 to {self.num_members}, the number of curators; got {self.votes}."
            )
        if self.weights is not None and (
            len(self.weights) != self.num_members
            or not all(weight >= 0 and math.isfinite(weight) for weight in self.weights)
            or not sum(self.weights) > 0
        ):
            raise ValueError(
                f"`weights` must be {self.num_members} numbers, one for each curator, none below 0 and not "
                f"all 0; got {list(self.weights)}."
            )
        if not math.isfinite(self.threshold):
            raise ValueError(f"`threshold` must be a number; got {self.threshold}.")
        if self.unsure is not None and len(self.unsure) != self.num_members - 1:
            raise ValueError(
                f"`unsure` must have {self.num_members - 1} entries, one for each curator but the last; got "
                f"{len(self.unsure)}."
            )

    @classmethod
    def parse(
        cls,
        name: str,
        num_members: int,
        *,
        votes: int | None = None,
        weights: Sequence[float | int] | None = None,
        threshold: float | int | None = None,
        unsure: Sequence[Any] | None = None,
    ) -> "Rule":
        """A rule from what a user wrote.

        Raises:
            ValueError: if a value is not allowed, or goes with another rule.
        """
        if threshold is not None and name != "weights":
            raise ValueError(f"`threshold` goes with the rule 'weights' only; got it with {name!r}.")
        if isinstance(unsure, str | Mapping):
            raise ValueError(f"`unsure` must be a list, one entry for each curator; got {unsure!r}.")
        return cls(
            name=name,
            num_members=num_members,
            votes=votes,
            weights=None if weights is None else tuple(map(as_float, weights)),
            threshold=0.5 if threshold is None else as_float(threshold),
            unsure=None if unsure is None else tuple(map(Unsure.parse, unsure)),
        )

    def decide(self, code: Codes, score: Scores) -> np.ndarray:
        """What follows from the verdicts there are, for each pair; (pairs,) of outcomes.

        A pair is undecided as long as members that have not been asked, or could not judge, may still change
        the outcome: a vote that cannot be turned any more is decided.

        Args:
            code: what each member says of each pair; see `codes`.
            score: its scores; NaN where there is none.
        """
        if self.name == "cascade":
            return self._cascade(code, score)
        if self.name == "weights":
            return self._weighted(code, score)
        accepted = (code == 0).sum(axis=0)
        possible = self.num_members - (code == 1).sum(axis=0)
        outcome = np.full(code.shape[1], UNDECIDED)
        outcome[accepted >= self.needed] = ACCEPTED
        outcome[possible < self.needed] = REJECTED
        return outcome

    @property
    def needed(self) -> int:
        """How many members must accept, for the rules that count."""
        if self.name == "vote":
            return self.votes or self.num_members // 2 + 1
        return {"all": self.num_members, "any": 1}[self.name]

    def mean(self, code: Codes, score: Scores) -> Float[np.ndarray, " pairs"]:
        """The weighted mean of the scores, for "weights"; NaN where a member has not judged."""
        weights = np.array(self.weights or (1.0,) * self.num_members)[:, None]
        known = np.where(np.isnan(score), (code == 0).astype(float), score)
        known = np.where((code >= 0) & (code < _JUDGED), known, np.nan)
        # A member without weight has no say, not even by being silent.
        terms = np.where(weights > 0, weights * known, 0.0)
        return np.asarray(terms.sum(axis=0) / weights.sum())

    def _weighted(self, code: Codes, score: Scores) -> np.ndarray:
        mean = self.mean(code, score)
        return np.where(np.isnan(mean), UNDECIDED, np.where(mean >= self.threshold, ACCEPTED, REJECTED))

    def _cascade(self, code: Codes, score: Scores) -> np.ndarray:
        outcome = np.full(code.shape[1], UNDECIDED)
        open_ = np.ones(code.shape[1], dtype=bool)
        bands = self.unsure or (Unsure(statuses=("accepted",)),) * (self.num_members - 1)
        for own_code, own_score, band in zip(code, score, (*bands, Unsure()), strict=True):
            asked = own_code != NOT_ASKED
            sure = open_ & asked & ~band.at(own_code, own_score)
            outcome[sure] = np.where(own_code[sure] == 0, ACCEPTED, REJECTED)
            open_ &= asked & ~sure
        return outcome
