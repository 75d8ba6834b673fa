"""The report of `compare_extractors`: its tables, drawings and pages."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from dsd.data.atomic import make_folder, replace_file
from dsd.evaluation import sections
from dsd.evaluation.page import Section, write_json, write_page
from dsd.studies.canvas import dress, write_figure
from dsd.studies.identity_results import HARD, IdentityResults
from dsd.studies.plots import (
    COLOURS,
    MUTED,
    PAPER,
    Line,
    dots,
    labels,
    lines,
    short,
    standalone,
)
from dsd.studies.tables import Column, Table, signed, three_decimals, with_minus
from dsd.texts import markdown_text

TITLE = "How well does each extractor tell subjects apart?"
_AREAS = {"auroc": "all pairs", "auroc_same_class": "same class"}
_MOST_DRAWN = 12


def tables(results: IdentityResults) -> dict[str, Table]:
    """All tables by the name of their file."""
    hard = bool(results.num_pairs.get(HARD))
    first = next(iter(results.embeddings))
    ahead = [Column(key="ahead", title=f"Ahead of {first}", note="AUROC, all pairs", show=signed)]
    columns = [
        Column(key="extractor", title="Extractor"),
        Column(key="auroc", title="AUROC", note="all pairs", show=three_decimals, best="max"),
        Column(key="auroc_same_class", title="AUROC", note="same class", show=three_decimals, best="max"),
        *(ahead if len(results.embeddings) > 1 else []),
        Column(key="pa", title="PA", note="trials won", show=three_decimals, best="max"),
        Column(key="ssr", title="SSR", note="pictures that win all", show=three_decimals, best="max"),
        Column(key="margin", title="Margin", note="mean", show=with_minus),
        Column(key="third_views", title="Third views", note="spread of copy-paste", show=three_decimals),
    ]
    subjects = len(set(results.pictures.subjects))
    counts = ", ".join(f"{count} of {kind}" for kind, count in results.num_pairs.items())
    text = (
        f"All pairs of {len(results.pictures.files)} pictures of {subjects} subjects: {counts}. AUROC is the "
        "chance that a pair of one subject is more similar than one of two; 0.5 is chance. In a trial, a "
        "picture is compared with another one of its subject and with one of another: PA is the share that "
        "the own subject wins, SSR the share of pictures that win all of theirs, the margin the difference "
        "of the similarities. Third views are photographs that copy nothing: their copy-paste scores are 0 "
        f"on average and scatter by so much. Intervals are 95\N{NO-BREAK SPACE}%, over {subjects} subjects."
    )
    found = {
        "identity": Table(
            title="Same subject or not",
            text=text,
            columns=[x for x in columns if hard or x.key != "auroc_same_class"],
            rows=results.rows,
        ),
        "similarities": Table(
            title="Similarities",
            text="Cosines of the pairs of each kind: mean, and where the middle 90\N{NO-BREAK SPACE}% lie.",
            columns=[
                Column(key="extractor", title="Extractor"),
                Column(key="pairs", title="Pairs"),
                Column(key="n", title="Number"),
                Column(key="mean", title="Mean", show=with_minus),
                Column(key="low", title="5\N{NO-BREAK SPACE}%", show=with_minus),
                Column(key="high", title="95\N{NO-BREAK SPACE}%", show=with_minus),
            ],
            rows=[
                {k: v for k, v in row.items() if k not in ("at", "shares")} for row in results.similarities
            ],
        ),
    }
    return found


def drawings(results: IdentityResults) -> dict[str, tuple[str, Markup]]:
    """For the page, by name, with captions."""
    rows = [(row["extractor"], _values(row)) for row in results.rows]
    found = {
        "auroc": (
            "Chance that a pair of one subject is more similar than one of two, with 95\N{NO-BREAK SPACE}% "
            "intervals over subjects.",
            dots(rows, "AUROC", description="AUROC of each extractor", rules={"chance": 0.5}),
        )
    }
    for number, name in enumerate([*results.embeddings][:_MOST_DRAWN], 1):
        series = [
            Line(name=row["pairs"], points=list(zip(row["at"], row["shares"], strict=True)))
            for row in results.similarities
            if row["extractor"] == name
        ]
        found[f"similarities_{number}"] = (
            f"{short(name)}: share of the pairs of each kind by their similarity.",
            lines(series, "cosine", "share of pairs", description=f"Similarities by {short(name)}"),
        )
    return found


def write_png(path: Path, results: IdentityResults) -> Path:
    """AUROC of all extractors with intervals, and the similarities of each."""
    names = labels([*results.embeddings])
    shown = [*results.embeddings][:_MOST_DRAWN]
    figure = Figure(
        figsize=(10.4, 1.6 + 1.15 * max(2, len(shown))), dpi=110, facecolor=PAPER, layout="constrained"
    )
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(len(shown), 2)
    left = figure.add_subplot(grid[:, 0])
    for number, (key, kind) in enumerate(_AREAS.items()):
        label = kind
        for place, row in enumerate(results.rows):
            if (value := row.get(key)) is None:
                continue
            at = place + 0.16 * (number - 0.5)
            ends = [row.get(f"{key}_low", value), row.get(f"{key}_high", value)]
            left.plot(ends, [at, at], color=COLOURS[number], lw=1.6)
            left.plot([value], [at], "o", color=COLOURS[number], ms=5, label=label)
            label = "_"
    left.axvline(0.5, color=MUTED, lw=0.9, ls=(0, (3, 3)))
    left.set_yticks(range(len(names)), list(names.values()))
    left.set_ylim(len(names) - 0.5, -0.5)
    dress(left, "AUROC", "same subject or not; 95 % intervals over subjects", legend=True)
    for place, name in enumerate(shown):
        axes = figure.add_subplot(grid[place, 1])
        for row in (row for row in results.similarities if row["extractor"] == name):
            colour = COLOURS[2 + [*results.num_pairs].index(row["pairs"])]
            axes.fill_between(row["at"], row["shares"], color=colour, alpha=0.25, lw=0)
            axes.plot(row["at"], row["shares"], color=colour, lw=1.4, label=row["pairs"])
        dress(axes, names[name], "cosine" if place == len(shown) - 1 else "", legend=place == 0)
        axes.set_yticks([])
    return write_figure(path, figure)


def _values(row: Mapping[str, Any]) -> dict[str, tuple[float, float, float]]:
    return {
        kind: (row[key], row.get(f"{key}_low", row[key]), row.get(f"{key}_high", row[key]))
        for key, kind in _AREAS.items()
        if row.get(key) is not None
    }


@dataclass(frozen=True, kw_only=True)
class IdentityReport:
    """What the report is made of.

    Attributes:
        results: all numbers.
        specs: of the extractors, with what they do to a picture.
        resamples: of the bootstrap.
        seed: of the bootstrap.
    """

    results: IdentityResults
    specs: Mapping[str, Mapping[str, Any]]
    resamples: int
    seed: int

    def write(self, folder: Path) -> Path:
        """Write the report in all its forms; returns the page."""
        make_folder(folder / "plots")
        found, drawn = tables(self.results), drawings(self.results)
        for old in (folder / "plots").glob("*.svg"):
            if old.stem not in drawn:  # of what is no longer there
                old.unlink()
        for name, table in found.items():
            table.write_csv(folder / f"{name}.csv")
        for name, (_, drawing) in drawn.items():
            replace_file(folder / "plots" / f"{name}.svg", standalone(drawing).encode())
        write_png(folder / "plots" / "identity.png", self.results)
        write_json(folder / "report.json", self.content())
        replace_file(folder / "report.md", self._markdown(found, drawn).encode())
        parts = [
            *(table.section() for table in found.values()),
            Section(template="drawings", title="Drawn", data={"drawings": [*drawn.values()]}),
            sections.making(
                [
                    {
                        "name": name,
                        "rows": self._facts()["pictures"],
                        "seconds": 0.0,
                        "spec": dict(spec),
                        "counts": {},
                    }
                    for name, spec in self.specs.items()
                ],
                self._facts(),
            ),
        ]
        return write_page(folder / "report.html", TITLE, parts, self._subtitle())

    def content(self) -> dict[str, Any]:
        """What `report.json` holds."""
        rows = {"identity": self.results.rows, "similarities": self.results.similarities}
        return {**self._facts(), "specs": {name: dict(x) for name, x in self.specs.items()}, **rows}

    def _facts(self) -> dict[str, Any]:
        pictures = self.results.pictures
        return {
            "pictures": len(pictures.files),
            "subjects": len(set(pictures.subjects)),
            "pairs": dict(self.results.num_pairs),
            "digest": pictures.digest,
            "resamples": self.resamples,
            "seed": self.seed,
        }

    def _subtitle(self) -> str:
        facts, count = self._facts(), len(self.specs)
        who = "1 extractor" if count == 1 else f"{count} extractors"
        return f"{who} on {facts['pictures']} pictures of {facts['subjects']} subjects"

    def _markdown(self, found: Mapping[str, Table], drawn: Mapping[str, tuple[str, Markup]]) -> str:
        parts = [f"# {TITLE}", markdown_text(f"{self._subtitle()}.")]
        for table in found.values():
            parts += [f"## {markdown_text(table.title)}", markdown_text(table.text), table.markdown()]
        parts += ["## Drawings", "![AUROC and similarities of each extractor](plots/identity.png)"]
        parts += [f"![{markdown_text(text)}](plots/{name}.svg)" for name, (text, _) in drawn.items()]
        return "\n\n".join(parts) + "\n"
