"""Which pairs are trained on: a rule over the verdicts of one or several curators."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dsd import rules
from dsd.data.ids import Ids, Mask

RULES = ("every", *rules.RULES)
"""`every`: all pairs, judged or not; `all`, `any`: pairs that all curators, or at least one, accepted;
`vote`: at least `votes` of them; `weights`: the weighted mean of the curators' scores reaches `threshold`;
`cascade`: the first curator that is sure accepted."""


@dataclass(frozen=True, kw_only=True)
class Policy:
    """A rule over verdicts.

    A curator accepts a pair if its verdict is "accepted" or, where `min_score` or `max_score` is given, if
    its status is accepted or rejected and its score lies between them: thresholds can be moved without
    judging again. A pair that a curator has not judged, or could not judge, is not accepted by it.

    `weights` and `cascade` decide as the curator `ensemble` does, from verdicts that are there already.

    Attributes:
        rule: one of `RULES`.
        curators: names of verdict tables of the run; empty for all there are.
        votes: for "vote": how many curators must accept a pair.
        min_score: the lowest score to accept.
        max_score: the highest score to accept.
        weights: for "weights": one for each of `curators`; equal by default.
        threshold: for "weights": the lowest mean to accept; 0.5 by default.
        unsure: for "cascade": for each of `curators` but the last, the scores `(low, high)` or the statuses
            `("accepted",)` at which the next one decides; None for neither. By default each passes on what
            it accepts.
    """

    rule: str = "all"
    curators: tuple[str, ...] = ()
    votes: int | None = None
    min_score: float | None = None
    max_score: float | None = None
    weights: tuple[float | int, ...] | None = None
    threshold: float | None = None
    unsure: tuple[Any, ...] | None = None

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise ValueError(f"Unknown rule {self.rule!r} of a policy. Allowed: {', '.join(RULES)}.")
        if (self.rule == "vote") != (self.votes is not None):
            raise ValueError(
                f"The rule 'vote' needs `votes`, and no other rule takes it; got rule={self.rule!r} and "
                f"votes={self.votes!r}. Write {{'rule': 'vote', 'votes': 2}}."
            )
        for name in ("votes", "min_score", "max_score", "threshold"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float | None):
                raise TypeError(f"`{name}` of a policy must be a number; got {value!r}.")
            if value is not None and not math.isfinite(rules.as_float(value)):
                raise ValueError(f"`{name}` of a policy must be a finite number; got {value!r}.")
        if not all(isinstance(name, str) for name in self.curators):
            raise TypeError(f"`curators` of a policy must be names; got {self.curators!r}.")
        if self.votes is not None and self.votes < 1:
            raise ValueError(f"`votes` must be at least 1; got {self.votes}.")
        if self.rule in ("weights", "cascade"):
            if not self.curators:
                raise ValueError(
                    f"The rule {self.rule!r} needs `curators`, by name and in order; got none. Write "
                    f"{{'rule': {self.rule!r}, 'curators': ['heuristic', 'vlm']}}."
                )
            self._rule(len(self.curators))
        elif (self.weights, self.threshold, self.unsure) != (None, None, None):
            raise ValueError(
                f"`weights` and `threshold` go with the rule 'weights', `unsure` with 'cascade'; got "
                f"rule={self.rule!r}."
            )
        if self.rule == "weights" and (self.min_score, self.max_score) != (None, None):
            raise ValueError(
                "The rule 'weights' has a `threshold`; `min_score` and `max_score` go with the others."
            )

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
        for name in ("weights", "unsure"):
            if isinstance(fields.get(name), list | tuple):
                fields[name] = tuple(tuple(x) if isinstance(x, list) else x for x in fields[name])
        return cls(**fields)

    def accepts(self, ids: Sequence[str], verdicts: Sequence[pa.Table]) -> list[str]:
        """The ids of the pairs that it accepts, in their order; arguments as of `mask`."""
        kept = self.mask(Ids(ids), verdicts)
        return [pair_id for pair_id, accepted in zip(ids, kept, strict=True) if accepted]

    def mask(self, ids: Ids, verdicts: Sequence[pa.Table | Iterable[pa.Table]]) -> Mask:
        """Which pairs it accepts.

        Args:
            ids: of all pairs.
            verdicts: a table for each curator, whole or in parts, in the order of `curators`, with the
                columns `pair_id`, `status` and `score`. Verdicts on other pairs count for nothing.
        """
        if self.rule == "every":
            return np.ones(len(ids), dtype=np.bool_)
        codes = np.full((len(verdicts), len(ids)), rules.NOT_ASKED, dtype=np.int8)
        scores = np.full((len(verdicts), len(ids)), np.nan)
        for number, table in enumerate(verdicts):
            judged, code, score = _judged([table] if isinstance(table, pa.Table) else table)
            at = judged.places(ids)
            known = at >= 0
            codes[number, at[known]], scores[number, at[known]] = code[known], score[known]
        outcome = self._rule(len(verdicts)).decide(self._moved(codes, scores), scores)
        return np.asarray(outcome == rules.ACCEPTED)

    def _moved(self, codes: rules.Codes, scores: rules.Scores) -> rules.Codes:
        """The verdicts as they are with the limits for scores."""
        if self.min_score is None and self.max_score is None:
            return codes
        accepted, rejected = rules.codes(["accepted", "rejected"])
        within = scores >= (-np.inf if self.min_score is None else self.min_score)  # never of NaN
        within &= scores <= (np.inf if self.max_score is None else self.max_score)
        judged = (codes == accepted) | (codes == rejected)
        return np.where(judged, np.where(within, accepted, rejected), codes)

    def _rule(self, num_curators: int) -> rules.Rule:
        return rules.Rule.parse(
            self.rule,
            num_curators,
            votes=self.votes,
            weights=self.weights,
            threshold=self.threshold,
            unsure=self.unsure,
        )


def _judged(
    parts: Iterable[pa.Table],
) -> tuple[Ids, npt.NDArray[np.int8], npt.NDArray[np.float64]]:
    """What a curator said: of which pairs, with what outcome, with which score; NaN for none."""
    ids: list[pa.Array] = [pa.array([], pa.string())]
    codes, scores = [np.empty(0, np.int8)], [np.empty(0)]
    for part in parts:
        ids += part["pair_id"].chunks
        scores.append(part["score"].to_numpy())
        status = part["status"].combine_chunks().dictionary_encode("encode")
        meanings = np.asarray(rules.codes(status.dictionary.to_pylist()), dtype=np.int8)
        codes.append(meanings[status.indices.to_numpy()])
    return Ids(pa.concat_arrays(ids)), np.concatenate(codes), np.concatenate(scores)
