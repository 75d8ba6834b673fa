"""Drawings of studies: SVG that stands alone as a file, and inside a page, in light and dark."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from dsd.evaluation.plots import ticks

_WIDTH, _HEIGHT = 720, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 14, 28, 42
_ROW, _NAMES = 30, 168  # height of a row of `dots`, and room for its name
_LETTER = 6.6  # width of one, about
PAPER, INK, MUTED, RULE = "#f8f6f1", "#23211d", "#6b655b", "#e3ddd1"
COLOURS = ("#0b7566", "#b4470f", "#5a4fb0", "#a3266b", "#2f6fb3", "#7a6a00", "#4d5b66")
_AT_NIGHT = ("#55c9b5", "#f0a06c", "#a79df5", "#ee86bb", "#7db6ee", "#d6c24a", "#a9b7c2")

LONGEST_NAME = 44
LONGEST_BESIDE = 20
"""Letters of a name that have room in a legend, and beside a row of `dots`."""

Number = float | int
Points = Sequence[tuple[Number, Number]]


@dataclass(frozen=True, kw_only=True)
class Line:
    """A line of `lines`.

    Attributes:
        name: for the legend; lines of one name have one colour and one entry.
        points: (x, y), from left to right.
        dashed: for what stands beside what is compared.
    """

    name: str
    points: Points
    dashed: bool = False


def lines(series: Sequence[Line], x_label: str, y_label: str, *, description: str) -> Markup:
    """Several lines over one axis, with a legend below.

    Raises:
        ValueError: if there is no point.
    """
    points = [point for line in series for point in line.points if all(map(math.isfinite, point))]
    if not points:
        raise ValueError("There is no point to draw.")
    x, y = _range([p[0] for p in points]), _range([p[1] for p in points], room=0.05)
    names = list(dict.fromkeys(line.name for line in series))
    legend, rows = _legend(names)
    bottom = _HEIGHT - _BOTTOM
    place = _Place(x, y, (_LEFT, _WIDTH - _RIGHT), (bottom, _TOP))
    parts = [_rule(_LEFT, _WIDTH - _RIGHT, place.y(v), f"{v:g}") for v in ticks(*y)]
    parts += [_tick(place.x(v), bottom, f"{v:g}") for v in ticks(*x)]
    parts += [_text(_WIDTH - _RIGHT, _HEIGHT - 6, x_label, "end"), _text(2, 12, y_label)]
    for line in series:
        drawn = " ".join(f"{place.x(a):.1f},{place.y(b):.1f}" for a, b in line.points if math.isfinite(b))
        kind = f"c{names.index(line.name) % len(COLOURS)}{' dashed' if line.dashed else ''}"
        parts.append(f'<polyline class="{kind}" points="{drawn}"/>')
    parts += [f'<g transform="translate({_LEFT} {_HEIGHT + 6})">', *legend, "</g>"]
    return _svg(parts, _HEIGHT + 10 + 20 * rows, description)


def dots(
    rows: Sequence[tuple[str, Mapping[str, tuple[Number, Number, Number]]]],
    x_label: str,
    *,
    description: str,
    rules: Mapping[str, Number] | None = None,
) -> Markup:
    """One row a name, with a dot and an interval for each of its values.

    Args:
        rows: name, then by the value's own name (value, low, high).
        x_label: of the axis.
        description: of what is seen, for those who do not see it.
        rules: upright lines to compare with, by name.

    Raises:
        ValueError: if there is no value.
    """
    rules = dict(rules or {})
    found = [x for _, values in rows for value in values.values() for x in value if math.isfinite(x)]
    if not found:
        raise ValueError("There is no value to draw.")
    x = _range([*found, *rules.values()], room=0.04)
    kinds = list(dict.fromkeys(kind for _, values in rows for kind in values))
    top, bottom = 22.0, 22.0 + _ROW * len(rows)
    place = _Place(x, (0.0, 1.0), (_NAMES, _WIDTH - _RIGHT), (bottom, top))
    parts = [_tick(place.x(v), bottom, f"{v:g}", top) for v in ticks(*x)]
    for name, value in rules.items():
        at = place.x(value)
        parts.append(f'<line class="mark" x1="{at:.1f}" x2="{at:.1f}" y1="{top}" y2="{bottom}"/>')
        anchor = "end" if at > _WIDTH - 90 else "middle"
        parts.append(_text(at, 14, name, anchor))
    shown = labels([name for name, _ in rows], LONGEST_BESIDE)
    for number, (name, values) in enumerate(rows):
        middle = top + _ROW * (number + 0.5)
        parts.append(_text(_NAMES - 12, middle + 4, shown[name], "end", "name"))
        for kind, (value, low, high) in values.items():
            index = kinds.index(kind)
            y = middle + 7 * (index - (len(kinds) - 1) / 2)
            left, right, at = place.x(low), place.x(high), place.x(value)
            parts.append(f'<line class="c{index}" x1="{left:.1f}" x2="{right:.1f}" y1="{y}" y2="{y}"/>')
            parts.append(f'<circle class="c{index}" cx="{at:.1f}" cy="{y}" r="4"/>')
    legend, _ = _legend(kinds)
    height = bottom + 46
    parts += [_text(_WIDTH - _RIGHT, height - 8, x_label, "end")]
    parts += [f'<g transform="translate({_NAMES} {height - 12})">', *legend, "</g>"]
    return _svg(parts, int(height), description)


def short(name: str, letters: int = LONGEST_NAME) -> str:
    """A name as far as a drawing has room for it: its beginning and its end."""
    if len(name) <= letters:
        return name
    half = (letters - 1) // 2
    return f"{name[: letters - 1 - half]}\N{HORIZONTAL ELLIPSIS}{name[-half:]}"


def labels(names: Sequence[str], letters: int = LONGEST_NAME) -> dict[str, str]:
    """Names as a drawing shows them, by the whole ones; no two are alike."""
    found: dict[str, str] = {}
    for number, whole in enumerate(names, 1):
        name, mark = short(whole, letters), f" ({number})"
        if name in found.values():
            name = short(whole, letters - len(mark)) + mark
        found[whole] = name
    return found


def standalone(drawing: Markup) -> str:
    """A drawing as the content of an SVG file."""
    return str(drawing).replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1) + "\n"


@dataclass(frozen=True)
class _Place:
    """Turns data into places."""

    data_x: tuple[Number, Number]
    data_y: tuple[Number, Number]
    page_x: tuple[Number, Number]
    page_y: tuple[Number, Number]

    def x(self, value: Number) -> float:
        return _between(value, self.data_x, self.page_x)

    def y(self, value: Number) -> float:
        return _between(value, self.data_y, self.page_y)


def _between(value: Number, data: tuple[Number, Number], page: tuple[Number, Number]) -> float:
    return page[0] + (value - data[0]) / ((data[1] - data[0]) or 1) * (page[1] - page[0])


def _range(values: Sequence[Number], room: float = 0.0) -> tuple[float, float]:
    low, high = min(values), max(values)
    spare = room * (high - low) or (0.0 if high > low else abs(high) * 0.1 or 0.5)
    return float(low - spare), float(high + spare)


def _rule(left: Number, right: Number, y: Number, text: str) -> str:
    line = f'<line class="rule" x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>'
    return line + _text(left - 8, y + 4, text, "end")


def _tick(x: Number, bottom: Number, text: str, top: Number | None = None) -> str:
    kind, end = ("tick", bottom + 5) if top is None else ("rule", top)
    line = f'<line class="{kind}" x1="{x:.1f}" x2="{x:.1f}" y1="{bottom}" y2="{end}"/>'
    return line + _text(x, bottom + 18, text, "middle")


def _text(x: Number, y: Number, text: str, anchor: str = "start", kind: str = "") -> str:
    named = f' class="{kind}"' if kind else ""
    return f'<text{named} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{Markup.escape(text)}</text>'


def _legend(names: Sequence[str]) -> tuple[list[str], int]:
    """Entries from left to right, in as many rows as they need, and the number of rows."""
    parts, x, row = [], 0.0, 0
    for index, name in enumerate(names):
        width = 26 + _LETTER * len(name) + 14
        if x and x + width > _WIDTH - _LEFT - _RIGHT:
            x, row = 0.0, row + 1
        y = 4 + 20 * row
        parts.append(f'<circle class="c{index % len(COLOURS)}" cx="{x + 6:.1f}" cy="{y}" r="5"/>')
        parts.append(_text(x + 18, y + 4, name))
        x += width
    return parts, row + 1


def _style() -> str:
    def coloured(colours: Sequence[str]) -> str:
        return " ".join(f".study .c{i} {{ --c: {colour}; }}" for i, colour in enumerate(colours))

    return (
        "<style>"
        ".study { font: 12px system-ui, sans-serif; --muted-ink: #6b655b; --thin: #e3ddd1; } "
        ".study text { fill: var(--muted-ink); } .study .name { font-weight: 600; } "
        ".study .rule { stroke: var(--thin); } .study .tick, .study .mark { stroke: var(--muted-ink); } "
        ".study .mark { stroke-dasharray: 3 3; } "
        ".study polyline { fill: none; stroke: var(--c); stroke-width: 2; stroke-linejoin: round; } "
        ".study .dashed { stroke-dasharray: 5 4; stroke-width: 1.4; opacity: .75; } "
        ".study circle { fill: var(--c); } .study line[class^=c] { stroke: var(--c); stroke-width: 2; } "
        f"{coloured(COLOURS)} "
        "@media (prefers-color-scheme: dark) { .study { --muted-ink: #a39d92; --thin: #33353c; } "
        f"{coloured(_AT_NIGHT)} }}"
        "</style>"
    )


def _svg(parts: Sequence[str], height: int, description: str) -> Markup:
    box, label = f"0 0 {_WIDTH} {height}", Markup.escape(description)
    head = f'<svg class="plot study" viewBox="{box}" role="img" aria-label="{label}">'
    return Markup("\n".join([head, _style(), *parts, "</svg>"]))
