"""How often the same subject wins against others: SSR and PA."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat

from dsd.metrics.functional.grouped import NanPolicy
from dsd.metrics.functional.identity import check_missing, identity_margin, sample_numbers


class IdentityMargin(Metric):
    """Sample success rate and pairwise accuracy of a similarity; see
    `dsd.metrics.functional.identity_margin`.

    A sample's trials may come in any batch or process, so two numbers a trial are kept.

    Args:
        nan_policy: what is done with a missing trial: "error", "skip", or "zero" (it counts as lost).
        kwargs: of `torchmetrics.Metric`.

    Raises:
        ValueError: for an unknown policy.

    Example:
        >>> metric = IdentityMargin()
        >>> metric.update([0.9, 0.8], [0.5, 0.9], samples=["cat", "cat"])
        >>> metric.update([0.7], [0.1], samples=["dog"])
        >>> found = metric.compute()
        >>> found["ssr"], found["pa"]
        (tensor(0.5000), tensor(0.6667))
    """

    is_differentiable: bool = False
    higher_is_better: bool = True
    full_state_update: bool = False
    plot_lower_bound: float = 0.0
    plot_upper_bound: float = 1.0
    margins: list[Tensor]
    samples: list[Tensor]

    def __init__(self, nan_policy: NanPolicy = "error", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_missing(torch.zeros(0, dtype=torch.bool), nan_policy, "trials")
        self.nan_policy = nan_policy
        self.add_state("margins", [], dist_reduce_fx="cat")
        self.add_state("samples", [], dist_reduce_fx="cat")

    def update(self, positive: Any, negative: Any, samples: Any) -> None:
        """Add trials.

        Args:
            positive: (n,) similarity with the same subject; NaN where missing.
            negative: (n,) similarity with another.
            samples: (n,) names or numbers of the samples that the trials are of.

        Raises:
            ValueError: if the lengths differ, or a trial is missing under "error".
        """
        first, second = (torch.as_tensor(x).detach().double().flatten() for x in (positive, negative))
        names = samples.tolist() if hasattr(samples, "tolist") else list(samples)
        if not len(first) == len(second) == len(names):
            raise ValueError(
                f"Got {len(first)} positive and {len(second)} negative similarities of {len(names)} "
                "samples; give "
                "one of each."
            )
        margins = first - second
        check_missing(margins.isnan(), self.nan_policy, "trials")
        self.margins.append(margins.to(self.device))
        self.samples.append(sample_numbers(names).to(self.device))

    def compute(self) -> dict[str, Tensor]:
        """What `dsd.metrics.functional.identity_margin` returns.

        Raises:
            ValueError: if no trial was added.
        """
        if not len(self.margins):
            raise ValueError("No trial was added yet: call `update` first.")
        margins = dim_zero_cat(self.margins)
        return identity_margin(
            margins, torch.zeros_like(margins), dim_zero_cat(self.samples), nan_policy=self.nan_policy
        )

    def plot(self, val: Any = None, ax: Any = None) -> Any:
        """Draw both rates: what was computed now, one result, or several over time."""
        shown = self.compute() if val is None else val
        results = [shown] if isinstance(shown, dict) else shown
        drawn = [{name: result[name] for name in ("ssr", "pa")} for result in results]
        return self._plot(drawn[0] if isinstance(shown, dict) else drawn, ax)
