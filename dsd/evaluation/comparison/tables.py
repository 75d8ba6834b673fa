"""The tables of a comparison, for HTML and Markdown alike."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from dsd.evaluation import published
from dsd.evaluation.comparison.figures import Column, Figure
from dsd.evaluation.comparison.result import Comparison, MethodResult
from dsd.evaluation.comparison.standings import RULE, standings
from dsd.evaluation.page import duration
from dsd.llm.ledger import dollars

NONE = "\N{EN DASH}"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One number or word, and a smaller remark below it."""

    text: str
    note: str = ""
    strong: bool = False


@dataclass(frozen=True, kw_only=True)
class Grid:
    """A table: heads with remarks; rows of cells, the first of them names it; `marked` rows are ours."""

    title: str
    text: str
    heads: Sequence[tuple[str, str]]
    rows: Sequence[Sequence[Cell]]
    marked: Sequence[bool] = field(default_factory=tuple)


def leaderboard(comparison: Comparison) -> Grid:
    """All figures of all methods, the best first, with what each picture took."""
    heads = [("Method", "")]
    heads += [(x.title, _head(comparison, x)) for x in comparison.columns]
    heads += [("Per image", "median"), ("Tuning", "per subject"), ("Cost", "all pictures")]
    rows = []
    for method in comparison.methods:
        models = ", ".join(x for x in method.models if x != "none")
        about = " \N{MIDDLE DOT} ".join(x for x in (method.about, models) if x)
        row = [Cell(text=method.label, note=about)]
        row += [
            figure_cell(method.figures[x.name], len(comparison.jobs), _leads(comparison, method, x))
            for x in comparison.columns
        ]
        row += [Cell(text=_seconds(method.seconds_per_image)), _tuning(method), Cell(text=_cost(method))]
        rows.append(row)
    subjects = len({job.case.subject for job in comparison.jobs})
    rule = str(comparison.settings["average"])
    return Grid(
        title="Leaderboard",
        text=(
            f"{len(comparison.jobs)} pictures of {subjects} subjects by each method; ranked by "
            f"{comparison.column(comparison.ranked_by).title.lower()}. Averaged {rule}. In brackets: 95 % "
            "intervals from a bootstrap over subjects. n: pictures with a value."
        ),
        heads=heads,
        rows=rows,
    )


def published_tables(comparison: Comparison) -> list[Grid]:
    """Published rows beside ours, by one rule."""
    found = []
    for name, rows in standings(comparison).items():
        table = published.table(name)
        ours = any(row.ours for row in rows)
        text = (
            f"{table.source}. Judge: {table.judge}. All rows are recomputed by one rule, {RULE}: "
            f"{published.RULES[RULE]}; beside it stands what was printed, with the rules that it follows."
        )
        text += "" if ours else " Rate preservation and following by --judges to stand in it."
        text += (
            " Ours were rated by another judge and other words, unless the page says otherwise."
            if ours
            else ""
        )
        cells = [
            [
                Cell(text=row.name, note="measured here" if row.ours else row.note, strong=row.ours),
                Cell(text=three(row.cp)),
                Cell(text=three(row.pf)),
                Cell(text=three(row.cp_pf), note=_bounds(row.interval)),
                Cell(text=row.printed or NONE),
                Cell(
                    text=NONE if row.n is None else f"{row.n}",
                    note=f"{row.missing} missing" if row.missing else "",
                ),
            ]
            for row in rows
        ]
        heads = [
            ("Method", ""),
            ("CP", RULE),
            ("PF", RULE),
            ("CP·PF", RULE),
            ("CP·PF", "as printed"),
            ("n", ""),
        ]
        found.append(
            Grid(
                title=f"Beside published rows: {table.title}",
                text=text,
                heads=heads,
                rows=cells,
                marked=[row.ours for row in rows],
            )
        )
    return found


