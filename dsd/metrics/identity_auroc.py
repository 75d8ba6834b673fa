"""Whether a similarity tells pairs of one subject from pairs of two."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat

from dsd.metrics.functional.grouped import NanPolicy
from dsd.metrics.functional.identity import check_missing, identity_auroc


class IdentityAUROC(Metric):
    """Area under the curve of a similarity as a judge of identity; see
    `dsd.metrics.functional.identity_auroc`. A network whose area is near .5 on photographs says nothing about
    identity, whatever its scores of generated pictures are.

    Args:
        nan_policy: what is done with a missing score: "error", "skip", or "zero" (it counts as 0).
        kwargs: of `torchmetrics.Metric`.

    Raises:
        ValueError: for an unknown policy.

    Example:
        >>> metric = IdentityAUROC()
        >>> metric.update([0.9, 0.2, 0.5], [True, False, True], same_class=[True, True, False])
        >>> metric.compute()["auroc"]
        tensor(1.)
    """

    is_differentiable: bool = False
    higher_is_better: bool = True
    full_state_update: bool = False
    plot_lower_bound: float = 0.0
    plot_upper_bound: float = 1.0
    scores: list[Tensor]
    same: list[Tensor]
    same_class: list[Tensor]

    def __init__(self, nan_policy: NanPolicy = "error", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_missing(torch.zeros(0, dtype=torch.bool), nan_policy, "scores")
        self.nan_policy = nan_policy
        for name in ("scores", "same", "same_class"):
            self.add_state(name, [], dist_reduce_fx="cat")

    def update(self, scores: Any, same: Any, same_class: Any = None) -> None:
        """Add pairs.

        Args:
            scores: (n,) similarity of each pair; NaN where missing.
            same: (n,) whether both are the same subject.
            same_class: (n,) whether both are of one class; not known by default.

        Raises:
            ValueError: if the lengths differ, or a score is missing under "error".
        """
        values = torch.as_tensor(scores).detach().double().flatten()
        flags = torch.as_tensor(same).flatten().bool()
        known = (
            torch.zeros_like(flags) if same_class is None else torch.as_tensor(same_class).flatten().bool()
        )
        if not len(values) == len(flags) == len(known):
            raise ValueError(
                f"Got {len(values)} scores, {len(flags)} and {len(known)} flags; give one of each."
            )
        check_missing(values.isnan(), self.nan_policy, "scores")
        self.scores.append(values.to(self.device))
        self.same.append(flags.to(self.device))
        self.same_class.append(known.to(self.device))

    def compute(self) -> dict[str, Tensor]:
        """What `dsd.metrics.functional.identity_auroc` returns.

        Raises:
            ValueError: if no pair was added, or one kind of pair is not there.
        """
        if not len(self.scores):
            raise ValueError("No pair was added yet: call `update` first.")
        scores, same, hard = (dim_zero_cat(x) for x in (self.scores, self.same, self.same_class))
        return identity_auroc(scores, same, hard, nan_policy=self.nan_policy)

    def plot(self, val: Any = None, ax: Any = None) -> Any:
        """Draw the areas: what was computed now, one result, or several over time."""
        shown = self.compute() if val is None else val
        results = [shown] if isinstance(shown, dict) else shown
        names = [name for name in ("auroc", "auroc_same_class") if not results[0][name].isnan()]
        drawn = [{name: result[name] for name in names} for result in results]
        return self._plot(drawn[0] if isinstance(shown, dict) else drawn, ax)
