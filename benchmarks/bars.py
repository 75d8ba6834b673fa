"""Ratios as a picture: a bar each, its limit as a red mark, its value outside at the right, clear of both."""

from pathlib import Path
from typing import Any, NamedTuple

COLOURS = {"s": "tab:blue", "B": "tab:gray"}


class Bar(NamedTuple):
    """One ratio.

    Attributes:
        what: its name.
        ratio: its value.
        limit: the highest that is wanted; None where it is only told.
        unit: of what was measured: "s" or "B".
    """

    what: str
    ratio: float
    limit: float | None = None
    unit: str = "s"


def figure(bars: list[Bar]) -> tuple[Any, Any]:
    """The figure and its axes; the caller closes it.

    Raises:
        ValueError: if there are no bars.
    """
    if not bars:
        raise ValueError("There is no ratio to draw.")
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    drawn, axes = pyplot.subplots(figsize=(8, 0.42 * len(bars) + 0.9))
    widest = max(value for bar in bars for value in (bar.ratio, bar.limit) if value is not None)
    for i, bar in enumerate(reversed(bars)):
        over = bar.limit is not None and bar.ratio > bar.limit
        axes.barh(i, bar.ratio, color=COLOURS[bar.unit], height=0.6)
        wanted = "" if bar.limit is None else f" ({'over' if over else 'at most'} {bar.limit:g})"
        text = f"{bar.ratio:.3f}{wanted}"
        axes.text(1.015, i, text, va="center", transform=axes.get_yaxis_transform())
        if bar.limit is not None:
            axes.plot([bar.limit] * 2, [i - 0.42, i + 0.42], color="tab:red", linewidth=2)
    axes.set_yticks(range(len(bars)), [bar.what for bar in reversed(bars)])
    axes.set_xlabel("ratio: blue time, grey memory; red: at most")
    axes.set_xlim(0, widest * 1.05)
    drawn.tight_layout()
    return drawn, axes


def draw(bars: list[Bar], file: Path) -> None:
    """Write the picture."""
    from matplotlib import pyplot

    drawn, _ = figure(bars)
    drawn.savefig(file, dpi=110)
    pyplot.close(drawn)
