"""Krippendorff's alpha, batch by batch."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat

from dsd.metrics.functional.agreement import (
    Level,
    alpha_of_items,
    alpha_of_sums,
    check_level,
    interval_sums,
    items_of,
)


class KrippendorffAlpha(Metric):
    r"""Agreement of any number of raters, any of whose ratings may be missing; see
    `dsd.metrics.functional.krippendorff_alpha`.

    At the level "interval" four sums are kept, however many items there are; at the others, the ratings.

    Args:
        level: what the numbers mean: "nominal", "ordinal", "interval" or "ratio".
        kwargs: of `torchmetrics.Metric`.

    Raises:
        ValueError: if there is no such level.

    Example:
        >>> nan = float("nan")
        >>> metric = KrippendorffAlpha()
        >>> metric.update([[1, 2], [1, 2], [nan, 2]])  # three raters, two items
        >>> metric.update([[3, nan], [4, 4], [3, nan]])
        >>> result = metric.compute()
        >>> result["alpha"], result["items"], result["missing"]
        (tensor(0.8833), tensor(3), tensor(3))
    """

    is_differentiable: bool = False
    higher_is_better: bool = True
    full_state_update: bool = False
    plot_lower_bound: float = -1.0
    plot_upper_bound: float = 1.0
    num_ratings: Tensor
    total: Tensor
    squares: Tensor
    observed: Tensor
    num_items: Tensor
    num_left_out: Tensor
    num_missing: Tensor
    values: list[Tensor]
    sizes: list[Tensor]

    def __init__(self, level: Level = "interval", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_level(level)
        self.level = level
        for name in ("num_items", "num_left_out", "num_missing", "num_ratings"):
            self.add_state(name, torch.tensor(0), dist_reduce_fx="sum")
        if level == "interval":
            for name in ("total", "squares", "observed"):
                self.add_state(name, torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="sum")
        else:
            self.add_state("values", [], dist_reduce_fx="cat")
            self.add_state("sizes", [], dist_reduce_fx="cat")

    def update(self, ratings: Any) -> None:
        """Add items, with all the ratings that each of them has.

        Args:
            ratings: (raters, items), NaN where a rating is missing. The raters need not be the same, nor as
                many, as in other calls.

        Raises:
            ValueError: if the shape is another, or a rating is infinite.
        """
        table = torch.as_tensor(ratings, device=self.device)
        values, sizes = items_of(table)
        self.num_items += len(sizes)
        self.num_left_out += table.shape[1] - len(sizes)
        self.num_missing += int(torch.isnan(table.double()).sum())
        self.num_ratings += len(values)
        if self.level == "interval":
            _, total, squares, observed = interval_sums(values, sizes)
            self.total += total.to(self.total)
            self.squares += squares.to(self.squares)
            self.observed += observed.to(self.observed)
        else:
            self.values.append(values)
            self.sizes.append(sizes)

    def compute(self) -> dict[str, Tensor]:
        """Alpha, and what it is of.

        Returns:
            `alpha`, in (-inf, 1]; `items` with two ratings or more, which enter it; `ratings` of them;
            `left_out`, items with fewer; and `missing`, ratings that are not there.

        Raises:
            ValueError: if no item has two ratings, all ratings are the same, or one is negative at the level
                "ratio".
        """
        if self.level == "interval":
            alpha = alpha_of_sums(
                self.num_ratings, *(x.double() for x in (self.total, self.squares, self.observed))
            )
        elif not self.num_items:
            alpha = alpha_of_items(torch.zeros(0), torch.zeros(0, dtype=torch.int64), self.level)
        else:
            values, sizes = dim_zero_cat(self.values), dim_zero_cat(self.sizes)
            alpha = alpha_of_items(values.double(), sizes, self.level)
        return {
            "alpha": alpha.float(),
            "items": self.num_items,
            "ratings": self.num_ratings,
            "left_out": self.num_left_out,
            "missing": self.num_missing,
        }

    def plot(self, val: dict[str, Tensor] | Sequence[dict[str, Tensor]] | None = None, ax: Any = None) -> Any:
        """Draw alpha: what was computed now, one result, or several over time."""
        shown = self.compute() if val is None else val
        return self._plot(shown["alpha"] if isinstance(shown, dict) else [x["alpha"] for x in shown], ax)
