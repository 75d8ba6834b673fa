"""The report of `compare_curators`: tables, drawings, and the worst mistakes."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from dsd.data.atomic import make_folder, replace_file
from dsd.evaluation import sections
from dsd.evaluation.page import Section, write_json, write_page
from dsd.studies import curators_mistakes
from dsd.studies.curators_drawings import drawings, write_png
from dsd.studies.curators_results import ALL, Results
from dsd.studies.curators_tables import tables
from dsd.studies.plots import standalone
from dsd.studies.tables import Table, csv_text, three_decimals, two_decimals
from dsd.texts import markdown_text

TITLE = "How well does each curator decide?"
_MISTAKES_IN_REPORT = 4


@dataclass(frozen=True, kw_only=True)
class Report:
    """What the report is made of.

    Attributes:
        results: all numbers.
        facts: of the pairs, the specs and the call.
        mistakes: how many mistakes of each kind the page of mistakes shows of each curator.
    """

    results: Results
    facts: Mapping[str, Any]
    mistakes: int = 24

    def write(self, folder: Path) -> Path:
        """Write the report in all its forms; returns the page."""
        make_folder(folder / "plots")
        found, drawn, pairs = tables(self.results), drawings(self.results), self.results.pairs
        for name, table in found.items():
            table.write_csv(folder / f"{name}.csv")
        replace_file(folder / "verdicts.csv", csv_text(self.results.verdict_rows()).encode())
        replace_file(folder / "curves.csv", csv_text(self._curve_rows()).encode())
        for old in (folder / "plots").glob("*.svg"):  # of curators that are no longer among them
            if old.stem not in drawn:
                old.unlink()
        for name, (_, drawing) in drawn.items():
            replace_file(folder / "plots" / f"{name}.svg", standalone(drawing).encode())
        picture = write_png(folder / "plots" / "curves.png", self.results)
        write_json(folder / "report.json", self.content(found))
        replace_file(folder / "report.md", self.markdown(found, drawn, picture is not None).encode())
        write_page(
            folder / "mistakes.html",
            "The worst mistakes",
            curators_mistakes.sections(pairs, self.results.verdicts, self.mistakes, level="By"),
            f"{self.subtitle()}. Worst first: the highest scores of what should have been rejected, the "
            "lowest of what should have been accepted",
        )
        return write_page(folder / "report.html", TITLE, self.sections(found, drawn), self.subtitle())

    def content(self, found: Mapping[str, Table] | None = None) -> dict[str, Any]:
        """What `report.json` holds: the facts, and the rows of all tables."""
        shown = tables(self.results) if found is None else found
        return {**self.facts, **{name: [*table.rows] for name, table in shown.items()}}

    def subtitle(self) -> str:
        """One line for the page's head."""
        count, pairs = len(self.results.verdicts), self.results.pairs
        who = "1 curator" if count == 1 else f"{count} curators"
        return f"{who} on {len(pairs.labels)} pairs of {pairs.source}"

    def sections(self, found: Mapping[str, Table], drawn: Mapping[str, tuple[str, Markup]]) -> list[Section]:
        """The page from top to bottom."""
        compared = [drawing for name, drawing in drawn.items() if not name.startswith("threshold")]
        limits = [drawing for name, drawing in drawn.items() if name.startswith("threshold")]
        parts = [sections.tiles(self._tiles())]
        parts += [found[name].section() for name in found if name.startswith("scores_")]
        if compared:
            parts.append(Section(template="drawings", title="Drawn", data={"drawings": compared}))
        parts.append(found["groups"].section())
        if limits:
            parts.append(found["thresholds"].section())
            parts.append(Section(template="drawings", data={"drawings": limits}))
        parts += curators_mistakes.sections(
            self.results.pairs, self.results.verdicts, min(self.mistakes, _MISTAKES_IN_REPORT)
        )
        parts += [found["costs"].section(), sections.making(self._making(), {**self.facts["pairs"]})]
        return parts

    def markdown(
        self, found: Mapping[str, Table], drawn: Mapping[str, tuple[str, Markup]], with_png: bool
    ) -> str:
        """The report as Markdown, with the drawings as files beside it."""
        parts = [f"# {TITLE}", markdown_text(f"{self.subtitle()}. {self.results.pairs.truth}")]
        for table in found.values():
            if table.rows:
                parts += [f"## {markdown_text(table.title)}", markdown_text(table.text), table.markdown()]
        if with_png:
            parts += ["## Drawings", "![ROC and precision-recall curves](plots/curves.png)"]
        texts = {name: markdown_text(text) for name, (text, _) in drawn.items()}
        parts += [f"![{text}](plots/{name}.svg)" for name, text in texts.items()]
        parts += ["The worst mistakes: [mistakes.html](mistakes.html)."]
        return "\n\n".join(parts) + "\n"

    def _tiles(self) -> list[tuple[str, str, str]]:
        pairs, tiles = self.results.pairs, []
        for part in self.results.parts:
            scored = [row for row in self.results.scores[part] if row["auroc"] is not None]
            if scored:
                best = max(scored, key=lambda row: row["auroc"])
                where = "all pairs" if part == ALL else "hard negatives alone"
                tiles.append((three_decimals(best["auroc"]), f"best AUROC, {where}", best["curator"]))
        kappas = [row for row in self.results.scores[ALL] if row["kappa"] is not None]
        if kappas:
            best = max(kappas, key=lambda row: row["kappa"])
            tiles.append(
                (two_decimals(best["kappa"]), "best agreement with the labels (kappa)", best["curator"])
            )
        same = sum(label.same for label in pairs.labels)
        left = f", {pairs.left_out} left out" if pairs.left_out else ""
        tiles.append((str(len(pairs.labels)), "labelled pairs", f"{same} of the same subject{left}"))
        return tiles

    def _making(self) -> list[dict[str, Any]]:
        costs = {row["curator"]: row for row in self.results.costs}
        return [
            {
                "name": x.entry.name,
                "rows": len(x.timed),
                "seconds": costs[x.entry.name]["seconds"],
                "spec": x.entry.spec,
                "counts": {},
            }
            for x in self.results.verdicts
        ]

    def _curve_rows(self) -> list[dict[str, Any]]:
        return [
            {
                "curator": name,
                "part": part,
                "threshold": float(curve.thresholds[i]),
                "precision": float(curve.precision[i]),
                "recall": float(curve.recall[i]),
                "f1": float(curve.f1[i]),
                "false_positive_rate": float(curve.false_positives[i]),
            }
            for part in self.results.parts
            for name, curve in self.results.curves(part).items()
            for i in range(len(curve.thresholds))
        ]
