"""What the scores of several judges come to, beside people's ratings: the rows of all tables."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from dsd.judges import RATING_STATUSES
from dsd.studies.curators_scores import Resampler, interval
from dsd.studies.judge_asking import TimedRating
from dsd.studies.judge_ratings import RatedItems, Scores
from dsd.studies.judge_scores import (
    NUMBERS,
    Drawn,
    agreement,
    agreement_of_people,
    fisher_mean,
    mean_of,
    on_unit,
    pairwise_alpha,
    plain,
    plain_of_people,
    scaled,
    spearman,
)

ALL = "all"
PEOPLE = "people"
TOLD_MISSING = 0.01
"""The share of missing scores from which the report says so on top."""

_MOST_PARTS = 12
_MOST_VALUES = 11  # of a score; with more, as many parts of it
_PARTS_OF_A_SCORE = 5


@dataclass(frozen=True, kw_only=True)
class JudgeScores:
    """A judge's scores of all items, and what it said if it was asked.

    Attributes:
        name: of the judge or metric.
        scores: of each item.
        spec: what the scores depend on.
        said: its ratings; empty if the scores were there.
    """

    name: str
    scores: Scores
    spec: Mapping[str, Any]
    said: Sequence[TimedRating] = ()


class JudgeResults:
    """All numbers of the study.

    Args:
        items: with people's ratings.
        judges: the others are compared with the first.
        count: resamples for the intervals.
        seed: of the resamples.

    Raises:
        ValueError: if a judge has no score at all, or there are too many groups.
    """

    def __init__(
        self, items: RatedItems, judges: Sequence[JudgeScores], *, count: int = 2000, seed: int = 0
    ) -> None:
        self.items, self.judges = items, judges
        if empty := [x.name for x in judges if np.isnan(x.scores.values).all()]:
            raise ValueError(f"{empty[0]} has no score of any item, so that there is nothing to compare.")
        groups = [group for group in dict.fromkeys(items.groups) if group]
        if len(groups) > _MOST_PARTS:
            raise ValueError(
                f"There are {len(groups)} groups; at most {_MOST_PARTS} are compared. Leave out `group`, or "
                "name a column with fewer."
            )
        self.parts = (ALL, *groups) if len(groups) > 1 else (ALL,)
        labels = np.array(items.groups, dtype=object)
        self._rows: dict[str, Bool[np.ndarray, " items"]] = {
            part: np.ones(len(labels), dtype=bool) if part == ALL else labels == part for part in self.parts
        }
        self._people = on_unit(items.people, items.low, items.high)
        self._scaled = {x.name: scaled(x.scores) for x in judges}
        self._resampler = Resampler([(subject,) for subject in items.subjects], count, seed)
        self.num_clusters = self._resampler.num_subjects

    @cached_property
    def _drawn(self) -> dict[tuple[str, str], dict[str, Drawn]]:
        """`NUMBERS` by part and judge, `PEOPLE` among them, in every resample."""
        parts: dict[tuple[str, str], dict[str, list[Drawn]]] = {}
        for weights in self._resampler.weights():
            for part, rows in self._rows.items():
                people, of_part = self._people[:, rows], np.ascontiguousarray(weights[:, rows])
                found = {
                    name: agreement(scores[rows], people, of_part, self.items.level)
                    for name, scores in self._scaled.items()
                }
                if len(people) > 1:
                    found[PEOPLE] = agreement_of_people(people, of_part, self.items.level)
                for name, numbers in found.items():
                    kept = parts.setdefault((part, name), {number: [] for number in NUMBERS})
                    for number, values in numbers.items():
                        kept[number].append(values)
        return {
            key: {number: np.concatenate(values) for number, values in found.items()}
            for key, found in parts.items()
        }

    @cached_property
    def agreement(self) -> dict[str, list[dict[str, Any]]]:
        """By part, a row for each judge and the last for people: `NUMBERS` with their intervals; how many
        items have a score, and the share of those that people rated and that have none.
        """
        found: dict[str, list[dict[str, Any]]] = {}
        for part, rows in self._rows.items():
            people, found[part] = self._people[:, rows], []
            rated = ~np.isnan(people).all(0)
            named = [*self._scaled.items(), *([(PEOPLE, None)] if len(people) > 1 else [])]
            for name, scores in named:
                if scores is None:
                    values = plain_of_people(people, self.items.level)
                    missing = float(np.isnan(people).mean())
                    row = {"judge": name, "part": part, "items": int(rated.sum()), "missing": missing}
                    row["alpha_of_pairs"] = pairwise_alpha(people, self.items.level)
                else:
                    there = ~np.isnan(scores[rows])
                    values = plain(scores[rows], people, self.items.level)
                    missing = float((rated & ~there).sum() / max(1, rated.sum()))
                    row = {
                        "judge": name,
                        "part": part,
                        "items": int((rated & there).sum()),
                        "missing": missing,
                    }
                for number in NUMBERS:
                    row |= _with_interval(number, values[number], self._drawn[part, name][number])
                found[part].append(row)
            self._compare(part, found[part])
        return found

    def _compare(self, part: str, rows: Sequence[dict[str, Any]]) -> None:
        """Put `ahead` into the rows: Spearman's rho less that of the first judge, where both scored."""
        first, *others = [x.name for x in self.judges]
        chosen = self._rows[part]
        for name in others:
            both = ~(np.isnan(self._scaled[name]) | np.isnan(self._scaled[first])) & chosen
            if (both == chosen).all():
                drawn = {x: self._drawn[part, x]["spearman"] for x in (name, first)}
            else:
                drawn = {x: self._spearman(x, both) for x in (name, first)}
            once = np.ones((1, int(both.sum())))
            ours, theirs = (
                float(spearman(self._scaled[x][both], self._people[:, both], once)[0]) for x in (name, first)
            )
            row = next(row for row in rows if row["judge"] == name)
            if np.isfinite(ours) and np.isfinite(theirs):
                row |= _with_interval("ahead", ours - theirs, drawn[name] - drawn[first])

    def _spearman(self, name: str, rows: Bool[np.ndarray, " items"]) -> Drawn:
        people, scores = self._people[:, rows], self._scaled[name][rows]
        tables = (np.ascontiguousarray(weights[:, rows]) for weights in self._resampler.weights())
        return np.concatenate([spearman(scores, people, table) for table in tables])

    @cached_property
    def averages(self) -> list[dict[str, Any]]:
        """A row a judge: the mean of each correlation over groups, on Fisher's scale; none for one group."""
        if len(self.parts) == 1:
            return []
        rows = []
        for name in [row["judge"] for row in self.agreement[ALL]]:
            row: dict[str, Any] = {"judge": name, "groups": len(self.parts) - 1}
            for kind in NUMBERS[1:]:
                values = [
                    next(x for x in self.agreement[part] if x["judge"] == name)[kind]
                    for part in self.parts[1:]
                ]
                if None not in values:
                    mean = float(fisher_mean([np.array([value]) for value in values])[0])
                    drawn = fisher_mean([self._drawn[part, name][kind] for part in self.parts[1:]])
                    row |= _with_interval(kind, mean, drawn)
            rows.append(row)
        return rows

    @cached_property
    def by_score(self) -> list[dict[str, Any]]:
        """A row a judge and score, or part of its scores if they are many: how many items, and what people
        gave them on average, with an interval and their spread, on people's scale.
        """
        people = mean_of(self.items.people)
        rows = []
        for x in self.judges:
            values = x.scores.values
            both = np.isfinite(values) & np.isfinite(people)
            for low, high in _parts_of(values[both]):
                inside = both & (values >= low) & (values <= high)
                drawn = np.concatenate(
                    [_weighted_mean(people, w * inside) for w in self._resampler.weights()]
                )
                row: dict[str, Any] = {
                    "judge": x.name,
                    "score": f"{low:g}" if low == high else f"{low:.3g} to {high:.3g}",
                    "from": float(low),
                    "to": float(high),
                    "at": float(self._scaled[x.name][inside].mean()),
                    "items": int(inside.sum()),
                    "spread": float(people[inside].std(ddof=1)) if inside.sum() > 1 else None,
                }
                rows.append(row | _with_interval("people", float(people[inside].mean()), drawn))
        return rows

    @cached_property
    def costs(self) -> list[dict[str, Any]]:
        """A row for each judge that was asked: how many ratings got each status, and what one cost."""
        rows = []
        for x in self.judges:
            if not x.said:
                continue
            statuses = [timed.rating.status for timed in x.said]
            known = [timed.rating.cost_usd for timed in x.said if timed.rating.cost_usd is not None]
            spent = sum(timed.seconds for timed in x.said)
            rows.append(
                {
                    "judge": x.name,
                    **{status: sum(x == status for x in statuses) for status in RATING_STATUSES},
                    "cost_known": len(known),
                    "cost_usd": sum(known) if known else None,
                    "cost_a_rating": sum(known) / len(known) if known else None,
                    "seconds": spent,
                    "seconds_a_rating": spent / len(x.said),
                }
            )
        return rows

    def notes(self) -> list[str]:
        """What must be said on top: whose scores are missing, if more than `TOLD_MISSING` are."""
        told = []
        for row in self.agreement[ALL]:
            if row["missing"] <= TOLD_MISSING:
                continue
            share = f"{100 * row['missing']:.1f}\N{NO-BREAK SPACE}%"
            if row["judge"] == PEOPLE:
                told.append(f"{share} of people's ratings are missing. They are left out; none is guessed.")
            else:
                gone = (
                    round(row["missing"] * row["items"] / (1 - row["missing"])) if row["missing"] < 1 else 0
                )
                told.append(
                    f"{row['judge']} gave no score to {gone} of {gone + row['items']} items ({share}). "
                    "They are left out of its numbers, which are therefore of other items than those of the "
                    "others; no score is guessed."
                )
        return told

    def score_rows(self) -> list[dict[str, Any]]:
        """A row an item: people's ratings and every judge's score."""
        raters = dict(zip(self.items.raters, self.items.people, strict=True))
        return [
            {"item": key, "group": self.items.groups[i], "subject": self.items.subjects[i].lstrip("\0")}
            | {name: _known(values[i]) for name, values in raters.items()}
            | {x.name: _known(x.scores.values[i]) for x in self.judges}
            for i, key in enumerate(self.items.keys)
        ]


def _parts_of(values: Float[np.ndarray, " items"]) -> list[tuple[float, float]]:
    """(lowest, highest) of each score, or of parts with about as many items each, if there are many."""
    names = np.unique(values)
    if len(names) <= _MOST_VALUES:
        return [(float(x), float(x)) for x in names]
    parts = np.array_split(np.sort(values), _PARTS_OF_A_SCORE)
    found: list[tuple[float, float]] = []
    for part in parts:  # ties stay together
        low = float(part[part > found[-1][1]].min()) if found and (part > found[-1][1]).any() else None
        if not found:
            low = float(part.min())
        if low is not None:
            found.append((low, float(part.max())))
    return found


def _weighted_mean(
    values: Float[np.ndarray, " items"], weights: Float[np.ndarray, "resamples items"]
) -> Drawn:
    with np.errstate(invalid="ignore"):
        return (weights @ np.nan_to_num(values)) / weights.sum(1)


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _with_interval(key: str, value: float | None, drawn: Drawn) -> dict[str, float | None]:
    ends = None if value is None else interval(drawn)
    return {key: value} | ({} if ends is None else {f"{key}_low": ends[0], f"{key}_high": ends[1]})
