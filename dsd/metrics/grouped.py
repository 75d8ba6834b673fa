"""The base of all metrics that are a mean over items: groups, a rule of averaging, and what is missing."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from dsd.metrics.functional.grouped import (
    NAN_POLICIES,
    Average,
    NanPolicy,
    check_rule,
    group_sums,
    mean_of_sums,
)


def groups_of(
    groups: Sequence[str] | None, average: Average, weights: Mapping[str, float] | None
) -> tuple[list[str], list[float] | None]:
    """The groups' names, all in one by default, and the weight of each, if there are weights.

    Raises:
        ValueError: as `GroupedMean`.
    """
    names = ["all"] if groups is None else [str(name) for name in groups]
    if not names or len(set(names)) != len(names):
        raise ValueError(f"Give one or more groups, each once; got {names}.")
    if strange := sorted(set(weights or {}) - set(names)):
        raise ValueError(f"There is a weight of {strange[0]!r}, which is no group: {', '.join(names)}.")
    shares = None if weights is None else [float(weights.get(name, 0.0)) for name in names]
    check_rule(average, shares, len(names))
    return names, shares


def named_groups(known: Sequence[str], groups: Any, count: int) -> list[str]:
    """The names of the groups of `count` items: one for each, or one for all.

    Raises:
        ValueError: if the lengths do not fit, or there is no such group.
    """
    if groups is None:
        if len(known) > 1:
            raise ValueError(f"Say which group each item is of: {', '.join(known)}.")
        groups = known[0]
    names = [groups] * count if isinstance(groups, str) else [str(name) for name in groups]
    if len(names) != count:
        raise ValueError(f"Got {len(names)} groups for {count} items; give one for each.")
    if strange := [name for name in names if name not in known]:
        raise ValueError(f"There is no group {strange[0]!r}. Known: {', '.join(known)}.")
    return names


class GroupedMean(Metric):
    """The mean of the items' values, over all and in each group; see `dsd.metrics.functional.grouped_mean`.

    Derive from it, and call `add` in `update`. It keeps three sums a group, so batches, processes and
    `merge_state` add up exactly and memory does not grow.

    Args:
        groups: the groups' names, such as categories, kinds of prompts or subjects; all in one by default.
        average: "micro", every item counts alike; "macro", the groups' means do, or as the weights say;
            "none", one number a group.
        weights: of the groups, by name, for "macro"; a group that is not named has none.
        nan_policy: what is done with a missing value: "error", "skip" (left out and counted) or "zero"
            (counts as 0, and is counted).
        scale: what scores are multiplied with, such as 100.
        kwargs: of `torchmetrics.Metric`.

    Raises:
        ValueError: if a group is named twice, a weight is of no group or negative, weights come without
            "macro", or there is no such rule or policy.
    """

    is_differentiable: bool = False
    higher_is_better: bool = True
    full_state_update: bool = False
    plot_lower_bound: float | None = None
    plot_upper_bound: float | None = None
    sums: Tensor
    counts: Tensor
    missing: Tensor

    def __init__(
        self,
        groups: Sequence[str] | None = None,
        average: Average = "micro",
        weights: Mapping[str, float] | None = None,
        nan_policy: NanPolicy = "error",
        scale: float = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if nan_policy not in NAN_POLICIES:
            raise ValueError(f"Unknown `nan_policy` {nan_policy!r}. Allowed: {', '.join(NAN_POLICIES)}.")
        self.groups, self.weights = groups_of(groups, average, weights)
        self.average, self.nan_policy, self.scale = average, nan_policy, float(scale)
        size = len(self.groups)
        self.add_state("sums", torch.zeros(size, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("counts", torch.zeros(size, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("missing", torch.zeros(size, dtype=torch.int64), dist_reduce_fx="sum")

    def add(self, values: Any, groups: Any = None) -> None:
        """Add items' values; call it in `update`.

        Args:
            values: (n,) numbers; NaN where one is missing.
            groups: the name of each one's group, or one for all; may be left out if there is one group only.

        Raises:
            ValueError: if the lengths do not fit, there is no such group, or a value is missing under
                "error".
        """
        found = torch.as_tensor(values).detach().flatten().to(self.sums)
        numbers = self.numbers_of(groups, len(found)).to(found.device)
        added = group_sums(found, numbers, num_groups=len(self.groups), nan_policy=self.nan_policy)
        self.sums, self.counts, self.missing = (
            state + more for state, more in zip((self.sums, self.counts, self.missing), added, strict=True)
        )

    def numbers_of(self, groups: Any, count: int) -> Tensor:
        """The numbers of the groups of `count` items, from names: one for each, or one for all.

        Raises:
            ValueError: if the lengths do not fit, or there is no such group.
        """
        return torch.tensor([self.groups.index(name) for name in self.names_of(groups, count)]).long()

    def names_of(self, groups: Any, count: int) -> list[str]:
        """The names of the groups of `count` items: one for each, or one for all.

        Raises:
            ValueError: if the lengths do not fit, or there is no such group.
        """
        return named_groups(self.groups, groups, count)

    def compute(self) -> dict[str, Tensor]:
        """What `dsd.metrics.functional.grouped_mean` returns; the groups are in the order of `groups`.

        Raises:
            ValueError: if no value was added, or "macro" meets a group without one.
        """
        found = mean_of_sums(
            self.sums.double(),
            self.counts,
            self.missing,
            average=self.average,
            weights=self.weights,
            names=self.groups,
        )
        for name in ("score", "score_by_group"):
            found[name] = (found[name] * self.scale).float()
        return found

    def plot(self, val: Any = None, ax: Any = None) -> Any:
        """Draw the score, and the groups': what was computed now, one result, or several over time."""
        shown = self.compute() if val is None else val
        drawn = self.drawn(shown) if isinstance(shown, dict) else [self.drawn(found) for found in shown]
        return self._plot(drawn, ax)

    def drawn(self, result: dict[str, Tensor]) -> dict[str, Tensor]:
        """Which numbers of a result are drawn, by name."""
        groups = dict(zip(self.groups, result["score_by_group"], strict=True)) if len(self.groups) > 1 else {}
        return groups if self.average == "none" else {"score": result["score"], **groups}


class MeanScore(GroupedMean):
    """`GroupedMean` of scores that come from elsewhere, one for each item; see there for the arguments.

    Example:
        >>> metric = MeanScore(groups=["animal", "object"], average="macro", nan_policy="skip")
        >>> metric.update([1.0, 0.5], groups="animal")
        >>> metric.update([0.0, float("nan")], groups=["object", "object"])
        >>> found = metric.compute()
        >>> found["score"], found["n"], found["missing"], found["score_by_group"]
        (tensor(0.3750), tensor(3), tensor(1), tensor([0.7500, 0.0000]))
    """

    def update(self, values: Any, groups: Any = None) -> None:
        """Add values.

        Args:
            values: (n,) numbers; NaN where one is missing.
            groups: the name of each one's group, or one for all; may be left out if there is one group only.

        Raises:
            ValueError: if the lengths do not fit, there is no such group, or a value is missing under
                "error".
        """
        self.add(values, groups)
