"""Drawings of the study of curators: SVG for the page, PNG for where only pictures go."""

from collections.abc import Mapping
from io import BytesIO
from pathlib import Path

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from dsd.data.atomic import make_folder, replace_file
from dsd.studies.curators_results import ALL, HARD, Results
from dsd.studies.curators_scores import Curves
from dsd.studies.plots import Line, dots, lines

_PAPER, _INK, _MUTED, _RULE = "#f8f6f1", "#23211d", "#6b655b", "#e3ddd1"
_COLOURS = ("#0b7566", "#b4470f", "#5a4fb0", "#a3266b", "#2f6fb3", "#7a6a00", "#4d5b66")
_MOST_POINTS = 400
_LEAST_THRESHOLDS = 5  # fewer are no curve
_LONGEST_NAME = 44
_LONGEST_BESIDE = 20  # letters that have room beside a row of `dots`
PART_NAMES = {ALL: "all pairs", HARD: "hard negatives"}


def drawings(results: Results) -> dict[str, tuple[str, Markup]]:
    """For the page, by name, with captions; a drawing that no curator has a score for is left out."""
    found: dict[str, tuple[str, Markup]] = {}
    points: dict[str, dict[str, tuple[float, float, float]]] = {}
    names = _labels(results, _LONGEST_NAME)
    beside = _labels(results, _LONGEST_BESIDE)
    for part in results.parts:
        for row in results.scores[part]:
            if (value := row["auroc"]) is not None:
                ends = row.get("auroc_low", value), row.get("auroc_high", value)
                points.setdefault(beside[row["curator"]], {})[PART_NAMES[part]] = (value, *ends)
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
    names = _labels(results, _LONGEST_NAME)
    figure = Figure(figsize=(9.2, 3.9 * rows + 0.3), dpi=110, facecolor=_PAPER, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, 2, squeeze=False)
    for i, part in enumerate(results.parts):
        values = {row["curator"]: row["auroc"] for row in results.scores[part]}
        left, right = axes[i]
        for number, (name, curve) in enumerate(curves[part].items()):
            colour = _COLOURS[number % len(_COLOURS)]
            x, y = np.array(_roc(curve)).T
            left.plot(x, y, color=colour, lw=1.8, label=f"{values[name]:.2f}  {names[name]}")
            right.plot(curve.recall, curve.precision, color=colour, lw=1.8)
        for row in results.scores[part]:
            if row["curator"] in curves[part] and row["precision"] is not None and row["recall"] is not None:
                colour = _COLOURS[list(curves[part]).index(row["curator"]) % len(_COLOURS)]
                right.plot([row["recall"]], [row["precision"]], "o", color=colour, ms=6, mec=_PAPER, zorder=3)
        left.plot([0, 1], [0, 1], color=_MUTED, lw=0.9, ls=(0, (3, 3)))
        _dress(left, f"ROC, {PART_NAMES[part]}", "accepted of different subjects", "accepted of the same")
        _dress(right, f"Precision and recall, {PART_NAMES[part]}", "recall", "precision")
        legend = left.legend(title="AUROC", loc="lower right", frameon=False, fontsize=8, title_fontsize=8)
        legend.set_alignment("left")
        for text in legend.get_texts():
            text.set_parse_math(False)
    buffer = BytesIO()
    figure.savefig(buffer, format="png", facecolor=_PAPER, metadata={"Software": None})
    make_folder(path.parent)
    replace_file(path, buffer.getvalue())
    return path


def short(name: str, letters: int = _LONGEST_NAME) -> str:
    """A curator's name as far as a drawing has room for it: its beginning and its end."""
    if len(name) <= letters:
        return name
    half = (letters - 1) // 2
    return f"{name[: letters - 1 - half]}\N{HORIZONTAL ELLIPSIS}{name[-half:]}"


def _labels(results: Results, letters: int) -> dict[str, str]:
    """The curators' names as a drawing shows them, by their whole names; no two are alike."""
    found: dict[str, str] = {}
    for number, x in enumerate(results.verdicts, 1):
        name, mark = short(x.entry.name, letters), f" ({number})"
        if name in found.values():
            name = short(x.entry.name, letters - len(mark)) + mark
        found[x.entry.name] = name
    return found


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


def _dress(axes: Axes, title: str, x_label: str, y_label: str) -> None:
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.02), facecolor=_PAPER)
    axes.set_title(title, loc="left", fontsize=10, color=_INK)
    axes.set_xlabel(x_label, fontsize=8.5, color=_MUTED)
    axes.set_ylabel(y_label, fontsize=8.5, color=_MUTED)
    axes.grid(color=_RULE, lw=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=_MUTED, labelsize=8, length=0)
    for side in axes.spines.values():
        side.set_visible(False)
