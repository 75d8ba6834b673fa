"""How well similarities tell subjects apart: all numbers of the study of extractors, with intervals."""

from collections.abc import Mapping
from functools import cached_property
from itertools import permutations
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from dsd.evaluation.bootstrap import resamples
from dsd.metrics.functional import copying, identity
from dsd.studies.curators_scores import Judged, Resampler, interval, resampled
from dsd.studies.identity_pictures import KnownPictures

SAME, HARD = "one subject", "two of one class"
"""Kinds of pairs; the others are of two subjects, or of two classes where classes are known."""

_MOST_VIEWS = 4  # of a subject, for triplets of views
_BINS = 25

Drawn = Float[np.ndarray, " resamples"]


class IdentityResults:
    """All numbers of the study.

    Args:
        pictures: whose subjects are known.
        embeddings: of them, by extractor; of length 1. The others are compared with the first.
        count: resamples for the intervals.
        seed: of the resamples.
    """

    def __init__(
        self,
        pictures: KnownPictures,
        embeddings: Mapping[str, Float[np.ndarray, "n d"]],
        *,
        count: int = 2000,
        seed: int = 0,
    ) -> None:
        self.pictures, self.embeddings = pictures, embeddings
        self._count, self._seed = count, seed
        self._pairs = pictures.pairs
        self._same = pictures.same(self._pairs)
        self._hard = pictures.same_class(self._pairs) & ~self._same
        self._cosines = {name: rows @ rows.T for name, rows in embeddings.items()}
        others = "two of two classes" if self._hard.any() else "two subjects"
        kinds = {SAME: self._same, HARD: self._hard, others: ~self._same & ~self._hard}
        self._kinds = {kind: which for kind, which in kinds.items() if which.any()}
        self.num_pairs = {kind: int(which.sum()) for kind, which in self._kinds.items()}

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """A row an extractor."""
        found: list[dict[str, Any]] = []
        for name in self.embeddings:
            areas = identity.identity_auroc(self._of_pairs(name), self._same, self._hard)
            row: dict[str, Any] = {"extractor": name}
            for key, drawn in (("auroc", self._drawn_areas), ("auroc_same_class", self._drawn_hard_areas)):
                row |= _with_interval(key, float(areas[key]), drawn.get(name, np.zeros(0)))
            for key, part in (("ahead", self._drawn_areas), ("ahead_same_class", self._drawn_hard_areas)):
                first = next(iter(self.embeddings))
                if name != first and name in part:
                    area = "auroc" + key.removeprefix("ahead")
                    row |= _with_interval(key, row[area] - found[0][area], part[name] - part[first])
            found.append(row | self._margins(name) | self._third_views(name))
        return found

    @cached_property
    def similarities(self) -> list[dict[str, Any]]:
        """A row an extractor and kind of pair: mean, spread and shares by similarity."""
        found = []
        for name in self.embeddings:
            values = self._of_pairs(name)
            edges = np.linspace(values.min(), max(values.max(), values.min() + 1e-9), _BINS + 1)
            for kind, which in self._kinds.items():
                found.append(
                    {
                        "extractor": name,
                        "pairs": kind,
                        "n": self.num_pairs[kind],
                        "mean": float(values[which].mean()),
                        "low": float(np.quantile(values[which], 0.05)),
                        "high": float(np.quantile(values[which], 0.95)),
                        "at": ((edges[1:] + edges[:-1]) / 2).tolist(),
                        "shares": (np.histogram(values[which], edges)[0] / which.sum()).tolist(),
                    }
                )
        return found

    def _of_pairs(self, name: str) -> Float[np.ndarray, " pairs"]:
        cosines: Float[np.ndarray, " pairs"] = self._cosines[name][self._pairs[:, 0], self._pairs[:, 1]]
        return cosines

    @cached_property
    def _drawn_areas(self) -> Mapping[str, Drawn]:
        return self._areas(np.ones(len(self._pairs), dtype=bool))

    @cached_property
    def _drawn_hard_areas(self) -> Mapping[str, Drawn]:
        return self._areas(self._same | self._hard) if self._hard.any() else {}

    def _areas(self, rows: np.ndarray) -> dict[str, Drawn]:
        """The area under the curve in every resample of subjects."""
        names = self.pictures.subjects
        shown = [tuple(dict.fromkeys((names[i], names[j]))) for i, j in self._pairs[rows]]
        judged = {
            name: Judged(same=self._same[rows], accepted=self._same[rows], scores=self._of_pairs(name)[rows])
            for name in self.embeddings
        }
        every = np.arange(int(rows.sum()))
        drawn = resampled(
            Resampler(shown, self._count, self._seed),
            {name: (every, x) for name, x in judged.items()},
            only=("auroc",),
        )
        return {name: found["auroc"] for name, found in drawn.items()}

    def _margins(self, name: str) -> dict[str, float | None]:
        """`identity_margin` where each picture is compared with every other one of its subject and every one
        of the others; intervals are over the subjects of both.
        """
        cosines = self._cosines[name]
        numbers = np.unique(np.array(self.pictures.subjects), return_inverse=True)[1]
        size = int(numbers.max()) + 1
        # By the subject of the picture and that of the other one; then by that of the picture alone.
        won, trials = np.zeros((size, size)), np.zeros((size, size))
        succeeded, samples = np.zeros(size), np.zeros(size)
        total, count = 0.0, 0
        for i, of in enumerate(numbers):
            mine = np.flatnonzero((numbers == of) & (np.arange(len(numbers)) != i))
            others = np.flatnonzero(numbers != of)
            if not len(mine):
                continue
            margins = cosines[i, mine][:, None] - cosines[i, others][None]
            np.add.at(won[of], numbers[others], (margins > 0).sum(0))
            np.add.at(trials[of], numbers[others], len(mine))
            samples[of] += 1
            succeeded[of] += bool((margins > 0).all())
            total, count = total + float(margins.sum()), count + margins.size
        picks = resamples(size, self._count, self._seed)
        times = np.stack([np.bincount(row, minlength=size) for row in picks]).astype(float)
        with np.errstate(invalid="ignore"):
            pa = np.einsum("rs,st,rt->r", times, won, times) / np.einsum("rs,st,rt->r", times, trials, times)
            ssr = (times @ succeeded) / (times @ samples)
        return {
            **_with_interval("pa", float(won.sum() / trials.sum()), pa),
            **_with_interval("ssr", float(succeeded.sum() / samples.sum()), ssr),
            **_with_interval("margin", total / count, np.zeros(0)),
        }

    def _third_views(self, name: str) -> dict[str, float | None]:
        """The spread of the copy-paste score over views that copy nothing."""
        triplets: list[tuple[int, ...]] = []
        for subject in dict.fromkeys(self.pictures.subjects):
            views = [i for i, x in enumerate(self.pictures.subjects) if x == subject][:_MOST_VIEWS]
            triplets += permutations(views, 3)
        if not triplets:
            return {"third_views": None}
        rows = torch.from_numpy(np.asarray(self.embeddings[name]))
        generated, truth, reference = (rows[list(x)] for x in zip(*triplets, strict=True))
        return {"third_views": float(copying.copy_paste(generated, truth, reference).std())}


def _with_interval(key: str, value: float, drawn: Drawn) -> dict[str, float | None]:
    found: dict[str, float | None] = {key: value if np.isfinite(value) else None}
    if found[key] is not None and (ends := interval(drawn)) is not None:
        found |= {f"{key}_low": ends[0], f"{key}_high": ends[1]}
    return found
