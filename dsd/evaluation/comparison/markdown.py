"""A comparison as Markdown, for READMEs and papers."""

from collections.abc import Sequence

from dsd.evaluation.comparison import tables
from dsd.evaluation.comparison.notes import notes
from dsd.evaluation.comparison.result import Comparison
from dsd.evaluation.comparison.tables import Cell, Grid
from dsd.texts import markdown_text as escaped


def markdown(comparison: Comparison) -> str:
    """The whole comparison but its pictures. What comes from outside is escaped."""
    parts = [f"# {escaped(comparison.benchmark.title)}"]
    if comparison.benchmark.source:
        parts.append(escaped(comparison.benchmark.source))
    parts += [f"> **Note.** {escaped(note)}" for note in notes(comparison)]
    every = [
        tables.leaderboard(comparison),
        *tables.published_tables(comparison),
        *tables.group_tables(comparison),
    ]
    parts += [as_table(grid) for grid in [*every, tables.provenance(comparison)]]
    return "\n\n".join(parts) + "\n"


def as_table(grid: Grid) -> str:
    """One table with its heading."""
    heads = [f"{escaped(title)}{f' ({escaped(note)})' if note else ''}" for title, note in grid.heads]
    lines = [
        _line(heads),
        _line(["---"] * len(heads)),
        *(_line([_cell(x) for x in row]) for row in grid.rows),
    ]
    parts = [f"## {escaped(grid.title)}", *([escaped(grid.text)] if grid.text else []), "\n".join(lines)]
    return "\n\n".join(parts)


def _cell(cell: Cell) -> str:
    text = f"**{escaped(cell.text)}**" if cell.strong else escaped(cell.text)
    return f"{text} {escaped(cell.note)}".strip()


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
