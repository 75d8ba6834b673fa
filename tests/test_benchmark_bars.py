"""The picture of the benchmarks' ratios: what is written in it can be read."""

import itertools
import re
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

import bars  # noqa: E402
from bars import Bar  # noqa: E402

MADE = {
    "like those measured": [
        Bar("step", 1.01, 1.03), Bar("memory", 1.004, 1.03, "B"), Bar("told only", 1.005),
        Bar("guided", 0.936, 1.0), Bar("reading a batch of 16 / a step on it", 0.0104, 0.2),
    ],
    "at, over and far below the limit": [
        Bar("at", 1.0, 1.0), Bar("over", 1.7, 1.0), Bar("below", 0.001, 4.0, "B")
    ],
    "one without a limit": [Bar("alone", 12.5)],
    "one limit far off": [Bar("a", 0.5, 100.0), Bar("b", 0.99, 1.0)],
}  # fmt: skip


def published() -> list[Bar]:
    """The table of docs/performance.md."""
    rows = [
        line.split("|")[1:-1]
        for line in (ROOT / "docs" / "performance.md").read_text().splitlines()
        if "|" in line
    ]
    cells = [[cell.strip() for cell in row] for row in rows]
    ratios = [row for row in cells if len(row) == 6 and re.fullmatch(r"\d\.\d{3}", row[3])]
    assert len(ratios) == 10
    return [
        Bar(row[0], float(row[3]), float(row[5]) if row[5] else None, "B" if "MiB" in row[1] else "s")
        for row in ratios
    ]


def overlap(one: Any, other: Any) -> bool:
    return one.x0 < other.x1 and other.x0 < one.x1 and one.y0 < other.y1 and other.y0 < one.y1


@pytest.mark.parametrize("given", [*MADE.values(), published()], ids=[*MADE, "published"])
def test_no_label_lies_on_a_bar_a_mark_or_another(given: list[Bar]) -> None:
    from matplotlib import pyplot

    drawn, axes = bars.figure(given)
    try:
        drawn.canvas.draw()
        labels = [text.get_window_extent() for text in axes.texts]
        marks = [line.get_window_extent() for line in axes.lines]
        shapes = [*(bar.get_window_extent() for bar in axes.patches), *(mark.padded(2) for mark in marks)]
        assert len(axes.patches) == len(labels) == len(given)
        assert len(marks) == sum(bar.limit is not None for bar in given)
        frame, page = axes.get_window_extent(), drawn.bbox
        for label in labels:
            assert not any(overlap(label, shape) for shape in shapes)
            assert frame.x1 < label.x0
            assert label.x1 <= page.x1, "cut off"
        assert not any(overlap(a, b) for a, b in itertools.combinations(labels, 2))
    finally:
        pyplot.close(drawn)


def test_each_value_stands_beside_its_own_bar() -> None:
    from matplotlib import colors, pyplot

    given = MADE["at, over and far below the limit"]
    drawn, axes = bars.figure(given)
    try:
        names = [tick.get_text() for tick in axes.get_yticklabels()]
        assert names[::-1] == [bar.what for bar in given], "the first on top"
        by_height = {round(text.get_position()[1]): text.get_text() for text in axes.texts}
        said = dict(zip(names, (by_height[i] for i in range(len(names))), strict=True))
        assert said == {"at": "1.000 (at most 1)", "over": "1.700 (over 1)", "below": "0.001 (at most 4)"}
        widths = dict(zip(names, (bar.get_width() for bar in axes.patches), strict=True))
        assert widths == {bar.what: bar.ratio for bar in given}
        marks = {round(sum(line.get_ydata()) / 2): line.get_xdata()[0] for line in axes.lines}
        assert {names[i]: x for i, x in marks.items()} == {bar.what: bar.limit for bar in given}
        shown = {
            name: colors.to_hex(bar.get_facecolor()) for name, bar in zip(names, axes.patches, strict=True)
        }
        assert shown["below"] == colors.to_hex("tab:gray")
        assert shown["at"] == shown["over"] == colors.to_hex("tab:blue")
    finally:
        pyplot.close(drawn)


def test_the_picture_is_written(tmp_path: Path) -> None:
    bars.draw(MADE["one without a limit"], tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="no ratio to draw"):
        bars.draw([], tmp_path / "b.png")
