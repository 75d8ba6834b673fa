"""Drawings of the study of curators: SVG for the page, PNG for where only pictures go."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from markupsafe import Markup
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from dsd.studies.canvas import dress, write_figure
from dsd.studies.curators_results import ALL, HARD, Results
from dsd.studies.curators_scores import Curves
from dsd.studies.plots import COLOURS, MUTED, PAPER, Line, dots, labels, lines

_MOST_POINTS = 400
_LEAST_THRESHOLDS = 5  # fewer are no curve
PART_NAMES = {ALL: "all pairs", HARD: "hard negatives"}


def drawings(results: Results) -> dict[str, tuple[str, Markup]]:
    """For the page, by name, with captions; a drawing that no curator has a score for is left out."""
    found: dict[str, tuple[str, Markup]] = {}
    points: dict[str, dict[str, tuple[float, float, float]]] = {}
    names = labels([x.entry.name for x in results.verdicts])
    for part in results.parts:
        for row in results.scores[part]:
            if (value := row["auroc"]) is not None:
                ends = row.get("auroc_low", value), row.get("auroc_high", value)
                points.setdefault(row["curator"], {})[PART_NAMES[part]] = (value, *ends)
    if not points:
        return found
    found["auroc"] = (
        "Area under the ROC curve of the score, with 95\N{NO-BREAK SPACE}% intervals; 0.5 is chance.",
        dots(list(points.items()), "AUROC", description="AUROC of each curator", rules={"chance": 0.5}),
    )
    for part in results.parts:
        curves = results.curves(part)
        where = PART_NAMES[part] if part == ALL else "the same subject against hard negatives alone"
        found[f"roc_{part}"] = (
            f"ROC: of the pairs of one subject, and of two, how many a threshold accepts; {where}.",
            lines(
                [Line(name=names[name], points=_roc(curve)) for name, curve in curves.items()],
                "accepted of different subjects",
                "accepted of the same subject",
                description=f"ROC curves, {where}",
            ),
        )
        found[f"precision_recall_{part}"] = (
            f"Precision over recall, {where}.",
            lines(
                [
                    Line(name=names[name], points=_points(curve.recall, curve.precision))
                    for name, curve in curves.items()
                ],
                "recall",
                "precision",
                description=f"Precision over recall, {where}",
            ),
        )
    for i, (name, curve) in enumerate(results.curves(ALL).items()):
        if len(curve.thresholds) < _LEAST_THRESHOLDS:
            continue
        found[f"threshold_{i}"] = (
            f"{names[name]}: what a lower limit on its score gives, all pairs. Dashed: as decided with its "
            "own limits.",
            lines(
                [
                    Line(name="precision", points=_points(curve.thresholds, curve.precision)),
                    Line(name="recall", points=_points(curve.thresholds, curve.recall)),
                    *_decided(results, name, curve),
                ],
                "lower limit of the score",
                "share",
                description=f"Precision and recall of {names[name]} over its score",
            ),
        )
    return found


def write_png(path: Path, results: Results) -> Path | None:
    """ROC and precision-recall curves of all curators, a row a part; None if no curator has scores."""
    curves = {part: results.curves(part) for part in results.parts}
    if not curves[ALL]:
        return None
    rows = len(results.parts)
    names = labels([x.entry.name for x in results.verdicts])
    figure = Figure(figsize=(9.2, 3.9 * rows + 0.3), dpi=110, facecolor=PAPER, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, 2, squeeze=False)
    for i, part in enumerate(results.parts):
        values = {row["curator"]: row["auroc"] for row in results.scores[part]}
        left, right = axes[i]
        for number, (name, curve) in enumerate(curves[part].items()):
            colour = COLOURS[number % len(COLOURS)]
            x, y = np.array(_roc(curve)).T
            left.plot(x, y, color=colour, lw=1.8, label=f"{values[name]:.2f}  {names[name]}")
            right.plot(curve.recall, curve.precision, color=colour, lw=1.8)
        for row in results.scores[part]:
            if row["curator"] in curves[part] and row["precision"] is not None and row["recall"] is not None:
                colour = COLOURS[list(curves[part]).index(row["curator"]) % len(COLOURS)]
                right.plot([row["recall"]], [row["precision"]], "o", color=colour, ms=6, mec=PAPER, zorder=3)
        left.plot([0, 1], [0, 1], color=MUTED, lw=0.9, ls=(0, (3, 3)))
        for both in axes[i]:
            both.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.02))
        dress(left, f"ROC, {PART_NAMES[part]}", "accepted of different subjects", "accepted of the same")
        dress(right, f"Precision and recall, {PART_NAMES[part]}", "recall", "precision")
        legend = left.legend(title="AUROC", loc="lower right", frameon=False, fontsize=8, title_fontsize=8)
        legend.set_alignment("left")
        for text in legend.get_texts():
            text.set_parse_math(False)
    return write_figure(path, figure)


def _roc(curve: Curves) -> list[tuple[float, float]]:
    """From the corner where nothing is accepted to the one where all is."""
    return [(0.0, 0.0), *_points(curve.false_positives[::-1], curve.recall[::-1])]


def _points(x: np.ndarray, y: np.ndarray) -> list[tuple[float, float]]:
    """At most some hundred of them, the ends among them."""
    kept = np.unique(np.linspace(0, len(x) - 1, min(len(x), _MOST_POINTS)).round().astype(int))
    return [(float(x[i]), float(y[i])) for i in kept]


def _decided(results: Results, name: str, curve: Curves) -> list[Line]:
    row: Mapping[str, float | None] = next(row for row in results.scores[ALL] if row["curator"] == name)
    ends = float(curve.thresholds[0]), float(curve.thresholds[-1])
    return [
        Line(name=kind, points=[(x, value) for x in ends], dashed=True)
        for kind in ("precision", "recall")
        if (value := row[kind]) is not None
    ]
