"""The report of `compare_judges`."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from dsd.data.atomic import make_folder, replace_file
from dsd.evaluation import sections
from dsd.evaluation.page import Section, write_json, write_page
from dsd.studies.judge_drawings import drawings, write_png
from dsd.studies.judge_results import ALL, PEOPLE, JudgeResults
from dsd.studies.judge_tables import tables
from dsd.studies.plots import standalone
from dsd.studies.tables import Table, csv_text, with_minus
from dsd.texts import markdown_text

TITLE = "How far does each judge agree with people?"


@dataclass(frozen=True, kw_only=True)
class JudgeReport:
    """What the report is made of.

    Attributes:
        results: all numbers.
        facts: of the ratings, the specs and the call.
    """

    results: JudgeResults
    facts: Mapping[str, Any]

    def write(self, folder: Path) -> Path:
        """Write the report in all its forms; returns the page."""
        make_folder(folder / "plots")
        found, drawn = tables(self.results), drawings(self.results)
        for old in [*folder.glob("agreement*.csv"), *(folder / "plots").glob("*.svg")]:
            if old.stem not in (found if old.suffix == ".csv" else drawn):  # of what is no longer there
                old.unlink()
        for name, table in found.items():
            table.write_csv(folder / f"{name}.csv")
        replace_file(folder / "scores.csv", csv_text(self.results.score_rows()).encode())
        for name, (_, drawing) in drawn.items():
            replace_file(folder / "plots" / f"{name}.svg", standalone(drawing).encode())
        write_png(folder / "plots" / "agreement.png", self.results)
        write_json(folder / "report.json", self.content(found))
        replace_file(folder / "report.md", self.markdown(found, drawn).encode())
        return write_page(folder / "report.html", TITLE, self.sections(found, drawn), self.subtitle())

    def content(self, found: Mapping[str, Table] | None = None) -> dict[str, Any]:
        """What `report.json` holds: the facts, what is missing, and the rows of all tables."""
        shown = tables(self.results) if found is None else found
        rows = {name: [*table.rows] for name, table in shown.items()}
        return {**self.facts, "notes": self.results.notes(), **rows}

    def subtitle(self) -> str:
        """One line for the page's head."""
        count, items = len(self.results.judges), self.results.items
        who = "1 judge" if count == 1 else f"{count} judges"
        return f"{who} beside {len(items.raters)} people on {len(items.keys)} items of {items.source}"

    def sections(self, found: Mapping[str, Table], drawn: Mapping[str, tuple[str, Markup]]) -> list[Section]:
        """The page from top to bottom."""
        notes = self.results.notes()
        parts = [Section(template="notes", data={"notes": notes})] if notes else []
        parts.append(sections.tiles(self._tiles()))
        parts += [table.section() for name, table in found.items() if name.startswith("agreement")]
        if "averages" in found:
            parts.append(found["averages"].section())
        if drawn:
            parts.append(Section(template="drawings", title="Drawn", data={"drawings": [*drawn.values()]}))
        parts += [found[name].section() for name in ("by_score", "costs") if name in found]
        return [*parts, sections.making(self._making(), {**self.facts["ratings"]})]

    def markdown(self, found: Mapping[str, Table], drawn: Mapping[str, tuple[str, Markup]]) -> str:
        """The report as Markdown, with the drawings as files beside it."""
        parts = [f"# {TITLE}", markdown_text(f"{self.subtitle()}.")]
        parts += [f"> **Missing.** {markdown_text(note)}" for note in self.results.notes()]
        for table in found.values():
            parts += [
                f"## {markdown_text(table.title)}",
                *([markdown_text(table.text)] if table.text else []),
                table.markdown(),
            ]
        parts += [
            "## Drawings",
            "![Spearman's correlation and people's rating by score](plots/agreement.png)",
        ]
        parts += [f"![{markdown_text(text)}](plots/{name}.svg)" for name, (text, _) in drawn.items()]
        return "\n\n".join(parts) + "\n"

    def _tiles(self) -> list[tuple[str, str, str]]:
        rows = self.results.agreement[ALL]
        judged = [row for row in rows if row["judge"] != PEOPLE and row["spearman"] is not None]
        tiles = []
        if judged:
            best = max(judged, key=lambda row: row["spearman"])
            tiles.append((with_minus(best["spearman"]), "best Spearman with people", best["judge"]))
        among = next((row for row in rows if row["judge"] == PEOPLE), None)
        if among is not None and among["spearman"] is not None:
            tiles.append(
                (with_minus(among["spearman"]), "one person with the others", "Spearman, on average")
            )
        if among is not None and among["alpha"] is not None:
            tiles.append((with_minus(among["alpha"]), "agreement among people", "Krippendorff's alpha"))
        items = self.results.items
        tiles.append(
            (str(len(items.keys)), "items", f"{self.results.num_clusters} {items.units} are resampled")
        )
        return tiles

    def _making(self) -> list[dict[str, Any]]:
        costs = {row["judge"]: row for row in self.results.costs}
        return [
            {
                "name": x.name,
                "rows": len(x.said) or sum(1 for value in x.scores.values if value == value),
                "seconds": costs[x.name]["seconds"] if x.name in costs else 0.0,
                "spec": dict(x.spec),
                "counts": {},
            }
            for x in self.results.judges
        ]
