"""Means of judges' ratings: concept preservation, prompt following, and both as one number."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat

from dsd.metrics.functional.gap import check_scale, on_unit_scale
from dsd.metrics.functional.grouped import Average
from dsd.metrics.functional.ratings import PRODUCTS, Product, cp_pf, rating_sums, score_of_sums
from dsd.metrics.grouped import GroupedMean, groups_of, named_groups
from dsd.metrics.keys import check_once, hashed, joined, listed


class JudgeScore(GroupedMean):
    """The mean rating on a scale from 0 to 1, over groups and runs, with what is missing; see
    `dsd.metrics.functional.judge_score`.

    Args:
        groups: the groups' names, such as categories, kinds of prompts or subjects; all in one by default.
        average: "micro", every rating counts alike; "macro", the groups' means do, or as the weights say;
            "none", one number a group.
        weights: of the groups, by name, for "macro"; a group that is not named has none.
        low: lowest rating of the scale.
        high: highest rating of the scale.
        runs: how often everything was rated.
        kwargs: of `torchmetrics.Metric`.

    Raises:
        ValueError: if a group is named twice, a weight is of no group or negative, weights come without
            "macro", the scale goes nowhere, or there is no run.

    Example:
        >>> weights = {"animal": 45, "object": 65}
        >>> metric = JudgeScore(groups=list(weights), average="macro", weights=weights)
        >>> metric.update([4, 2], groups="animal")
        >>> metric.update([0, float("nan")], groups=["object", "object"])
        >>> result = metric.compute()
        >>> result["score"], result["n"], result["missing"]
        (tensor(0.3068), tensor(3), tensor(1))
    """

    plot_lower_bound: float = 0.0
    plot_upper_bound: float = 1.0

    def __init__(
        self,
        groups: Sequence[str] | None = None,
        average: Average = "micro",
        weights: Mapping[str, float] | None = None,
        low: float = 0.0,
        high: float = 4.0,
        runs: int = 1,
        **kwargs: Any,
    ) -> None:
        super().__init__(groups, average, weights, nan_policy="skip", **kwargs)
        check_scale(low, high)
        if runs < 1:
            raise ValueError(f"`runs` must be at least 1; got {runs}.")
        self.low, self.high, self.runs = low, high, runs
        for name, kind in (("sums", torch.float64), ("counts", torch.int64), ("missing", torch.int64)):
            empty = torch.zeros(runs, len(self.groups), dtype=kind)
            self.add_state(name, empty, dist_reduce_fx="sum")  # in place of those without runs

    def update(self, ratings: Any, groups: Any = None, runs: Any = 0) -> None:
        """Add ratings.

        Args:
            ratings: (n,) ratings; NaN where one is missing.
            groups: the name of each one's group, or one for all; may be left out if there is one only.
            runs: the number of each one's run from 0, or one for all.

        Raises:
            ValueError: if the lengths do not fit, a rating is outside the scale, or there is no such group or
                run.
        """
        values = torch.as_tensor(ratings, device=self.device).flatten()
        numbers = self.numbers_of(groups, len(values)).to(values.device)
        of_run = torch.tensor(listed(runs, len(values), "runs"), dtype=torch.int64, device=values.device)
        shape = (self.runs, len(self.groups))
        added = rating_sums(values, numbers, of_run, low=self.low, high=self.high, shape=shape)
        self.sums, self.counts, self.missing = (
            state + more.to(state)
            for state, more in zip((self.sums, self.counts, self.missing), added, strict=True)
        )

    def compute(self) -> dict[str, Tensor]:
        """What `dsd.metrics.functional.judge_score` returns; the groups are in the order of `groups`.

        Raises:
            ValueError: if a run has no rating, or "macro" meets a group without one.
        """
        found = score_of_sums(
            self.sums.double(),
            self.counts,
            self.missing,
            average=self.average,
            weights=self.weights,
            names=self.groups,
        )
        return {name: x.float() if x.is_floating_point() else x for name, x in found.items()}


class ConceptPreservation(JudgeScore):
    """`JudgeScore` of how well the subject is kept, by category; see there for the arguments."""


class PromptFollowing(JudgeScore):
    """`JudgeScore` of how well the prompt is followed, by kind of prompt; see there for the arguments."""


class CPPF(Metric):
    """Concept preservation and prompt following as one number; see `dsd.metrics.functional.cp_pf`.

    Ratings are joined by the pictures' keys, never by their order, and may be added apart.

    Args:
        rule: "product_of_means" (DreamBench++), "mean_of_products" or "mean_geometric" (VIEScore,
            OmniContext).
        low: lowest rating of both scales.
        high: highest rating of both scales.
        groups: the groups' names, such as categories or subjects; all in one by default, where every
            `average` gives the same.
        average: "micro", "macro" or "none", as `JudgeScore`: of each side's ratings by "product_of_means", of
            the pictures' products by the others.
        weights: of the groups, by name, for "macro"; a group that is not named has none.
        kwargs: of `torchmetrics.Metric`.

    Raises:
        ValueError: if there is no such rule, the scale goes nowhere, or as `JudgeScore` of groups.

    Example:
        >>> metric = CPPF("mean_of_products")
        >>> metric.update(["cat-0", "cat-1"], concept=[4, 2])
        >>> metric.update(["cat-1", "cat-0"], prompt=[2, 4])
        >>> metric.compute()["cp_pf"]
        tensor(0.6250)
    """

    is_differentiable: bool = False
    higher_is_better: bool = True
    full_state_update: bool = False
    plot_lower_bound: float = 0.0
    plot_upper_bound: float = 1.0
    concept_keys: list[Tensor]
    concept_runs: list[Tensor]
    concept: list[Tensor]
    prompt_keys: list[Tensor]
    prompt_runs: list[Tensor]
    prompt: list[Tensor]
    concept_groups: list[Tensor]
    prompt_groups: list[Tensor]

    def __init__(
        self,
        rule: Product = "product_of_means",
        low: float = 0.0,
        high: float = 4.0,
        groups: Sequence[str] | None = None,
        average: Average = "micro",
        weights: Mapping[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if rule not in PRODUCTS:
            raise ValueError(f"Unknown rule {rule!r}. Allowed: {', '.join(PRODUCTS)}.")
        check_scale(low, high)
        self.rule, self.low, self.high, self.average = rule, low, high, average
        self.groups, self.weights = groups_of(groups, average, weights)
        self._names: dict[int, str] = {}  # for messages; what came from other processes has none
        for side in ("concept", "prompt"):
            for name in (side, f"{side}_keys", f"{side}_runs", f"{side}_groups"):
                self.add_state(name, [], dist_reduce_fx="cat")

    def update(
        self,
        keys: Iterable[str],
        concept: Any = None,
        prompt: Any = None,
        runs: Any = 0,
        groups: Any = None,
    ) -> None:
        """Add ratings of concept preservation, of prompt following, or both, of the same pictures.

        Args:
            keys: what the pictures are called.
            concept: (n,) ratings; NaN where missing.
            prompt: (n,) ratings; NaN where missing.
            runs: the number of each one's run from 0, or one for all.
            groups: the name of each one's group, or one for all; may be left out if there is one only.

        Raises:
            ValueError: if the lengths do not fit, a rating is outside the scale, neither is given, or there
                is no such group.
        """
        names = [str(key) for key in keys]
        if concept is None and prompt is None:
            raise ValueError("Give ratings of `concept`, `prompt` or both.")
        of_run = listed(runs, len(names), "runs")
        of_group = [self.groups.index(name) for name in named_groups(self.groups, groups, len(names))]
        told = [f"{name}, run {run}" for name, run in zip(names, of_run, strict=True)]
        numbers = hashed(told).to(self.device)
        columns = {
            side: on_unit_scale(
                torch.as_tensor(given, device=self.device).double().flatten(), self.low, self.high
            )
            for side, given in (("concept", concept), ("prompt", prompt))
            if given is not None
        }
        for side, column in columns.items():
            if len(column) != len(names):
                raise ValueError(
                    f"Got {len(column)} ratings of {side} for {len(names)} keys; give one of each."
                )
        self._names.update(zip(numbers.tolist(), told, strict=True))
        for side, column in columns.items():
            getattr(self, side).append(column)
            getattr(self, f"{side}_keys").append(numbers)
            getattr(self, f"{side}_runs").append(torch.tensor(of_run, device=self.device))
            getattr(self, f"{side}_groups").append(torch.tensor(of_group, device=self.device))

    def compute(self) -> dict[str, Tensor]:
        """What `dsd.metrics.functional.cp_pf` returns, for all pictures that have a rating of either kind.

        Raises:
            ValueError: if a picture has two ratings of one kind and run, or is of two groups, a run has no
                rating that counts, or "macro" meets a group without one.
        """
        sides = (self.concept, self.prompt)
        if not all(len(side) for side in sides):
            missing = "concept preservation" if not len(self.concept) else "prompt following"
            raise ValueError(f"No rating of {missing} was added yet: call `update` first.")
        keys = [dim_zero_cat(x) for x in (self.concept_keys, self.prompt_keys)]
        for some, what in zip(
            keys, ("ratings of concept preservation", "ratings of prompt following"), strict=True
        ):
            check_once(some, self._names, what)
        num_items, *places = joined(*keys)
        runs = torch.zeros(num_items, dtype=torch.int64, device=keys[0].device)
        groups = torch.full_like(runs, -1)
        columns = []
        for place, some, side, of_run, of_group in zip(
            places,
            keys,
            sides,
            (self.concept_runs, self.prompt_runs),
            (self.concept_groups, self.prompt_groups),
            strict=True,
        ):
            values = dim_zero_cat(side).double()
            column = values.new_full((num_items,), torch.nan)
            column[place] = values
            runs[place] = dim_zero_cat(of_run).long()
            mine = dim_zero_cat(of_group).long()
            if (other := (groups[place] >= 0) & (groups[place] != mine)).any():
                name = self._names.get(int(some[other][0]), "one added by another process")
                raise ValueError(f"The ratings of {name!r} are of two groups. A picture is of one.")
            groups[place] = mine
            columns.append(column)
        found = cp_pf(
            columns[0], columns[1], runs, groups, rule=self.rule, low=0.0, high=1.0, average=self.average,
            weights=self.weights, names=self.groups,
        )  # fmt: skip
        return {name: x.float() if x.is_floating_point() else x for name, x in found.items()}

    def plot(self, val: dict[str, Tensor] | Sequence[dict[str, Tensor]] | None = None, ax: Any = None) -> Any:
        """Draw the number and its sides: what was computed now, one result, or several over time."""
        shown = self.compute() if val is None else val
        kept = ("cp_pf", "cp", "pf")
        if isinstance(shown, dict):
            return self._plot({name: shown[name] for name in kept}, ax)
        return self._plot([{name: x[name] for name in kept} for x in shown], ax)
