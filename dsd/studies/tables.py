"""Tables of a study: one set of numbers as CSV, Markdown, HTML and on the terminal."""

import csv
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table as RichTable

from dsd.data.atomic import replace_file
from dsd.evaluation.page import Section, duration
from dsd.texts import csv_cell, markdown_text, printable

_NONE = "\N{EN DASH}"


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of a table.

    Attributes:
        key: of a row's value; `KEY_low` and `KEY_high`, where a row has them, are its interval.
        title: its heading.
        note: a smaller line below the heading, such as the unit.
        show: a value as text.
        best: whether the "max" or the "min" of the column is marked; None for neither.
    """

    key: str
    title: str
    note: str = ""
    show: Callable[[Any], str] = str
    best: str | None = None


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows with columns.

    Attributes:
        title: what it shows.
        text: how to read it.
        columns: from left to right; the first one names the row.
        rows: values by key. Keys that are no column are in the CSV file only.
        num_beside: how many rows at the end stand beside the others, which alone compete for the best value.
    """

    title: str
    columns: Sequence[Column]
    rows: Sequence[Mapping[str, Any]]
    text: str = ""
    num_beside: int = 0

    def cells(self, row: Mapping[str, Any]) -> list[str]:
        """A row as texts, with intervals."""
        return [_with_interval(column, row) for column in self.columns]

    def marked(self, column: Column) -> set[int]:
        """The numbers of the rows with the best value of a column."""
        rows = self.rows[: len(self.rows) - self.num_beside]
        values = {i: row[column.key] for i, row in enumerate(rows) if _is_number(row.get(column.key))}
        if column.best is None or len(values) < 2:
            return set()
        most = (max if column.best == "max" else min)(values.values())
        return {i for i, value in values.items() if value == most}

    def markdown(self) -> str:
        """As a Markdown table; the best values are bold."""
        best = [self.marked(column) for column in self.columns]
        heads = [markdown_text(_heading(column)) for column in self.columns]
        lines = [_line(heads), _line(["---", *["---:"] * (len(heads) - 1)])]
        for i, row in enumerate(self.rows):
            texts = [markdown_text(text) for text in self.cells(row)]
            lines.append(_line([f"**{x}**" if i in best[j] else x for j, x in enumerate(texts)]))
        return "\n".join(lines)

    def csv(self) -> str:
        """All values as they are, not rounded."""
        return csv_text(self.rows)

    def write_csv(self, path: Path) -> Path:
        """Write the CSV file, in one step; returns it."""
        replace_file(path, self.csv().encode())
        return path

    def section(self) -> Section:
        """For a page."""
        best = [self.marked(column) for column in self.columns]
        rows = [
            [{"text": text, "best": i in best[j]} for j, text in enumerate(self.cells(row))]
            for i, row in enumerate(self.rows)
        ]
        heads = [(column.title, column.note) for column in self.columns]
        return Section(
            template="table", title=self.title, text=self.text, data={"heads": heads, "rows": rows}
        )

    def rich(self) -> RichTable:
        """For a terminal, without the intervals."""
        table = RichTable(box=box.SIMPLE, title=escape(printable(self.title)))
        for number, column in enumerate(self.columns):
            table.add_column(escape(printable(_heading(column))), justify="right" if number else "left")
        best = [self.marked(column) for column in self.columns]
        for i, row in enumerate(self.rows):
            texts = [escape(printable(_shown(column, row.get(column.key)))) for column in self.columns]
            table.add_row(*(f"[bold green]{x}[/]" if i in best[j] else x for j, x in enumerate(texts)))
        return table


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as a CSV file, with a column for every key; empty without a row. No text of it is a formula."""
    buffer = io.StringIO()
    if rows:
        keys = list(dict.fromkeys(x for row in rows for x in row))
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow(map(csv_cell, keys))
        writer.writerows([csv_cell(row.get(key, "")) for key in keys] for row in rows)
    return buffer.getvalue()


def two_decimals(value: float | int) -> str:
    """As in 0.71."""
    return f"{value:.2f}"


def three_digits(value: float | int) -> str:
    """As in 0.0123, 4.56 or 789."""
    return f"{value:.3g}" if abs(value) < 100 else f"{value:,.0f}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def three_decimals(value: float) -> str:
    """As in 0.987."""
    return f"{value:.3f}"


def with_minus(value: float) -> str:
    """Two decimals, with a true minus sign."""
    return f"{round(value, 2) + 0.0:.2f}".replace("-", "\N{MINUS SIGN}")  # + 0.0, because of -0.0


def signed(value: float) -> str:
    """As in +0.12."""
    return f"{value:+.2f}".replace("-", "\N{MINUS SIGN}")


def dollars(value: float) -> str:
    """As in $0.0012 or $3.40."""
    return f"${value:.2g}" if 0 < value < 0.1 else f"${value:.2f}"


def seconds(value: float) -> str:
    """As in 12 ms or 4.2 s."""
    return f"{1000 * value:.2g} ms" if value < 0.1 else duration(value)


def millions(value: float | int) -> str:
    """As in 5.24 M or 1.20 B."""
    return f"{value / 1e6:.2f}\N{NO-BREAK SPACE}M" if value < 1e9 else f"{value / 1e9:.2f}\N{NO-BREAK SPACE}B"


def _with_interval(column: Column, row: Mapping[str, Any]) -> str:
    text = _shown(column, row.get(column.key))
    low, high = (row.get(f"{column.key}_{end}") for end in ("low", "high"))
    if not (_is_number(low) and _is_number(high)):
        return text
    return f"{text} ({column.show(low)} to {column.show(high)})"


def _shown(column: Column, value: Any) -> str:
    return _NONE if value is None or (isinstance(value, float) and math.isnan(value)) else column.show(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _heading(column: Column) -> str:
    return f"{column.title} ({column.note})" if column.note else column.title


def _line(texts: Sequence[str]) -> str:
    return f"| {' | '.join(texts)} |"
