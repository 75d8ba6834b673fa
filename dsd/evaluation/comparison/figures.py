"""Figures: means of what was measured picture by picture, what is missing, and intervals over subjects."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from dsd.evaluation.bootstrap import Interval

Average = Literal["micro", "macro"]
RULES: Mapping[str, str] = {
    "micro": "every picture counts alike",
    "macro": "the means of the categories count alike, however many pictures each has",
}
Role = Literal["preservation", "following", "copying", "other"]
Values = Float[np.ndarray, " pictures"]


@dataclass(frozen=True, kw_only=True)
class Column:
    """What a figure is of.

    Attributes:
        name: unique among the columns.
        title: for people.
        role: "preservation" (of the subject), "following" (of the prompt), "copying" (1 for a copy of the
            reference), or "other".
        higher_is_better: which end is good.
        about: facts that belong beside the number: model ids, preprocessing, rubric, scale.
        runs: how often each picture was rated; 1 for what is measured.
    """

    name: str
    title: str
    role: Role = "other"
    higher_is_better: bool = True
    about: Mapping[str, Any] = field(default_factory=dict)
    runs: int = 1


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A mean.

    Attributes:
        value: None where there is no picture to average.
        interval: 95 %, from a bootstrap over subjects; None with `value`, and for a single subject.
        n: how many pictures have a value.
        missing: how many have none.
        by_category: likewise, for each category.
        by_kind: likewise, for each kind of prompt.
    """

    value: float | None
    interval: Interval | None
    n: int
    missing: int
    by_category: Mapping[str, "Figure"] = field(default_factory=dict)
    by_kind: Mapping[str, "Figure"] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """All of it."""
        told: dict[str, Any] = {
            "value": self.value,
            "interval": None if self.interval is None else list(self.interval),
            "n": self.n,
            "missing": self.missing,
        }
        for name, group in (("by_category", self.by_category), ("by_kind", self.by_kind)):
            if group:
                told[name] = {key: figure.to_json() for key, figure in group.items()}
        return told


