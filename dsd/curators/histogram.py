"""Keeps pairs whose pictures have alike colours in the middle: the least that a curator can do.

It knows nothing of shapes, so two dogs of one coat are the same to it. It is here to be beaten: a judge that
costs money should be better than this.
"""

from collections.abc import Callable, Sequence
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float
from PIL import Image

from dsd.curators.base import Curator
from dsd.types import Pair, Verdict

Space = Literal["hsv", "rgb"]
Likeness = Literal["intersection", "cosine", "hellinger"]
"""How two histograms p and q are compared: the sum of min(p, q); their cosine; the sum of sqrt(p q), which is
the Bhattacharyya coefficient and 1 minus the square of Hellinger's distance. All lie in [0, 1], and 1 is
equality."""

Shares = Float[np.ndarray, " bins"]

_BINS = {"hsv": (16, 4, 4), "rgb": (8, 8, 8)}
_DECIMALS = 6


class HistogramCurator(Curator):
    """Compares the colour histograms of the centres of reference and target.

    The score is their likeness, from 0 (no colour in common) to 1, and a pair is accepted when it lies
    between the two limits. The default lower limit is the one of the best F1 on 352 labelled pairs of
    photographs with everything else at its default; for other settings or pictures look at the scores first.

    Args:
        crop: share of the width and of the height that is looked at, around the centre; 1 is all.
        space: "hsv" or "rgb".
        bins: of each of the three channels; by default 16 hues x 4 x 4, or 8 x 8 x 8.
        likeness: "intersection", "cosine" or "hellinger".
        low: least likeness of two pictures of the same subject.
        high: greatest likeness of two pictures that are not copies of each other.

    Raises:
        ValueError: if an argument is out of range.
    """

    free = True

    def __init__(
        self,
        crop: float = 0.5,
        space: Space = "hsv",
        bins: Sequence[int] | None = None,
        likeness: Likeness = "intersection",
        low: float = 0.25,
        high: float = 0.99,
    ) -> None:
        for name, value, allowed in (
            ("space", space, get_args(Space)),
            ("likeness", likeness, get_args(Likeness)),
        ):
            if value not in allowed:
                raise ValueError(f"Unknown {name} {value!r}. Allowed: {', '.join(allowed)}.")
        if not 0 < crop <= 1:
            raise ValueError(f"`crop` must be above 0 and at most 1; got {crop}. 0.5 is the middle half.")
        if not 0 <= low <= high <= 1:
            raise ValueError(f"The limits must be 0 <= low <= high <= 1; got low={low} and high={high}.")
        counts = _BINS[space] if bins is None else tuple(bins)
        if len(counts) != 3 or not all(1 <= count <= 256 for count in counts):
            raise ValueError(f"`bins` are three numbers from 1 to 256, one a channel; got {list(counts)}.")
        self.crop, self.space, self.bins, self.likeness = crop, space, counts, likeness
        self.low, self.high = low, high

    def judge(self, pair: Pair) -> Verdict:
        """Compare the two pictures' colours."""
        shares = [self.histogram(panel) for panel in (pair.reference, pair.target)]
        score = round(min(1.0, _LIKENESS[self.likeness](*shares)), _DECIMALS)
        numbers = f"{self.likeness} {score:.3f}, wanted {self.low:g} to {self.high:g}"
        if score < self.low:
            return Verdict(keep=False, score=score, reason=f"not the same colours: {numbers}")
        if score > self.high:
            return Verdict(keep=False, score=score, reason=f"a near copy: {numbers}")
        return Verdict(keep=True, score=score, reason=f"the same colours: {numbers}")

    def histogram(self, panel: Image.Image) -> Shares:
        """The share of the centre's pixels in each bin; they sum to 1."""
        width, height = (max(1, round(side * self.crop)) for side in panel.size)
        left, top = (panel.width - width) // 2, (panel.height - height) // 2
        centre = panel.convert("RGB").crop((left, top, left + width, top + height))
        values = np.asarray(centre.convert(self.space.upper()), dtype=np.int64).reshape(-1, 3)
        bins = np.array(self.bins)
        cells = np.ravel_multi_index(tuple((values * bins // 256).T), self.bins)
        counts = np.bincount(cells, minlength=int(bins.prod()))
        shares: Shares = counts / counts.sum()
        return shares


def _intersection(p: Shares, q: Shares) -> float:
    return float(np.minimum(p, q).sum())


def _cosine(p: Shares, q: Shares) -> float:
    return float(p @ q / np.sqrt((p @ p) * (q @ q)))


def _hellinger(p: Shares, q: Shares) -> float:
    return float(np.sqrt(p * q).sum())


_LIKENESS: dict[str, Callable[[Shares, Shares], float]] = {
    "intersection": _intersection,
    "cosine": _cosine,
    "hellinger": _hellinger,
}
