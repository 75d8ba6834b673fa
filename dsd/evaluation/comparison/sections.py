"""The sections of a comparison's page."""

import math
from collections.abc import Sequence
from typing import Any

from PIL import Image

from dsd.evaluation import plots, published
from dsd.evaluation.comparison import tables
from dsd.evaluation.comparison.notes import notes
from dsd.evaluation.comparison.result import Comparison, MethodResult
from dsd.evaluation.comparison.standings import RULE, standings
from dsd.evaluation.methods.base import Job
from dsd.evaluation.page import Section

_SUBJECTS = 6
_METHODS = 8
_THUMB_PX = 256


def notes_section(comparison: Comparison) -> Section | None:
    """What must be known first; None if there is nothing."""
    found = notes(comparison)
    return Section(template="notes", data={"notes": found}) if found else None


def leaderboard(comparison: Comparison) -> Section:
    """All figures."""
    return _table(tables.leaderboard(comparison))


def published_tables(comparison: Comparison) -> list[Section]:
    """Published rows beside ours."""
    return [_table(grid) for grid in tables.published_tables(comparison)]


def groups(comparison: Comparison) -> list[Section]:
    """By category and kind of prompt."""
    return [_table(grid) for grid in tables.group_tables(comparison)]


def provenance(comparison: Comparison) -> Section:
    """What each figure is of, and the settings."""
    grid = tables.provenance(comparison)
    settings = {"settings": comparison.settings, "methods": {x.label: x.spec for x in comparison.methods}}
    return _table(grid, settings=settings)


def plot(comparison: Comparison) -> list[Section]:
    """Preservation against following: ours, with the published rows where judges rated both."""
    first, second = comparison.preservation, comparison.following
    if first is None or second is None:
        return []
    rows = next(iter(standings(comparison).values()), [])
    drawings = []
    points = [
        (row.name, row.cp, row.pf, row.ours) for row in rows if row.cp is not None and row.pf is not None
    ]
    if any(ours for *_, ours in points):
        title = published.table(next(iter(comparison.benchmark.published))).title
        caption = f"{title}: filled ours, hollow published; all averaged {RULE}. Judges differ."
        drawings.append((caption, plots.scatter(points, "preservation", "following", caption)))
    else:
        own = [
            (method.label, a, b, True)
            for method in comparison.methods
            if (a := method.figures[first].value) is not None
            and (b := method.figures[second].value) is not None
        ]
        labels = comparison.column(first).title, comparison.column(second).title
        caption = f"{labels[1]} against {labels[0].lower()}: up and to the right is better."
        if own:
            drawings.append((caption, plots.scatter(own, *labels, caption)))
    return (
        [Section(template="drawings", title="Preservation and following", data={"drawings": drawings})]
        if drawings
        else []
    )


def side_by_side(comparison: Comparison) -> Section:
    """The first cases by every method."""
    first: dict[str, Job] = {}
    for job in comparison.jobs:
        first.setdefault(job.case.subject, job)
    jobs = list(first.values())[:_SUBJECTS]
    chosen = comparison.methods[:_METHODS]
    pictures = [{job.key: small(image) for job, image in method.album.images(jobs)} for method in chosen]
    rows = [
        {
            "reference": small(job.case.reference),
            "prompt": job.case.prompt,
            "answers": [found.get(job.key) for found in pictures],
        }
        for job in jobs
    ]
    left = len(comparison.methods) - len(chosen)
    return Section(
        template="side_by_side",
        title="Side by side",
        text="The first prompt of the first subjects."
        + (f" {left} more methods are not shown." if left else ""),
        data={"methods": [method.label for method in chosen], "rows": rows},
    )


def extremes(comparison: Comparison, shown: int) -> list[Section]:
    """The best and the worst cases of each method, by what it is ranked by; by preservation where that is no
    number of one picture.
    """
    if shown < 1:
        return []
    found = []
    for method in comparison.methods:
        wanted = [comparison.ranked_by, comparison.preservation, *method.values]
        name = next(x for x in wanted if x is not None and x in method.values)
        better = comparison.column(name).higher_is_better
        known = [i for i, value in enumerate(method.values[name].tolist()) if math.isfinite(value)]
        order = sorted(known, key=lambda i: float(method.values[name][i]), reverse=better)
        if not order:
            continue
        best, worst = order[:shown], [i for i in order[::-1] if i not in order[:shown]][:shown]
        sides = [("Best", _cards(comparison, method, best)), ("Worst", _cards(comparison, method, worst))]
        title = f"{method.label}: best and worst by {comparison.column(name).title.lower()}"
        found.append(Section(template="extremes", title=title, data={"sides": sides}))
    return found


def small(image: Image.Image) -> Image.Image:
    """No larger than a page needs."""
    if max(image.size) <= _THUMB_PX:
        return image
    image = image.copy()
    image.thumbnail((_THUMB_PX, _THUMB_PX), Image.Resampling.LANCZOS)
    return image


def _cards(comparison: Comparison, method: MethodResult, numbers: Sequence[int]) -> list[dict[str, Any]]:
    jobs = [comparison.jobs[i] for i in numbers]
    pictures = dict((job.key, image) for job, image in method.album.images(jobs))
    cards = []
    for i, job in zip(numbers, jobs, strict=True):
        scores = [
            (column.title, f"{method.values[column.name][i]:.2f}")
            for column in comparison.columns
            if column.name in method.values and math.isfinite(method.values[column.name][i])
        ]
        said = [(name, words[job.key]) for name, words in method.words.items() if words.get(job.key)]
        cards.append(
            {
                "key": job.key,
                "prompt": job.case.prompt,
                "reference": small(job.case.reference),
                "image": small(pictures[job.key]),
                "scores": scores,
                "said": said,
            }
        )
    return cards


def _table(grid: tables.Grid, settings: Any = None) -> Section:
    marked = list(grid.marked) or [False] * len(grid.rows)
    rows = list(zip(grid.rows, marked, strict=True))
    return Section(
        template="figures",
        title=grid.title,
        text=grid.text,
        data={"heads": grid.heads, "rows": rows, "settings": settings},
    )
