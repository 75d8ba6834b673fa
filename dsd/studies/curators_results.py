"""What the verdicts of several curators come to, beside the labels: the rows of all tables."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from dsd.studies.curators_pairs import Label, LabelledPairs
from dsd.studies.curators_scores import (
    NUMBERS,
    Chosen,
    Curves,
    Judged,
    Resampler,
    curves,
    interval,
    measure,
    resampled,
)
from dsd.studies.curators_verdicts import Entry, Timed
from dsd.types import STATUSES

ALL, HARD = "all", "hard"
"""All pairs; all pairs of one subject, against the hard negatives alone."""

WANTED_PRECISION = 0.9


@dataclass(frozen=True, kw_only=True)
class Verdicts:
    """A curator with what it said of every labelled pair, in the order of the labels."""

    entry: Entry
    timed: Sequence[Timed]

    @cached_property
    def places(self) -> Int[np.ndarray, " judged"]:
        """The places of the pairs that were accepted or rejected; the others enter the counts alone."""
        kept = [i for i, x in enumerate(self.timed) if x.verdict.status in ("accepted", "rejected")]
        return np.array(kept, dtype=np.int64)

    def judged(self, labels: Sequence[Label]) -> Judged:
        """Those pairs in columns."""
        found = [self.timed[i].verdict for i in self.places]
        return Judged(
            same=np.array([labels[i].same for i in self.places], dtype=bool),
            accepted=np.array([verdict.accepted for verdict in found], dtype=bool),
            scores=np.array([np.nan if v.score is None else v.score for v in found], dtype=float),
        )


class Results:
    """All numbers of the study.

    Args:
        pairs: the labelled pairs.
        verdicts: of every curator; the others are compared with the first.
        count: resamples for the intervals.
        seed: of the resamples.
    """

    def __init__(
        self, pairs: LabelledPairs, verdicts: Sequence[Verdicts], *, count: int = 2000, seed: int = 0
    ) -> None:
        self.pairs, self.verdicts = pairs, verdicts
        self.parts = (ALL, HARD) if pairs.hard else (ALL,)
        self._resampler = Resampler([label.subjects or label.pictures for label in pairs.labels], count, seed)
        self._judged = {x.entry.name: x.judged(pairs.labels) for x in verdicts}
        groups = np.array([label.group for label in pairs.labels], dtype=object)
        same = np.array([label.same for label in pairs.labels], dtype=bool)
        self._rows: dict[str, Bool[np.ndarray, " pairs"]] = {
            ALL: np.ones(len(same), dtype=bool),
            HARD: same | (groups == pairs.hard),
        }

    @property
    def num_clusters(self) -> int:
        """How many subjects are resampled; pictures where no subject is known, pairs where neither is."""
        return self._resampler.num_subjects

    def judged(self, verdicts: Verdicts, part: str = ALL) -> Judged:
        """What a curator accepted and rejected among a part of the pairs."""
        return self._judged[verdicts.entry.name].take(self._rows[part][verdicts.places])

    @cached_property
    def scores(self) -> dict[str, list[dict[str, Any]]]:
        """By part, a row a curator: `NUMBERS`, each with its interval, and `ahead`, by how much its AUROC is
        ahead of the first curator's on the pairs that both gave a score.
        """
        found: dict[str, list[dict[str, Any]]] = {}
        for part in self.parts:
            chosen = {
                x.entry.name: (x.places[self._rows[part][x.places]], self.judged(x, part))
                for x in self.verdicts
            }
            drawn = resampled(self._resampler, chosen)
            rows = found[part] = []
            for name, (_, judged) in chosen.items():
                values = measure(judged)
                row: dict[str, Any] = {"curator": name, "part": part, "judged": len(judged.same)}
                for number in NUMBERS:
                    row |= _with_interval(number, values[number], drawn[name][number])
                rows.append(row)
            first, *others = chosen.values()
            for row, other in zip(rows[1:], others, strict=True):
                row |= self._ahead(other, first)
        return found

    def _ahead(self, one: Chosen, first: Chosen) -> Mapping[str, float | None]:
        """By how much the AUROC of one is ahead of the first one's, where both gave a score."""
        scored = [places[np.isfinite(judged.scores)] for places, judged in (one, first)]
        both = np.intersect1d(*scored)
        shared = {
            name: (both, judged.take(np.isin(places, both)))
            for name, (places, judged) in (("one", one), ("first", first))
        }
        ours, theirs = (measure(judged)["auroc"] for _, judged in shared.values())
        if ours is None or theirs is None:
            return {}
        drawn = resampled(self._resampler, shared, only=("auroc",))
        return _with_interval("ahead", ours - theirs, drawn["one"]["auroc"] - drawn["first"]["auroc"])

    @cached_property
    def costs(self) -> list[dict[str, Any]]:
        """A row a curator: how many pairs got each status, and what a pair cost in dollars and seconds."""
        rows = []
        for x in self.verdicts:
            statuses: list[str] = [timed.verdict.status for timed in x.timed]
            spent = [timed.verdict.cost_usd for timed in x.timed]
            if x.entry.curator.free:
                spent = [cost or 0.0 for cost in spent]
            known = [cost for cost in spent if cost is not None]
            rows.append(
                {
                    "curator": x.entry.name,
                    **{status: statuses.count(status) for status in STATUSES},
                    "scored": len(self.judged(x).scored().same),
                    "cost_known": len(known),
                    "cost_usd": sum(known) if known else None,
                    "cost_a_pair": sum(known) / len(known) if known else None,
                    "seconds": sum(timed.seconds for timed in x.timed),
                    "seconds_a_pair": float(np.mean([timed.seconds for timed in x.timed])),
                }
            )
        return rows

    @cached_property
    def groups(self) -> list[dict[str, Any]]:
        """A row a curator: of the pairs of each group that it accepted or rejected, the share accepted."""
        names = list(dict.fromkeys(label.group or _plain(label) for label in self._ordered()))
        rows = []
        for x in self.verdicts:
            row: dict[str, Any] = {"curator": x.entry.name}
            for name in names:
                said = [
                    timed.verdict.accepted
                    for label, timed in zip(self.pairs.labels, x.timed, strict=True)
                    if (label.group or _plain(label)) == name
                    and timed.verdict.status in ("accepted", "rejected")
                ]
                row[f"accepted: {name}"] = sum(said) / len(said) if said else None
            rows.append(row)
        return rows

    def _ordered(self) -> list[Label]:
        """The same first, then the hard negatives."""
        return sorted(self.pairs.labels, key=lambda label: (not label.same, label.group != self.pairs.hard))

    @cached_property
    def thresholds(self) -> list[dict[str, Any]]:
        """A row a curator with scores: the threshold of the best F1, and the one of the most recall at a
        precision of `WANTED_PRECISION`.
        """
        rows = []
        for name, found in self.curves(ALL).items():
            best = int(np.argmax(found.f1))
            row: dict[str, Any] = {"curator": name}
            row |= {
                "best_threshold": float(found.thresholds[best]),
                "best_f1": float(found.f1[best]),
                "best_precision": float(found.precision[best]),
                "best_recall": float(found.recall[best]),
                "strict_threshold": None,
                "strict_recall": None,
            }
            strict = np.flatnonzero(found.precision >= WANTED_PRECISION)
            if len(strict):
                row["strict_threshold"] = float(found.thresholds[strict[0]])
                row["strict_recall"] = float(found.recall[strict[0]])
            rows.append(row)
        return rows

    def curves(self, part: str) -> dict[str, Curves]:
        """Threshold curves by curator; those without scores are left out."""
        found = {x.entry.name: curves(self.judged(x, part)) for x in self.verdicts}
        return {name: curve for name, curve in found.items() if curve is not None}

    def verdict_rows(self) -> list[dict[str, Any]]:
        """A row a curator and pair: label, status, score, reason, cost and seconds."""
        return [
            {
                "curator": x.entry.name,
                "pair_id": label.pair_id,
                "same": int(label.same),
                "group": label.group,
                "subjects": " / ".join(label.subjects),
                "status": timed.verdict.status,
                "score": timed.verdict.score,
                "cost_usd": timed.verdict.cost_usd,
                "seconds": timed.seconds,
                "reason": timed.verdict.reason,
            }
            for x in self.verdicts
            for label, timed in zip(self.pairs.labels, x.timed, strict=True)
        ]


def _plain(label: Label) -> str:
    return "same" if label.same else "different"


def _with_interval(key: str, value: float | None, drawn: np.ndarray) -> Mapping[str, float | None]:
    ends = None if value is None else interval(drawn)
    return {key: value} | ({} if ends is None else {f"{key}_low": ends[0], f"{key}_high": ends[1]})
