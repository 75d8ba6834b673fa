"""A picture of the memory over a step."""

from io import BytesIO

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from dsd.planning.records import GIB, Plan
from dsd.planning.report import NAMES, title

_PAPER, _INK, _MUTED, _RULE = "#f8f6f1", "#23211d", "#6b655b", "#e3ddd1"
_COLOURS = {
    "weights": "#4d5b66",
    "trained": "#2f6fb3",
    "optimiser": "#5a4fb0",
    "exchange": "#7a6a00",
    "gradients": "#b4470f",
    "activations": "#0b7566",
}
_LAST_LABEL = 97


def png(plan: Plan) -> bytes:
    """The picture as a file's bytes."""
    buffer = BytesIO()
    figure(plan).savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def figure(plan: Plan) -> Figure:
    """Bytes by part from the first operation of a step to its last, with the peak and what a device has."""
    timeline = plan.memory.timeline
    drawn = Figure(figsize=(9.6, 4.8), dpi=120, facecolor=_PAPER, layout="constrained")
    FigureCanvasAgg(drawn)
    axes = drawn.subplots()
    axes.set_facecolor(_PAPER)
    x = [100 * i / max(1, len(timeline) - 1) for i in range(len(timeline))]
    parts = [part for part in _COLOURS if plan.memory.most[part]]
    heights = [[moment.parts[part] / GIB for moment in timeline] for part in parts]
    labels = [f"{NAMES[part]} ({plan.memory.at_peak[part] / GIB:.2f})" for part in parts]
    axes.stackplot(x, heights, labels=labels, colors=[_COLOURS[part] for part in parts], alpha=0.85, lw=0)
    has, peak = plan.device_bytes / GIB, plan.memory.peak / GIB
    top = 1.16 * peak
    if peak < has < 2.5 * peak:
        top = 1.12 * has
    if has <= top:
        axes.axhline(has, color=_INK, lw=1, ls=(0, (4, 3)))
        axes.text(0.5, has, f"a device has {has:g} GiB", va="bottom", color=_INK, fontsize=9)
    at = max(range(len(timeline)), key=lambda i: timeline[i].total)
    axes.plot([x[at]], [peak], "o", color=_INK, ms=5)
    side = "right" if x[at] > 60 else "left"
    axes.annotate(
        f"peak {peak:.2f} GiB", (x[at], peak), xytext=(-8 if side == "right" else 8, 6),
        textcoords="offset points", ha=side, color=_INK, fontsize=10, weight="bold",
    )  # fmt: skip
    begun = ""
    for place, moment in zip(x, timeline, strict=True):
        if moment.phase != begun:
            begun = moment.phase
            axes.axvline(place, color=_RULE, lw=1)
            if place > _LAST_LABEL:
                continue  # no room: the optimiser takes few operations
            axes.annotate(
                begun, (place, 0), xycoords=("data", "axes fraction"), xytext=(4, 6),
                textcoords="offset points", color=_PAPER, fontsize=9, rotation=90, va="bottom",
            )  # fmt: skip
    axes.set_xlim(0, 100)
    axes.set_ylim(0, top)
    axes.set_xlabel("operations of one step, %", color=_MUTED)
    axes.set_ylabel("GiB on one device", color=_MUTED)
    axes.tick_params(colors=_MUTED)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_title(title(plan), loc="left", color=_INK, fontsize=10)
    handles, names = axes.get_legend_handles_labels()
    drawn.legend(
        handles[::-1], names[::-1], loc="outside right upper", frameon=False, fontsize=8,
        labelcolor=_INK, title="GiB at the peak", title_fontsize=8,
    )  # fmt: skip
    return drawn