def group_tables(comparison: Comparison) -> list[Grid]:
    """The figures of each category and kind of prompt, of the columns that a reader asks for first."""
    names = [x for x in (comparison.preservation, comparison.following) if x is not None]
    names = list(dict.fromkeys([*names, comparison.ranked_by]))
    found = []
    for kind, title in (("by_category", "By category"), ("by_kind", "By kind of prompt")):
        for name in names:
            groups: dict[str, int] = {}
            for method in comparison.methods:
                for key, figure in getattr(method.figures[name], kind).items():
                    groups[key] = figure.n + figure.missing
            if not groups:
                continue
            column = comparison.column(name)
            rows = []
            for method in comparison.methods:
                figures: Mapping[str, Figure] = getattr(method.figures[name], kind)
                cells = [figure_cell(figures[key], total) for key, total in groups.items()]
                rows.append([Cell(text=method.label), *cells])
            heads = [
                ("Method", ""),
                *((key, f"{total} picture{'s' if total != 1 else ''}") for key, total in groups.items()),
            ]
            found.append(Grid(title=f"{title}: {column.title}", text="", heads=heads, rows=rows))
    return found


def provenance(comparison: Comparison) -> Grid:
    """What each column is: models, preprocessing, rubric, scale, runs; and what became of the ratings."""
    rows = []
    for column in comparison.columns:
        facts = [
            f"{key}: {x if isinstance(x, str) else json.dumps(x, default=str)}"
            for key, x in column.about.items()
        ]
        ratings = [
            f"{method.label}: {_told(method.ratings[column.name])}"
            for method in comparison.methods
            if column.name in method.ratings
        ]
        better = "higher is better" if column.higher_is_better else "lower is better"
        rows.append(
            [Cell(text=column.title, note=better), Cell(text="; ".join(facts)), Cell(text="; ".join(ratings))]
        )
    heads = [("Figure", ""), ("What it is of", ""), ("Ratings", "rated of asked, and the runs")]
    return Grid(title="What the figures are of", text="", heads=heads, rows=rows)


def figure_cell(figure: Figure, total: int, strong: bool = False) -> Cell:
    """A mean with its interval, n and what is missing."""
    if figure.value is None:
        return Cell(text=NONE, note=f"n 0 of {total}")
    n = f"n {figure.n}" + (f", {figure.missing} missing" if figure.missing else "")
    return Cell(
        text=three(figure.value), note=" ".join(x for x in (_bounds(figure.interval), n) if x), strong=strong
    )


def three(value: float | None) -> str:
    """To three decimals; a dash where there is none."""
    return NONE if value is None else f"{value:.3f}"


def _bounds(interval: tuple[float, float] | None) -> str:
    return "" if interval is None else f"[{interval[0]:.3f}, {interval[1]:.3f}]"


def _leads(comparison: Comparison, method: MethodResult, column: Column) -> bool:
    values = [x.figures[column.name].value for x in comparison.methods]
    known = [value for value in values if value is not None]
    best = max(known, default=None) if column.higher_is_better else min(known, default=None)
    return best is not None and method.figures[column.name].value == best


def _head(comparison: Comparison, column: Column) -> str:
    roles = {comparison.preservation: "preservation", comparison.following: "following"}
    told = [roles.get(column.name, ""), "" if column.higher_is_better else "lower is better"]
    told.append(f"{column.runs} runs" if column.runs > 1 else "")
    return ", ".join(x for x in told if x)


def _seconds(value: float | None) -> str:
    return NONE if value is None else duration(value)


def _tuning(method: MethodResult) -> Cell:
    value = method.tuning_s_per_subject
    return Cell(text="none", note="zero-shot") if value == 0 else Cell(text=_seconds(value))


def _cost(method: MethodResult) -> str:
    return "unknown" if method.cost_usd is None else dollars(method.cost_usd) if method.cost_usd else NONE


def _told(facts: Mapping[str, object]) -> str:
    lost = [
        f"{facts[kind]} {kind.replace('_', ' ')}"
        for kind in ("refused", "unparsable", "failed", "not_asked")
        if facts[kind]
    ]
    std = facts["run_std"]
    told = [f"{facts['rated']} of {facts['ratings']}", *lost]
    told += [f"std over runs {std:.3f}"] if isinstance(std, float) else []
    cost = facts["cost_usd"]
    told.append(dollars(cost) if isinstance(cost, float) else "cost unknown")
    judges = facts["judges"]
    assert isinstance(judges, list)
    return ", ".join([*told, *map(str, judges)])
