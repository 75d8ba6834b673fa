"""Drawings of the study of judges: SVG for the page, PNG for where only pictures go."""

from pathlib import Path
from typing import Any

from markupsafe import Markup
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from dsd.studies.canvas import dress, write_figure
from dsd.studies.judge_results import ALL, JudgeResults
from dsd.studies.plots import COLOURS, MUTED, PAPER, Line, dots, labels, lines

_LEAST_ITEMS = 5
_TITLES = {"spearman": "Spearman's correlation", "alpha": "Krippendorff's alpha"}


def drawings(results: JudgeResults) -> dict[str, tuple[str, Markup]]:
    """For the page, by name, with captions; a drawing without a value is left out."""
    found: dict[str, tuple[str, Markup]] = {}
    for number, title in _TITLES.items():
        rows = []
        for name in [row["judge"] for row in results.agreement[ALL]]:
            values = {}
            for part in results.parts:
                row = next(row for row in results.agreement[part] if row["judge"] == name)
                if (value := row[number]) is not None:
                    ends = row.get(f"{number}_low", value), row.get(f"{number}_high", value)
                    values["all items" if part == ALL else part] = (value, *ends)
            if values:
                rows.append((name, values))
        if rows:
            caption = f"{title} with people's ratings, with 95\N{NO-BREAK SPACE}% intervals."
            found[number] = (caption, dots(rows, title, description=caption, rules={"none": 0.0}))
    names = labels([x.name for x in results.judges])
    series = [
        Line(name=names[name], points=[(row["at"], row["people"]) for row in rows])
        for name, rows in _by_judge(results).items()
        if len(rows) > 1
    ]
    if series:
        found["by_score"] = (
            "People's mean rating where a judge's score, from 0 to 1, is so high; of five items or more.",
            lines(
                series, "score, from 0 to 1", "people's mean rating", description="People's rating by score"
            ),
        )
    return found


def write_png(path: Path, results: JudgeResults) -> Path:
    """Spearman's correlations of all judges with their intervals, and people's rating over the score."""
    judges = [row["judge"] for row in results.agreement[ALL]]
    names = labels(judges)
    height = 1.8 + 0.42 * max(5, len(judges))
    figure = Figure(figsize=(10.4, height), dpi=110, facecolor=PAPER, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    offsets = [0.16 * (i - (len(results.parts) - 1) / 2) for i in range(len(results.parts))]
    for number, part in enumerate(results.parts):
        colour = COLOURS[number % len(COLOURS)]
        label = "all items" if part == ALL else part
        for place, row in enumerate(results.agreement[part]):
            if (value := row["spearman"]) is None:
                continue
            at = place + offsets[number]
            ends = [row.get("spearman_low", value), row.get("spearman_high", value)]
            left.plot(ends, [at, at], color=colour, lw=1.6)
            left.plot([value], [at], "o", color=colour, ms=5, label=label)
            label = "_"
    left.axvline(0, color=MUTED, lw=0.9, ls=(0, (3, 3)))
    left.set_yticks(range(len(judges)), [names[name] for name in judges])
    left.invert_yaxis()
    for number, (name, rows) in enumerate(_by_judge(results).items()):
        colour = COLOURS[number % len(COLOURS)]
        points = [[row[key] for row in rows] for key in ("at", "people")]
        right.plot(*points, "o-", color=colour, lw=1.6, ms=4, label=names[name])
    dress(left, "Spearman with people", "95 % intervals", legend=True)
    dress(right, "People's mean rating by score", "score, from 0 to 1", legend=True)
    return write_figure(path, figure)


def _by_judge(results: JudgeResults) -> dict[str, list[dict[str, Any]]]:
    """The rows of `by_score` that stand for enough items to be drawn."""
    return {
        x.name: [row for row in results.by_score if row["judge"] == x.name and row["items"] >= _LEAST_ITEMS]
        for x in results.judges
    }
