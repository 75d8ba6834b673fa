"""By how much ratings fall where copies of the reference are penalised."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat

from dsd.metrics.functional.gap import check_scale, debias_gap, on_unit_scale
from dsd.metrics.keys import hashed, listed


class DebiasGap(Metric):
    """The mean rating by a plain rubric less that by one that penalises copies of the reference, picture by
    picture, on a scale from 0 to 1; see `dsd.metrics.functional.debias_gap`.

    Args:
        low: lowest rating of the scale.
        high: highest rating of the scale.
        resamples: of the bootstrap over subjects.
        seed: of the bootstrap.
        level: share of resamples inside the interval.
        kwargs: of `torchmetrics.Metric`.

    Raises:
        ValueError: if `low` is not below `high`.

    Example:
        >>> metric = DebiasGap()
        >>> metric.update([4, 4], [1, 2], subjects=["cat", "cat"])
        >>> metric.update([3, 4], [1, float("nan")], subjects=["vase", "vase"])
        >>> result = metric.compute()
        >>> result["gap"], result["missing"]
        (tensor(0.5833), tensor(1))
    """

    is_differentiable: bool = False
    higher_is_better: bool = False
    full_state_update: bool = False
    plot_lower_bound: float = -1.0
    plot_upper_bound: float = 1.0
    plain: list[Tensor]
    penalising: list[Tensor]
    subjects: list[Tensor]

    def __init__(
        self,
        low: float = 0.0,
        high: float = 4.0,
        resamples: int = 2000,
        seed: int = 0,
        level: float = 0.95,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_scale(low, high)
        self.low, self.high = low, high
        self.resamples, self.seed, self.level = resamples, seed, level
        for name in ("plain", "penalising", "subjects"):
            self.add_state(name, [], dist_reduce_fx="cat")

    def update(self, plain: Any, penalising: Any, subjects: Any) -> None:
        """Add pictures.

        Args:
            plain: (n,) ratings by the plain rubric; NaN where missing.
            penalising: (n,) ratings of the same pictures by the rubric that penalises copies.
            subjects: whom each picture shows, by name or number; one for all, if it is the same.

        Raises:
            ValueError: if the lengths differ, or a rating is outside the scale.
        """
        first, second = (
            torch.as_tensor(x, device=self.device).double().flatten() for x in (plain, penalising)
        )
        if len(first) != len(second):
            raise ValueError(
                f"Got {len(first)} plain and {len(second)} penalising ratings; give one of each a picture."
            )
        for ratings in (first, second):
            on_unit_scale(ratings, self.low, self.high)
        self.subjects.append(hashed(listed(subjects, len(first), "subjects")).to(first.device))
        self.plain.append(first)
        self.penalising.append(second)

    def compute(self) -> dict[str, Tensor]:
        """What `dsd.metrics.functional.debias_gap` returns, for all pictures.

        Raises:
            ValueError: if no picture has both ratings.
        """
        if not len(self.plain):
            raise ValueError("No rating was added yet: call `update` first.")
        found = debias_gap(
            *(dim_zero_cat(x) for x in (self.plain, self.penalising, self.subjects)),
            low=self.low,
            high=self.high,
            resamples=self.resamples,
            seed=self.seed,
            level=self.level,
        )
        return {name: x.float() if x.is_floating_point() else x for name, x in found.items()}

    def plot(self, val: dict[str, Tensor] | Sequence[dict[str, Tensor]] | None = None, ax: Any = None) -> Any:
        """Draw the gap and its ends: what was computed now, one result, or several over time."""
        shown = self.compute() if val is None else val
        kept = ("gap", "low", "high")
        if isinstance(shown, dict):
            return self._plot({name: shown[name] for name in kept}, ax)
        return self._plot([{name: x[name] for name in kept} for x in shown], ax)
