"""Which pairs are trained on: a rule over the verdicts of one or several curators."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

RULES = ("every", "all", "any", "vote")
"""`every`: all pairs, judged or not; `all`, `any`: pairs that all curators, or at least one, accepted;
`vote`: at least `votes` of them."""


@dataclass(frozen=True, kw_only=True)
class Policy:
    """A rule over verdicts.

    A curator accepts a pair if its verdict is "accepted" or, where `min_score` or `max_score` is given, if
    its status is accepted or rejected and its score lies between them: thresholds can be moved without
    judging again. A pair that a curator has not judged, or could not judge, is not accepted by it.

    Attributes:
        rule: one of `RULES`.
        curators: names of verdict tables of the run; empty for all there are.
        votes: for "vote": how many curators must accept a pair.
        min_score: the lowest score to accept.
        max_score: the highest score to accept.
    """

    rule: str = "all"
    curators: tuple[str, ...] = ()
    votes: int | None = None
    min_score: float | None = None
    max_score: float | None = None

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise ValueError(f"Unknown rule {self.rule!r} of a policy. Allowed: {', '.join(RULES)}.")
        if (self.rule == "vote") != (self.votes is not None):
            raise ValueError(
                f"The rule 'vote' needs `votes`, and no other rule takes it; got rule={self.rule!r} and "
                f"votes={self.votes!r}. Write {{'rule': 'vote', 'votes': 2}}."
            )
        if self.votes is not None and self.votes < 1:
            raise ValueError(f"`votes` must be at least 1; got {self.votes}.")

    @classmethod
    def parse(cls, policy: "str | Mapping[str, Any] | Policy") -> "Policy":
        """Read a rule's name, `{"rule": ..., ...}`, or the name of a curator, which is to accept alone.

        Raises:
            TypeError: if a field is unknown.
            ValueError: if a value is not allowed.
        """
        if isinstance(policy, Policy):
            return policy
        if isinstance(policy, str):
            return cls(rule=policy) if policy in RULES else cls(curators=(policy,))
        unknown = set(policy) - set(cls.__dataclass_fields__)
        if unknown:
            raise TypeError(
                f"A policy has no field {sorted(unknown)[0]!r}. Allowed: "
                f"{', '.join(cls.__dataclass_fields__)}."
            )
        fields = dict(policy)
        names = fields.get("curators", ())
        fields["curators"] = (names,) if isinstance(names, str) else tuple(names)
        return cls(**fields)

    def accepts(self, verdicts: pa.Table) -> list[str]:
        """The ids of the pairs that one curator accepts.

        Args:
            verdicts: its table, with the columns `pair_id`, `status` and `score`.
        """
        status = np.asarray(verdicts["status"].to_pylist(), dtype=object)
        accepted = status == "accepted"
        if self.min_score is not None or self.max_score is not None:
            score = np.asarray(
                verdicts["score"].to_pylist(), dtype=float
            )  # None becomes NaN, which no bound accepts
            accepted = (accepted | (status == "rejected")) & ~np.isnan(score)
            accepted &= score >= (-np.inf if self.min_score is None else self.min_score)
            accepted &= score <= (np.inf if self.max_score is None else self.max_score)
        names: list[str] = verdicts["pair_id"].filter(pa.array(accepted, pa.bool_())).to_pylist()
        return names

    def needed(self, num_curators: int) -> int:
        """How many of `num_curators` curators must accept a pair."""
        return {"every": 0, "any": 1, "all": num_curators}.get(self.rule, self.votes or 0)
