"""Columns that follow from others, and the order of the methods."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from dsd.evaluation.benchmarks.base import Benchmark
from dsd.evaluation.comparison.figures import Averages, Column, Role

if TYPE_CHECKING:
    from dsd.evaluation.comparison.result import MethodResult

PRODUCT = "product"
WITHOUT_COPIES = "without_copies"


def derived(
    benchmark: Benchmark, columns: Sequence[Column], results: "Sequence[MethodResult]", averages: Averages
) -> "tuple[list[Column], str | None, str | None, list[MethodResult]]":
    """Add what follows from the columns that are there.

    - "without_copies": preservation, with near copies of the reference counted as 0; where a column says of
      each picture from 0 to 1 whether it is one.
    - "product": the product of the means of preservation and following, unless the benchmark has one of its
      own.

    Preservation and following are a judge's columns, if there are such; else those that the benchmark names;
    else the first metrics of these roles.

    Returns:
        the columns, the names of those of preservation and following, and the methods with their figures.
    """
    preservation = _first(columns, "preservation", benchmark.preservation)
    following = _first(columns, "following", benchmark.following)
    found, every = list(columns), list(results)
    copying = next((x for x in columns if x.role == "copying" and "near_copy" in x.name), None)
    if preservation is not None and copying is not None:
        title = f"{preservation.title}, copies 0"
        about = {"rule": f"{preservation.name} times (1 - {copying.name}), picture by picture, then the mean"}
        found.append(Column(name=WITHOUT_COPIES, title=title, about=about))
        for i, result in enumerate(every):
            values = result.values[preservation.name] * (1 - result.values[copying.name])
            figures = {**result.figures, WITHOUT_COPIES: averages.figure(values)}
            every[i] = replace(result, figures=figures, values={**result.values, WITHOUT_COPIES: values})
    if preservation is not None and following is not None and PRODUCT not in {x.name for x in columns}:
        about = {"rule": f"mean {preservation.name} times mean {following.name}"}
        found.append(Column(name=PRODUCT, title="Product", about=about))
        for i, result in enumerate(every):
            both = averages.product(result.values[preservation.name], result.values[following.name])
            every[i] = replace(result, figures={**result.figures, PRODUCT: both})
    names = (x.name if x is not None else None for x in (preservation, following))
    return found, *names, every  # type: ignore[return-value]


def ranked(
    columns: Sequence[Column], results: "Sequence[MethodResult]", by: str | None = None
) -> "tuple[str, list[MethodResult]]":
    """The methods, best first, and the column that says so: `by`, else the product, else the first column.

    Raises:
        LookupError: if there is no such column.
        ValueError: if there is no column at all.
    """
    if not columns:
        raise ValueError("Nothing is measured. Give --metrics or --judges.")
    names = [column.name for column in columns]
    if by is not None and by not in names:
        raise LookupError(f"There is no column {by!r} to rank by. Known: {', '.join(names)}.")
    name = by or (PRODUCT if PRODUCT in names else names[0])
    better = next(column.higher_is_better for column in columns if column.name == name)

    def place(result: "MethodResult") -> float:
        value = result.figures[name].value
        return np.inf if value is None else -value if better else value

    return name, sorted(results, key=place)


def _first(columns: Sequence[Column], role: Role, own: str) -> Column | None:
    of_judges = [x for x in columns if x.role == role and "judge" in x.about]
    named = [x for x in columns if x.name == own]
    return next(iter([*of_judges, *named, *(x for x in columns if x.role == role)]), None)