class Averages:
    """Means over the pictures of a benchmark, with one table of resampled subjects for all of them, so that
    differences between methods and products of columns are resampled together.

    Args:
        subjects: of each picture.
        categories: of each picture; "" for none.
        kinds: of each picture's prompt; "" for none.
        average: see `RULES`.
        resamples: of the bootstrap.
        seed: of the bootstrap.

    Raises:
        ValueError: for an unknown rule, or if there is no picture.
    """

    def __init__(
        self,
        subjects: Sequence[str],
        categories: Sequence[str],
        kinds: Sequence[str],
        average: Average = "micro",
        resamples: int = 2000,
        seed: int = 0,
    ) -> None:
        if average not in RULES:
            raise ValueError(f"Unknown `average` {average!r}. Allowed: {', '.join(RULES)}.")
        if not subjects:
            raise ValueError("There is no picture to average.")
        names = list(dict.fromkeys(subjects))
        self._subject = np.array([names.index(x) for x in subjects])
        self._categories, self._kinds, self._average = np.array(categories), np.array(kinds), average
        picks = np.random.default_rng(seed).integers(0, len(names), (resamples, len(names)))
        self._times = np.stack([np.bincount(row, minlength=len(names)) for row in picks])

    def figure(self, values: Values, rows: np.ndarray | None = None) -> Figure:
        """The mean of what is not NaN, with those of the groups.

        Args:
            values: of each picture; NaN where it is missing.
            rows: which pictures count; all by default.
        """
        chosen = np.ones(len(values), dtype=bool) if rows is None else rows
        groups = {
            name: {
                str(key): self._plain(values, chosen & (labels == key))
                for key in dict.fromkeys(labels[chosen].tolist())
                if key
            }
            for name, labels in (("by_category", self._categories), ("by_kind", self._kinds))
        }
        return self._plain(values, chosen, self._average, **groups)

    def product(
        self, first: Values, second: Values, rows: tuple[np.ndarray, np.ndarray] | None = None
    ) -> Figure:
        """The product of two means, as DreamBench++ has it; both are resampled together."""
        every = np.ones(len(first), dtype=bool)
        chosen = (every, every) if rows is None else rows
        parts = [
            (self.mean(x, r), self._resampled(x, r, self._average))
            for x, r in zip((first, second), chosen, strict=True)
        ]
        (a, left), (b, right) = parts
        there = np.isfinite(first) & np.isfinite(second) & (chosen[0] | chosen[1])
        value = None if a is None or b is None else a * b
        return Figure(
            value=value,
            interval=None if value is None else self._interval(left * right),
            n=int(there.sum()),
            missing=int(((chosen[0] | chosen[1]) & ~there).sum()),
        )

    def by(self, average: Average) -> "Averages":
        """The same pictures and resamples by another rule."""
        other = copy.copy(self)
        other._average = average
        return other

    def closed(self, ours: Values, low: Values, high: Values) -> tuple[float | None, Interval | None]:
        """How much of the way from `low` to `high` is ours, (ours - low) / (high - low), all three resampled
        together; None where there is no way to go.
        """
        means = [self.mean(values) for values in (ours, low, high)]
        if any(mean is None for mean in means) or not means[2] > means[1]:  # type: ignore[operator]
            return None, None
        every = np.ones(len(ours), dtype=bool)
        a, b, c = (self._resampled(values, every, self._average) for values in (ours, low, high))
        found = (a - b) / np.where(c > b, c - b, np.nan)
        return (means[0] - means[1]) / (means[2] - means[1]), self._interval(found)  # type: ignore[operator]

    def mean(self, values: Values, rows: np.ndarray | None = None) -> float | None:
        """The mean alone; None where there is nothing."""
        chosen = np.isfinite(values) if rows is None else rows & np.isfinite(values)
        if not chosen.any():
            return None
        if self._average == "micro":
            return float(values[chosen].mean())
        keys = dict.fromkeys(self._categories[chosen].tolist())
        return float(np.mean([values[chosen & (self._categories == key)].mean() for key in keys]))

    def _plain(
        self, values: Values, rows: np.ndarray, average: Average = "micro", **groups: Mapping[str, Figure]
    ) -> Figure:
        there = rows & np.isfinite(values)
        count = int(there.sum())
        value = (
            None
            if not count
            else self.mean(values, rows)
            if average == "macro"
            else float(values[there].mean())
        )
        return Figure(
            value=value,
            interval=None if value is None else self._interval(self._resampled(values, rows, average)),
            n=count,
            missing=int(rows.sum()) - count,
            **groups,
        )

    def _resampled(
        self, values: Values, rows: np.ndarray, average: Average
    ) -> Float[np.ndarray, " resamples"]:
        """The mean in every resample of subjects; NaN where it has no picture."""
        there = rows & np.isfinite(values)
        if average == "micro":
            return self._means(values, there)
        parts = [
            self._means(values, there & (self._categories == key))
            for key in dict.fromkeys(self._categories[there].tolist())
        ]
        found = np.stack(parts) if parts else np.full((1, len(self._times)), np.nan)
        known = np.isfinite(found).sum(0)
        totals = np.nansum(found, axis=0)
        return np.where(known > 0, totals / np.maximum(known, 1), np.nan)

    def _means(self, values: Values, there: np.ndarray) -> Float[np.ndarray, " resamples"]:
        count = self._times.shape[1]
        sums = np.bincount(self._subject[there], values[there], minlength=count)
        sizes = np.bincount(self._subject[there], minlength=count)
        totals, numbers = self._times @ sums, self._times @ sizes
        return np.where(numbers > 0, totals / np.maximum(numbers, 1), np.nan)

    def _interval(self, found: np.ndarray, level: float = 0.95) -> Interval | None:
        finite = found[np.isfinite(found)]
        if self._times.shape[1] < 2 or not len(finite):
            return None
        low, high = np.quantile(finite, [(1 - level) / 2, (1 + level) / 2])
        return float(low), float(high)


__all__ = ["RULES", "Average", "Averages", "Column", "Figure", "Role"]
