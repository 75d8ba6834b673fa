"""What a curator's verdicts are worth beside the truth: single numbers, intervals and threshold curves."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torchmetrics.functional import classification

from dsd.evaluation.bootstrap import Interval, resamples

NUMBERS = ("precision", "recall", "f1", "auroc", "kappa")
"""Precision, recall and F1 of "accepted" as the answer to "the same?"; area under the ROC curve of the score;
Cohen's kappa between accepted and the same."""

_CELLS = 4_000_000  # of a table of weights that is held at once

Weights = Float[np.ndarray, "resamples pairs"]
Means = Float[np.ndarray, " resamples"]


@dataclass(frozen=True, kw_only=True)
class Judged:
    """Pairs that a curator accepted or rejected, in columns.

    Attributes:
        same: whether both pictures show the same subject.
        accepted: whether the curator said so.
        scores: higher is better; NaN where it gave none.
    """

    same: Bool[np.ndarray, " pairs"]
    accepted: Bool[np.ndarray, " pairs"]
    scores: Float[np.ndarray, " pairs"]

    def take(self, rows: Bool[np.ndarray, " pairs"]) -> "Judged":
        """Some of the pairs."""
        return Judged(same=self.same[rows], accepted=self.accepted[rows], scores=self.scores[rows])

    def scored(self) -> "Judged":
        """Those that have a score."""
        return self.take(np.isfinite(self.scores))


def measure(judged: Judged) -> dict[str, float | None]:
    """`NUMBERS` of one curator; None where a number has no value: precision when nothing was accepted, AUROC
    without scores or with pairs of one kind only.
    """
    said, same = (torch.from_numpy(x.astype(np.int64)) for x in (judged.accepted, judged.same))
    either = bool(judged.accepted.any() or judged.same.any())
    agree_by_chance = len(set(judged.accepted.tolist()) | set(judged.same.tolist())) < 2
    scored = judged.scored()
    found: dict[str, float | None] = dict.fromkeys(NUMBERS)
    if judged.accepted.any():
        found["precision"] = float(classification.binary_precision(said, same))
    if judged.same.any():
        found["recall"] = float(classification.binary_recall(said, same))
    if either:
        found["f1"] = float(classification.binary_f1_score(said, same))
    if len(set(scored.same.tolist())) == 2:
        found["auroc"] = float(classification.binary_auroc(*_ranked(scored)))
    if len(judged.same) and not agree_by_chance:
        found["kappa"] = float(classification.binary_cohen_kappa(said, same))
    return found


