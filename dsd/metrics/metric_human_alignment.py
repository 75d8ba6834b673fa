"""How well a metric agrees with people, where both name the items that they are of."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat

from dsd.metrics.functional.agreement import Level, check_level
from dsd.metrics.functional.alignment import human_alignment
from dsd.metrics.functional.gap import check_scale, on_unit_scale
from dsd.metrics.keys import check_once, hashed, joined

_SHOWN = ("pearson", "spearman", "kendall", "alpha")


class MetricHumanAlignment(Metric):
    """Correlations of a metric with each group of raters, and alpha between the two; see
    `dsd.metrics.functional.human_alignment`.

    Scores and ratings are joined by the items' keys, never by their order, and may be added apart.

    Args:
        low: lowest rating of the people's scale.
        high: highest rating of it.
        score_range: the scores that stand for the scale's ends, for alpha; by default the lowest and the
            highest that were added. To compare methods, give those of all methods together.
        level: of measurement, for alpha.
        canonical: brings keys that mean the same to one form, such as `dreambench_key`.
        kwargs: of `torchmetrics.Metric`.

    Raises:
        ValueError: if a range goes nowhere, or there is no such level.

    Example:
        >>> metric = MetricHumanAlignment()
        >>> metric.add_scores(["a", "b", "c"], [0.2, 0.9, 0.5])
        >>> metric.add_ratings(["c", "b", "a"], [[2, 4, 0]])
        >>> metric.compute()["spearman"]
        tensor(1.)
    """

    is_differentiable: bool = False
    higher_is_better: bool = True
    full_state_update: bool = False
    plot_lower_bound: float = -1.0
    plot_upper_bound: float = 1.0
    score_keys: list[Tensor]
    scores: list[Tensor]
    rating_keys: list[Tensor]
    ratings: list[Tensor]

    def __init__(
        self,
        low: float = 0.0,
        high: float = 4.0,
        score_range: tuple[float, float] | None = None,
        level: Level = "interval",
        canonical: Callable[[str], str] = str.strip,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_scale(low, high)
        check_level(level)
        if score_range is not None:
            check_scale(*score_range)
        self.low, self.high, self.score_range, self.level = low, high, score_range, level
        self.canonical = canonical
        self._names: dict[int, str] = {}  # for messages; what came from other processes has none
        for name in ("score_keys", "scores", "rating_keys", "ratings"):
            self.add_state(name, [], dist_reduce_fx="cat")

    def update(self, keys: Iterable[str], scores: Any = None, ratings: Any = None) -> None:
        """Add scores, ratings, or both of the same items.

        Args:
            keys: what the items are called.
            scores: (items,) of the metric; NaN where missing.
            ratings: (groups, items) of people, always the same groups; NaN where missing.

        Raises:
            ValueError: if the lengths differ, a rating is outside the scale, a score is infinite, or neither
                is given.
        """
        names = [self.canonical(key) for key in keys]
        if scores is None and ratings is None:
            raise ValueError("Give `scores`, `ratings` or both.")
        numbers = hashed(names).to(self.device)
        values = None if scores is None else torch.as_tensor(scores, device=self.device).double()
        table = None if ratings is None else torch.as_tensor(ratings, device=self.device).double()
        if table is not None and table.ndim == 1:
            table = table[None]
        if values is not None and values.shape != (len(names),):
            raise ValueError(
                f"Got scores of shape {tuple(values.shape)} for {len(names)} keys; give one of each."
            )
        if table is not None and (table.ndim != 2 or table.shape[1] != len(names)):
            raise ValueError(
                f"Got ratings of shape {tuple(table.shape)} for {len(names)} keys; give (groups, items)."
            )
        if table is not None and self.ratings and self.ratings[0].shape[1] != len(table):
            raise ValueError(
                f"Got {len(table)} groups of raters after {self.ratings[0].shape[1]}; give NaN for a "
                "group that did not rate."
            )
        if values is not None and torch.isinf(values).any():
            raise ValueError("A score is infinite. Give NaN where one is missing.")
        if table is not None:
            on_unit_scale(table, self.low, self.high)
        self._names.update(zip(numbers.tolist(), names, strict=True))
        if values is not None:
            self.score_keys.append(numbers)
            self.scores.append(values)
        if table is not None:
            self.rating_keys.append(numbers)
            self.ratings.append(table.T)

    def add_scores(self, keys: Iterable[str], scores: Any) -> None:
        """Add scores alone; see `update`."""
        self.update(keys, scores=scores)

    def add_ratings(self, keys: Iterable[str], ratings: Any) -> None:
        """Add ratings alone; see `update`."""
        self.update(keys, ratings=ratings)

    def compute(self) -> dict[str, Tensor]:
        """What `dsd.metrics.functional.human_alignment` returns, for all items that have a score or a rating.

        Raises:
            ValueError: if an item has two scores, or was rated twice by its groups; and as
                `human_alignment`.
        """
        if not len(self.scores) or not len(self.ratings):
            side = "score" if not len(self.scores) else "rating"
            raise ValueError(f"No {side} was added yet: call `update` first.")
        score_keys, rating_keys = dim_zero_cat(self.score_keys), dim_zero_cat(self.rating_keys)
        check_once(score_keys, self._names, "scores")
        check_once(rating_keys, self._names, "ratings")
        scores, ratings = dim_zero_cat(self.scores), dim_zero_cat(self.ratings)
        num_items, here, there = joined(score_keys, rating_keys)
        column = scores.new_full((num_items,), torch.nan)
        people = ratings.new_full((num_items, ratings.shape[1]), torch.nan)
        column[here], people[there] = scores, ratings
        found = human_alignment(
            column.double(),
            people.T.double(),
            low=self.low,
            high=self.high,
            score_range=self.score_range,
            level=self.level,
        )
        return {name: x.float() if x.is_floating_point() else x for name, x in found.items()}

    def plot(self, val: dict[str, Tensor] | Sequence[dict[str, Tensor]] | None = None, ax: Any = None) -> Any:
        """Draw the correlations and alpha: what was computed now, one result, or several over time."""
        shown = self.compute() if val is None else val
        if isinstance(shown, dict):
            return self._plot({name: shown[name] for name in _SHOWN}, ax)
        return self._plot([{name: x[name] for name in _SHOWN} for x in shown], ax)


def dreambench_key(key: str) -> str:
    """The key of a picture of DreamBench++ as its ratings have it, from the form that its metrics have.

    Metrics add the number of the image ("object_20_rubik's_cube-0_0"), and call the magic cube otherwise.

    Example:
        >>> dreambench_key("live_subject_animal_03_cotton-top_tamarin-8_0")
        'live_subject_animal_03_cotton-top_tamarin-8'
        >>> dreambench_key("object_20_rubik's_cube-0_0")
        'object_20_magic_cube-0'
    """
    collection, hyphen, index = key.strip().rpartition("-")
    if not hyphen:
        return index
    return f"{_ALIASES.get(collection, collection)}-{index.partition('_')[0]}"


_ALIASES = {"object_20_rubik's_cube": "object_20_magic_cube"}
