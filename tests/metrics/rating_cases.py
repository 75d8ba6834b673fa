"""The metrics of ratings as a table; what they must give is found by numpy, scipy and loops."""

from typing import Any

import numpy as np
from scipy import stats

from dsd import metrics
from dsd.metrics.functional.agreement import LEVELS
from dsd.metrics.functional.ratings import PRODUCTS
from tests.metrics.cases import NAN, Case

RNG = np.random.default_rng(0)


def holed(table: np.ndarray, share: float) -> np.ndarray:
    found = table.astype(float)
    found[RNG.random(found.shape) < share] = NAN
    return found


def split(n: int, **columns: Any) -> list[dict[str, Any]]:
    """As `cases.split`, with the items in the last axis of arrays."""
    parts = (slice(0, 1), slice(1, n // 2), slice(n // 2, n))
    return [
        {name: x[..., part] if isinstance(x, np.ndarray) else x[part] for name, x in columns.items()}
        for part in parts
    ]


def brute_alpha(table: np.ndarray, level: str) -> float:
    """Krippendorff's alpha by its definition: all pairs within items, against all pairs."""
    units = [column[~np.isnan(column)] for column in table.T]
    units = [unit for unit in units if len(unit) > 1]
    pool = np.concatenate(units)

    def apart(c: float, k: float) -> float:
        if level == "nominal":
            return float(c != k)
        if level == "interval":
            return (c - k) ** 2
        if level == "ratio":
            return 0.0 if c + k == 0 else ((c - k) / (c + k)) ** 2
        low, high = min(c, k), max(c, k)
        between = ((pool >= low) & (pool <= high)).sum() - ((pool == low).sum() + (pool == high).sum()) / 2
        return between**2 if low != high else 0.0

    def over_pairs(values: np.ndarray) -> float:
        return sum(apart(a, b) for i, a in enumerate(values) for j, b in enumerate(values) if i != j)

    observed = sum(over_pairs(unit) / (len(unit) - 1) for unit in units) / len(pool)
    return 1 - observed / (over_pairs(pool) / (len(pool) * (len(pool) - 1)))


def _alpha(level: str) -> Case:
    table = holed(RNG.integers(0, 5, (4, 17)), 0.3)
    return Case(
        make=lambda: metrics.create({"name": "krippendorff_alpha", "level": level}),
        batches=split(17, ratings=table),
        wanted={
            "alpha": brute_alpha(table, level),
            "missing": float(np.isnan(table).sum()),
            "items": float(((~np.isnan(table)).sum(0) > 1).sum()),
        },
    )


def _judge_score(name: str, average: str) -> Case:
    ratings, groups = holed(RNG.integers(0, 5, 120), 0.2), RNG.choice(["animal", "human", "object"], 120)
    runs = RNG.integers(0, 2, 120)
    weights = {"animal": 45.0, "human": 20.0, "object": 65.0}
    by_run = []
    for run in (0, 1):
        kept = (runs == run) & ~np.isnan(ratings)
        means = {group: ratings[kept & (groups == group)].mean() / 4 for group in weights}
        whole = sum(weights[group] * mean for group, mean in means.items()) / 130
        by_run.append(whole if average == "macro" else ratings[kept].mean() / 4)
    return Case(
        make=lambda: metrics.create(
            {
                "name": name,
                "groups": list(weights),
                "average": average,
                "weights": weights if average == "macro" else None,
                "runs": 2,
            }
        ),
        batches=split(120, ratings=ratings, groups=groups, runs=runs),
        wanted={
            "score": float(np.mean(by_run)),
            "std": float(np.std(by_run, ddof=1)),
            "n": float((~np.isnan(ratings)).sum()),
            "missing": float(np.isnan(ratings).sum()),
        },
    )


def _cp_pf(rule: str) -> Case:
    concept, prompt = (holed(RNG.integers(0, 5, 30), 0.15) for _ in range(2))
    cp, pf = concept / 4, prompt / 4
    wanted = {
        "product_of_means": np.nanmean(cp) * np.nanmean(pf),
        "mean_of_products": np.nanmean(cp * pf),
        "mean_geometric": np.nanmean(np.sqrt(cp * pf)),
    }[rule]
    return Case(
        make=lambda: metrics.create({"name": "cp_pf", "rule": rule}),
        batches=split(30, keys=[f"item-{i}" for i in range(30)], concept=concept, prompt=prompt),
        wanted={
            "cp_pf": float(wanted),
            "cp": float(np.nanmean(cp)),
            "missing_pf": float(np.isnan(prompt).sum()),
            "n": float((~np.isnan(cp * pf)).sum()),
        },
    )


def _gap() -> Case:
    plain, penalising = (holed(RNG.integers(0, 5, 24), 0.1) for _ in range(2))
    both = ~np.isnan(plain + penalising)
    return Case(
        make=lambda: metrics.create({"name": "debias_gap", "resamples": 50}),
        batches=split(24, plain=plain, penalising=penalising, subjects=[f"s{i // 3}" for i in range(24)]),
        wanted={
            "gap": float((plain - penalising)[both].mean() / 4),
            "plain": float(plain[both].mean() / 4),
            "n": float(both.sum()),
            "subjects": float(len({i // 3 for i in np.flatnonzero(both)})),
        },
    )


def _alignment() -> Case:
    people = RNG.integers(0, 5, (2, 30)).astype(float)
    scores = np.round(people.mean(0) / 4 + RNG.normal(0, 0.25, 30), 2)
    people, scores = holed(people, 0.1), holed(scores, 0.1)
    found: dict[str, list[float]] = {"pearson": [], "spearman": [], "kendall": [], "alpha": []}
    unit = (scores - np.nanmin(scores)) / (np.nanmax(scores) - np.nanmin(scores))
    for group in people:
        kept = ~np.isnan(group + scores)
        found["pearson"].append(stats.pearsonr(scores[kept], group[kept])[0])
        found["spearman"].append(stats.spearmanr(scores[kept], group[kept])[0])
        found["kendall"].append(stats.kendalltau(scores[kept], group[kept])[0])
        found["alpha"].append(brute_alpha(np.stack([unit, group / 4])[:, kept], "interval"))
    return Case(
        make=lambda: metrics.create({"name": "metric_human_alignment"}),
        batches=split(30, keys=[f"item-{i}" for i in range(30)], scores=scores, ratings=people),
        wanted={
            **{name: float(np.mean(values)) for name, values in found.items()},
            **{f"{name}_half_range": abs(a - b) / 2 for name, (a, b) in found.items()},
            "missing_scores": float(np.isnan(scores).sum()),
        },
        exact=False,
    )


CASES: dict[str, Case] = {
    **{f"krippendorff_alpha {level}": _alpha(level) for level in LEVELS},
    "judge_score micro": _judge_score("judge_score", "micro"),
    "concept_preservation macro": _judge_score("concept_preservation", "macro"),
    "prompt_following micro": _judge_score("prompt_following", "micro"),
    **{f"cp_pf {rule}": _cp_pf(rule) for rule in PRODUCTS},
    "debias_gap": _gap(),
    "metric_human_alignment": _alignment(),
}