def _ranked(scored: Judged) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores as ranks in [0, 1], and labels.

    torchmetrics takes scores outside [0, 1] for logits, whose sigmoid has ties where they have none.
    """
    ranks = np.unique(scored.scores, return_inverse=True)[1]
    return torch.from_numpy(ranks / max(1, ranks.max(initial=0))), torch.from_numpy(
        scored.same.astype(np.int64)
    )


Chosen = tuple[Int[np.ndarray, " _"], Judged]
"""The places of the pairs that a curator judged among all, and what it said of them."""


class Resampler:
    """Resamples pairs by the subjects that they show (or by the pictures, where those are all that is known),
    for intervals.

    Subjects are drawn with replacement, and a pair counts as often as its subjects were drawn: the product
    for a pair of two, as in the pigeonhole bootstrap, over its mean, so that pairs of one subject and of two
    keep their shares. Pairs without a known subject are drawn singly. All curators share the resamples, so
    that what differs between two of them is compared on the same ones.

    Args:
        subjects: whom each pair shows.
        count: how many resamples.
        seed: of the draws.

    References:
        Owen, *The pigeonhole bootstrap*, Annals of Applied Statistics, 2007.
    """

    def __init__(self, subjects: Sequence[tuple[str, ...]], count: int = 2000, seed: int = 0) -> None:
        named = [shown or (f"\0{i}",) for i, shown in enumerate(subjects)]  # no subject has such a name
        number = {name: i for i, name in enumerate(sorted({x for shown in named for x in shown}))}
        self.num_subjects, self.count, self._seed = len(number), count, seed
        first = [number[shown[0]] for shown in named]
        self._first: Int[np.ndarray, " pairs"] = np.array(first, dtype=np.int64)
        self._second: Int[np.ndarray, " pairs"] = np.array([number[x[-1]] for x in named], dtype=np.int64)

    def weights(self) -> Iterator[Weights]:
        """How much each pair counts in each resample, some resamples at a time; 1 on average."""
        width = max(len(self._first), self.num_subjects)
        step = max(1, min(self.count, _CELLS // width))
        two = self._first != self._second
        mean = 1 - 1 / self.num_subjects if self.num_subjects > 1 else 1.0
        for start in range(0, self.count, step):
            picks = resamples(self.num_subjects, min(step, self.count - start), self._seed + start)
            times = np.stack([np.bincount(row, minlength=self.num_subjects) for row in picks]).astype(float)
            found = times[:, self._first]
            found[:, two] *= times[:, self._second[two]] / mean
            yield found


def resampled(
    resampler: Resampler, curators: Mapping[str, Chosen], only: Sequence[str] = NUMBERS
) -> dict[str, dict[str, Means]]:
    """`NUMBERS` of several curators in every resample; NaN where a number has no value.

    Args:
        resampler: of all pairs.
        curators: by name, the places of the pairs that it judged among all, and what it said.
        only: some of the numbers.
    """
    parts: dict[str, dict[str, list[Means]]] = {name: {number: [] for number in only} for name in curators}
    for weights in resampler.weights():
        for name, (places, judged) in curators.items():
            found = weighted(judged, weights[:, places])
            for number in only:
                parts[name][number].append(found[number])
    return {
        name: {number: np.concatenate(values) for number, values in found.items()}
        for name, found in parts.items()
    }


def weighted(judged: Judged, weights: Weights) -> dict[str, Means]:
    """`NUMBERS` where each pair counts so much, for each row of weights; NaN where a number has no value."""
    said, same = judged.accepted, judged.same
    cells = (said & same, said & ~same, ~said & same, ~said & ~same)
    tp, fp, fn, tn = (weights @ cell.astype(float) for cell in cells)
    total = tp + fp + fn + tn
    with np.errstate(divide="ignore", invalid="ignore"):
        agreed = (tp + tn) / total
        by_chance = ((tp + fp) * (tp + fn) + (fn + tn) * (fp + tn)) / total**2
        return {
            "precision": tp / (tp + fp),
            "recall": tp / (tp + fn),
            "f1": 2 * tp / (2 * tp + fp + fn),
            "auroc": _weighted_auroc(judged, weights),
            "kappa": np.where(by_chance < 1, (agreed - by_chance) / (1 - by_chance), np.nan),
        }


def _weighted_auroc(judged: Judged, weights: Weights) -> Means:
    """The weight of the ordered pairs of a positive and a negative that are in order; ties count half."""
    kept = np.isfinite(judged.scores)
    if not kept.any():
        return np.full(len(weights), np.nan)
    order = np.argsort(judged.scores[kept], kind="stable")
    scores, same = judged.scores[kept][order], judged.same[kept][order]
    starts = np.flatnonzero(np.r_[True, scores[1:] != scores[:-1]])
    sorted_weights = weights[:, kept][:, order]
    yes, no = (np.add.reduceat(sorted_weights * x, starts, axis=1) for x in (same, ~same))
    below = np.cumsum(no, axis=1) - no
    with np.errstate(divide="ignore", invalid="ignore"):
        return (yes * (below + no / 2)).sum(1) / (yes.sum(1) * no.sum(1))


def interval(values: Means, level: float = 0.95) -> Interval | None:
    """Percentile interval of the resamples in which there is a value; None if there is none."""
    known = values[np.isfinite(values)]
    if not len(known):
        return None
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


@dataclass(frozen=True, kw_only=True)
class Curves:
    """What each threshold on the score would give: accept where the score is at least that.

    Attributes:
        thresholds: every score that was given, from low to high.
        precision: of what is accepted then.
        recall: also called the true positive rate.
        false_positives: share of the pairs of different subjects that is accepted then.
    """

    thresholds: Float[np.ndarray, " scores"]
    precision: Float[np.ndarray, " scores"]
    recall: Float[np.ndarray, " scores"]
    false_positives: Float[np.ndarray, " scores"]

    @property
    def f1(self) -> Float[np.ndarray, " scores"]:
        """The harmonic mean of precision and recall."""
        both = self.precision + self.recall
        return np.divide(2 * self.precision * self.recall, both, out=np.zeros_like(both), where=both > 0)


def curves(judged: Judged) -> Curves | None:
    """The threshold curves of a curator; None if it scored no pairs, or pairs of one kind only."""
    scored = judged.scored()
    if len(set(scored.same.tolist())) < 2:
        return None
    ranks, same = _ranked(scored)
    precision, recall, _ = classification.binary_precision_recall_curve(ranks, same)
    false_positives, _, _ = classification.binary_roc(ranks, same)
    # The first ends, and the second begins, at a threshold above all scores.
    return Curves(
        thresholds=np.unique(scored.scores),
        precision=precision[:-1].double().numpy(),
        recall=recall[:-1].double().numpy(),
        false_positives=false_positives[1:].flip(0).double().numpy(),
    )
