"""Drawings for reports: small SVG pictures that take their colours from the page, in light and dark."""

import math
from collections.abc import Sequence

import numpy as np
from markupsafe import Markup

_WIDTH, _HEIGHT = 720, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 28, 40


class _Axes:
    """A frame with ticks; `x` and `y` turn data into places."""

    def __init__(self, x: tuple[float, float], y: tuple[float, float], x_label: str, y_label: str) -> None:
        self._x, self._y = x, y
        self.parts: list[str] = []
        right = _WIDTH - _RIGHT
        for value in ticks(*y):
            at = self.y(value)
            self.parts.append(f'<line class="rule" x1="{_LEFT}" x2="{right}" y1="{at:.1f}" y2="{at:.1f}"/>')
            self.parts.append(f'<text x="{_LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">{value:g}</text>')
        for value in ticks(*x):
            at, low = self.x(value), _HEIGHT - _BOTTOM
            self.parts.append(f'<line class="tick" x1="{at:.1f}" x2="{at:.1f}" y1="{low}" y2="{low + 5}"/>')
            self.parts.append(f'<text x="{at:.1f}" y="{low + 18}" text-anchor="middle">{value:g}</text>')
        below, above = Markup.escape(x_label), Markup.escape(y_label)
        self.parts.append(
            f'<text class="label" x="{right}" y="{_HEIGHT - 6}" text-anchor="end">{below}</text>'
        )
        self.parts.append(f'<text class="label" x="2" y="11">{above}</text>')

    def x(self, value: float) -> float:
        return _place(value, self._x, float(_LEFT), float(_WIDTH - _RIGHT))

    def y(self, value: float) -> float:
        return _place(value, self._y, float(_HEIGHT - _BOTTOM), float(_TOP))

    def svg(self, description: str) -> Markup:
        box, label = f"0 0 {_WIDTH} {_HEIGHT}", Markup.escape(description)
        head = f'<svg class="plot" viewBox="{box}" role="img" aria-label="{label}">'
        return Markup("\n".join([head, *self.parts, "</svg>"]))


def curve(steps: Sequence[int], losses: Sequence[float], description: str = "Training loss") -> Markup:
    """Losses by step: each one faintly, and their running mean over a fiftieth of the training.

    Raises:
        ValueError: if there are not as many steps as losses.
    """
    if len(steps) != len(losses):
        raise ValueError(f"{len(steps)} steps for {len(losses)} losses. Give one for each.")
    shown = [(s, x) for s, x in zip(steps, losses, strict=True) if math.isfinite(x)]
    if len(shown) < 2:
        return Markup('<p class="none">Too few steps for a curve.</p>')
    at, values = np.array([s for s, _ in shown], dtype=float), np.array([x for _, x in shown])
    width = max(1, len(values) // 50)
    mean = np.convolve(values, np.ones(width) / width, mode="valid")
    low, high = (float(q) for q in np.quantile(values, [0.0, 0.995]))
    room = 0.06 * (high - low or abs(high) or 1)
    axes = _Axes((float(at[0]), float(at[-1])), (low - room, high + room), "step", "loss")
    every = max(1, len(values) // 900)
    axes.parts.append(_line(axes, at[::every], np.clip(values[::every], low, high), "faint"))
    axes.parts.append(_line(axes, at[width // 2 : width // 2 + len(mean)], mean, "strong"))
    return axes.svg(f"{description}: from {mean[0]:.3g} to {mean[-1]:.3g} in {int(at[-1])} steps")


def histogram(
    kept: Sequence[float], dropped: Sequence[float], x_label: str = "score", num_bins: int = 40
) -> Markup:
    """Scores of kept and dropped pairs, stacked."""
    both = np.array([*kept, *dropped], dtype=float)
    both = both[np.isfinite(both)]
    if len(both) < 2 or both.min() == both.max():
        return Markup("")
    edges = np.linspace(both.min(), both.max(), num_bins + 1)
    kept_counts, dropped_counts = (np.histogram(np.array(x, dtype=float), edges)[0] for x in (kept, dropped))
    most = float((kept_counts + dropped_counts).max())
    axes = _Axes((float(edges[0]), float(edges[-1])), (0.0, most), x_label, "pairs")
    for i in range(num_bins):
        left, right = axes.x(float(edges[i])) + 0.5, axes.x(float(edges[i + 1])) - 0.5
        start = 0
        for name, count in (("dropped", dropped_counts[i]), ("kept", kept_counts[i])):
            if count:
                top = axes.y(float(start + count))
                size = f'width="{right - left:.1f}" height="{axes.y(float(start)) - top:.1f}"'
                axes.parts.append(f'<rect class="{name}" x="{left:.1f}" y="{top:.1f}" {size}/>')
            start += count
    return axes.svg(f"{x_label} of {len(kept)} kept and {len(dropped)} dropped pairs")


def scatter(
    points: Sequence[tuple[str, float, float, bool]], x_label: str, y_label: str, description: str
) -> Markup:
    """Named points; up and to the right is better. Ours are filled, others hollow.

    Args:
        points: name, x, y and whether it is ours.
        x_label: what x is.
        y_label: what y is.
        description: of what is seen, for those who do not see it.

    Raises:
        ValueError: if there is no point.
    """
    if not points:
        raise ValueError("There is no point to draw.")
    x, y = [a for _, a, _, _ in points], [b for _, _, b, _ in points]
    axes = _Axes(_around(x), _around(y), x_label, y_label)
    taken: list[tuple[float, float]] = []
    for name, a, b, ours in sorted(points, key=lambda point: -point[2]):
        at, high = axes.x(a), axes.y(b)
        label_y = high + 4
        while any(abs(label_y - other_y) < 12 and abs(at - other) < 120 for other, other_y in taken):
            label_y += 12
        taken.append((at, label_y))
        left = at > _WIDTH - 150
        place = (
            f'x="{at + (-9 if left else 9):.1f}" y="{label_y:.1f}" text-anchor="{"end" if left else "start"}"'
        )
        kind = "ours" if ours else "other"
        title = Markup.escape(f"{name}: {a:.3f}, {b:.3f}")
        axes.parts.append(
            f'<circle class="{kind}" cx="{at:.1f}" cy="{high:.1f}" r="5"><title>{title}</title></circle>'
        )
        axes.parts.append(f'<text class="{kind}" {place}>{Markup.escape(name)}</text>')
    return axes.svg(description)


def _around(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    room = 0.08 * (high - low) or 0.05
    return low - room, high + room


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers between two values."""
    if not high > low:
        return [float(low)]
    raw = (high - low) / about
    power = 10 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= raw * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(float(i * step), 12) for i in range(first, last + 1)]


def _line(axes: _Axes, x: np.ndarray, y: np.ndarray, name: str) -> str:
    points = " ".join(f"{axes.x(float(a)):.1f},{axes.y(float(b)):.1f}" for a, b in zip(x, y, strict=True))
    return f'<polyline class="{name}" points="{points}"/>'


def _place(value: float, data: tuple[float, float], low: float, high: float) -> float:
    return low + (value - data[0]) / ((data[1] - data[0]) or 1) * (high - low)
