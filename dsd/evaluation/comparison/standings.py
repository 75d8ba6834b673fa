"""Ours beside the published rows, all averaged by one rule; and how much of a gap is closed."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from dsd.evaluation import published
from dsd.evaluation.bootstrap import Interval
from dsd.evaluation.comparison.figures import Figure
from dsd.evaluation.comparison.result import Comparison, MethodResult

RULE = "micro"


@dataclass(frozen=True, kw_only=True)
class Row:
    """A line of a table of published and own methods.

    Attributes:
        name: of the method.
        ours: whether it was measured here.
        cp: concept preservation by `RULE`.
        pf: prompt following by `RULE`.
        cp_pf: the product of the two.
        interval: of the product, 95 %; published rows have none.
        printed: the product as it was printed, and by which rules its parts were averaged; empty for ours.
        n: pictures behind it, where known.
        missing: pictures without a value, where known.
        note: what is wrong with a printed number.
    """

    name: str
    ours: bool
    cp: float | None
    pf: float | None
    cp_pf: float | None
    interval: Interval | None = None
    printed: str = ""
    n: int | None = None
    missing: int | None = None
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        """All of it."""
        return asdict(self)


def standings(comparison: Comparison) -> dict[str, list[Row]]:
    """For each published table of the benchmark its rows and ours, the best product first. Ours count the
    categories and kinds of prompts that the table has, and are there only where judges rated both.
    """
    found = {}
    for name in comparison.benchmark.published:
        table = published.table(name)
        printed = {row.method: row for row in table.rows}
        rows = [
            Row(
                name=standing.name,
                ours=False,
                cp=standing.cp,
                pf=standing.pf,
                cp_pf=standing.cp_pf,
                printed=f"{row.cp_pf:.3f} (CP {_worded(row.cp_rule)}, PF {_worded(row.pf_rule)})",
                note=row.note,
            )
            for standing in published.recompute(name, RULE)
            for row in [printed[standing.method]]
        ]
        rows += [
            row for method in comparison.methods if (row := _ours(comparison, method, table)) is not None
        ]
        found[name] = sorted(rows, key=lambda row: -(row.cp_pf if row.cp_pf is not None else -1.0))
    return found


def gap(comparison: Comparison) -> dict[str, Any]:
    """(student - text_only) / (ceiling - text_only) in preservation, where these three are there."""
    results = {method.label: method for method in comparison.methods}
    name = comparison.preservation
    if name is None or not {"student", "text_only", "ceiling"} <= set(results):
        return {}
    values = [results[label].values[name] for label in ("student", "text_only", "ceiling")]
    closed, interval = comparison.averages.closed(*values)
    return {"gap_closed": closed, "gap_closed_interval": interval}


def _ours(comparison: Comparison, method: MethodResult, table: published.PublishedTable) -> Row | None:
    both = (comparison.preservation, comparison.following)
    if None in both or not all("judge" in comparison.column(str(name)).about for name in both):
        return None
    first, second = (method.values[str(name)] for name in both)
    categories = np.array([job.case.category for job in comparison.jobs])
    kinds = np.array([job.case.kind for job in comparison.jobs])
    rows = (np.isin(categories, list(table.categories)), np.isin(kinds, list(table.kinds)))
    if not (rows[0].any() and rows[1].any()):
        return None
    averages = comparison.averages.by("micro")
    product: Figure = averages.product(first, second, rows)
    return Row(
        name=method.label,
        ours=True,
        cp=averages.mean(first, rows[0]),
        pf=averages.mean(second, rows[1]),
        cp_pf=product.value,
        interval=product.interval,
        n=product.n,
        missing=product.missing,
    )


def _worded(rule: str) -> str:
    return rule.replace("_", " ")
