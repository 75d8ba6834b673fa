"""What the studies' PNG drawings share: the look of axes, and writing the file whole."""

from io import BytesIO
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dsd.data.atomic import make_folder, replace_file
from dsd.studies.plots import INK, MUTED, PAPER, RULE


def dress(axes: Axes, title: str, below: str, beside: str = "", *, legend: bool = False) -> None:
    """Give axes that are drawn the studies' look; names are shown as they are, never read as formulas."""
    axes.set_facecolor(PAPER)
    axes.set_title(title, loc="left", fontsize=10, color=INK)
    axes.set_xlabel(below, fontsize=8.5, color=MUTED)
    axes.set_ylabel(beside, fontsize=8.5, color=MUTED)
    axes.grid(color=RULE, lw=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=MUTED, labelsize=8, length=0)
    for side in axes.spines.values():
        side.set_visible(False)
    texts = [axes.title, *axes.get_yticklabels()]
    if legend:
        texts += axes.legend(frameon=False, fontsize=8).get_texts()
    for text in texts:
        text.set_parse_math(False)


def write_figure(path: Path, figure: Figure) -> Path:
    """Write a figure as PNG, the same bytes for the same drawing; returns the path.

    Raises:
        OSError: explained, if the folder cannot be written.
    """
    buffer = BytesIO()
    figure.savefig(buffer, format="png", facecolor=PAPER, metadata={"Software": None})
    make_folder(path.parent)
    replace_file(path, buffer.getvalue())
    return path
