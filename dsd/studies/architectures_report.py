"""The report of `compare_architectures`: tables, drawings, pictures side by side."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from dsd.data.atomic import make_folder, replace_file
from dsd.evaluation import sections
from dsd.evaluation.page import Section, duration, percent, write_json, write_page
from dsd.evaluation.small_world import Answers, HeldOut
from dsd.studies.plan import EQUAL_COMPUTE, EQUAL_STEPS, MARKS
from dsd.studies.plots import Line, dots, lines, standalone
from dsd.studies.results import Results
from dsd.studies.sheet import write_sheet
from dsd.studies.tables import Column, Table, millions, three_digits, two_decimals

TITLE = "Which way of conditioning keeps a character?"
_MARK_NAMES = {EQUAL_STEPS: "equal steps", EQUAL_COMPUTE: "equal compute"}
_BASE_NAMES = {"text_only": "text alone", "copy": "reference copied", "ceiling": "true picture"}
_SMOOTHED = 25  # steps whose mean a point of the training curve is


@dataclass(frozen=True, kw_only=True)
class Report:
    """What the report is made of.

    Attributes:
        results: of all cells.
        flux: rows of the table for FLUX.1-dev.
        facts: arguments, plan, seconds and the like.
        cases: the held-out characters.
        answers: of the first seed at equal compute by backend, and of what is not trained.
    """

    results: Results
    flux: Sequence[Mapping[str, Any]]
    facts: Mapping[str, Any]
    cases: Sequence[HeldOut]
    answers: Mapping[str, Answers]

    def tables(self) -> dict[str, Table]:
        """All tables by the name of their file."""
        rows = self.results.scores()
        named = [{**row, "name": _BASE_NAMES[row["backend"]]} for row in self.results.base_rows()]
        rows = [{**row, "name": f"{row['backend']}, {_MARK_NAMES[row['mark']]}"} for row in rows] + named
        return {
            "scores": Table(
                title="How well each does",
                text=(
                    "Each backend is judged twice in one training: after as many steps as all others, and "
                    "when it has used as much compute as the dearest one. Identity and scene count together: "
                    "a copy has all of one and nothing of the other. Intervals are 95\N{NO-BREAK SPACE}%, "
                    "over references and seeds; bold is the best of the column."
                ),
                columns=_score_columns(self.results.backends[0]),
                rows=rows,
                num_beside=len(named),
            ),
            "costs": Table(
                title="What each costs",
                text=(
                    f"A batch is {self.facts['arguments']['batch_size']} pairs. TFLOP are counted on the "
                    "meta device; the formula leaves out embedders and modulation. Memory is that of the "
                    "live tensors in a training step. The quality to be reached is a loss of "
                    f"{self.results.quality():.4f} on held-out pairs, the best of the backend that is worst "
                    "at it."
                ),
                columns=_COST_COLUMNS,
                rows=self.results.costs(),
            ),
            "flux": Table(
                title="The same backends on FLUX.1-dev",
                text=(
                    "One frame of 512 x 512 px and 512 text tokens, counted on the meta device and by "
                    "formula. Nothing was trained here."
                ),
                columns=_FLUX_COLUMNS,
                rows=self.flux,
            ),
        }

    def drawings(self) -> dict[str, tuple[str, Markup]]:
        """All drawings by the name of their file, with their captions."""
        results, found = self.results, {}
        base = {row["backend"]: row for row in results.base_rows()}
        for score, title in _DRAWN_SCORES.items():
            rows = [
                (
                    name,
                    {
                        _MARK_NAMES[row["mark"]]: (row[score], row[f"{score}_low"], row[f"{score}_high"])
                        for row in results.scores()
                        if row["backend"] == name
                    },
                )
                for name in results.backends
            ]
            rules = {_BASE_NAMES[key]: base[key][score] for key in ("text_only", "ceiling") if key in base}
            found[score] = (
                f"{title}, with 95\N{NO-BREAK SPACE}% intervals.",
                dots(rows, title, description=f"{title} of each backend", rules=rules),
            )
        found["validation"] = (
            "Loss on held-out pairs, target frame, by steps; mean over seeds.",
            lines(
                [Line(name=name, points=results.validation(name)) for name in results.backends],
                "step",
                "loss on held-out pairs",
                description="Loss on held-out pairs by steps",
            ),
        )
        found["validation_compute"] = (
            "The same by compute.",
            lines(
                [
                    Line(
                        name=name,
                        points=[
                            (step * results.probes[name].step_tflop, x)
                            for step, x in results.validation(name)
                        ],
                    )
                    for name in results.backends
                ],
                "TFLOP of training",
                "loss on held-out pairs",
                description="Loss on held-out pairs by compute",
            ),
        )
        found["training"] = (
            f"Loss in training, mean of {_SMOOTHED} steps and all seeds. Strong: the target's frame, which "
            "is what compares. Dashed: other frames of the canvas.",
            lines(
                [line for name in results.backends for line in _training_lines(results, name)],
                "step",
                "loss in training",
                description="Loss in training by steps",
            ),
        )
        return found

    def write(self, folder: Path) -> Path:
        """Write the report in all its forms; returns the page."""
        make_folder(folder / "plots")
        tables, drawings = self.tables(), self.drawings()
        for name, table in tables.items():
            table.write_csv(folder / f"{name}.csv")
        seeds = Table(title="", columns=(), rows=self.results.by_seed())
        seeds.write_csv(folder / "seeds.csv")
        for name, (_, drawing) in drawings.items():
            replace_file(folder / "plots" / f"{name}.svg", standalone(drawing).encode())
        write_sheet(folder / "answers.png", self.cases, self.answers)
        write_json(
            folder / "report.json",
            {**self.facts, **{name: [*table.rows] for name, table in tables.items()}},
        )
        replace_file(folder / "report.md", self.markdown(tables, drawings).encode())
        return write_page(folder / "report.html", TITLE, self.sections(tables, drawings), self.subtitle())

    def subtitle(self) -> str:
        """One line for the page's head."""
        count, seeds = len(self.results.backends), self.facts["seeds"]
        spent = duration(self.facts["seconds"])
        of = f"{count} backends, {seeds} seed{'s' * (seeds != 1)}, the same pairs"
        return f"{of}: {spent} on {self.facts['cpu_count']} cores"

    def sections(
        self, tables: Mapping[str, Table], drawings: Mapping[str, tuple[str, Markup]]
    ) -> list[Section]:
        """The page from top to bottom."""
        scored = [drawings[name] for name in _DRAWN_SCORES]
        curves = [drawing for name, drawing in drawings.items() if name not in _DRAWN_SCORES]
        rows = [
            (case, [(_BASE_NAMES.get(name, name), drawn[i]) for name, drawn in self.answers.items()])
            for i, case in enumerate(self.cases[:8])
        ]
        return [
            sections.tiles(self._tiles()),
            tables["scores"].section(),
            Section(template="drawings", title="The scores drawn", data={"drawings": scored}),
            Section(
                template="beside",
                title="The same references by all",
                text="First seed, equal compute, the same noise: the first characters, as they came.",
                data={"cases": rows},
            ),
            tables["costs"].section(),
            Section(template="drawings", title="How they learned", data={"drawings": curves}),
            tables["flux"].section(),
            sections.making(self._rows_of_making(), {**self.facts["arguments"], **self.facts["plan"]}),
        ]

    def markdown(self, tables: Mapping[str, Table], drawings: Mapping[str, tuple[str, Markup]]) -> str:
        """The report as Markdown, with the drawings as files beside it."""
        parts = [f"# {TITLE}", self.subtitle()]
        for table in tables.values():
            parts += [f"## {table.title}", table.text, table.markdown()]
        parts += ["## Drawings", *(f"![{text}](plots/{name}.svg)" for name, (text, _) in drawings.items())]
        parts += ["## The same references by all", "![References and answers](answers.png)"]
        return "\n\n".join(parts) + "\n"

    def _tiles(self) -> list[tuple[str, str, str]]:
        steps, compute = (self.results.best(mark) for mark in MARKS)
        first = self.results.backends[0]
        return [
            (compute["backend"], "best product at equal compute", two_decimals(compute["product"])),
            (steps["backend"], "best product at equal steps", two_decimals(steps["product"])),
            (_rank(self.results, first), f"place of {first} at equal compute", "by product"),
            (
                percent(max(row["copy"] for row in self.results.scores())),
                "most copies by any backend",
                "answers that are the reference itself",
            ),
        ]

    def _rows_of_making(self) -> list[dict[str, Any]]:
        return [
            {
                "name": f"{name}, seed {cell['spec']['seed']}",
                "rows": self.results.marks[name][EQUAL_COMPUTE],
                "seconds": sum(cell["seconds"].values()),
                "spec": cell["spec"],
                "counts": {},
            }
            for name in self.results.backends
            for cell in self.results.cells[name]
        ]


def _rank(results: Results, name: str) -> str:
    rows = [row for row in results.scores() if row["mark"] == EQUAL_COMPUTE]
    ordered = [row["backend"] for row in sorted(rows, key=lambda row: -row["product"])]
    return f"{ordered.index(name) + 1} of {len(ordered)}"


def _training_lines(results: Results, name: str) -> list[Line]:
    found = []
    for frame in results.records[name][0]["frames"]:
        losses = np.mean([record["frames"][frame] for record in results.records[name]], axis=0)
        width = max(1, min(_SMOOTHED, len(losses) // 4))
        mean = np.convolve(losses, np.ones(width) / width, mode="valid")
        points = [(float(i + width // 2 + 1), float(x)) for i, x in enumerate(mean)]
        found.append(Line(name=name, points=points[:: max(1, len(points) // 300)], dashed=frame != "target"))
    return found


_DRAWN_SCORES = {
    "product": "Product of identity and scene",
    "identity": "Identity, measured",
    "identity_encoder": "Identity by the encoder",
    "scene": "Share in the scene asked for",
    "copy": "Share of copies",
}


def _score_columns(first: str) -> list[Column]:
    return [
        Column(key="name", title="Backend"),
        Column(key="step", title="Steps", show=str),
        Column(key="tflop", title="TFLOP", show=three_digits),
        Column(key="identity", title="Identity", note="measured", show=two_decimals, best="max"),
        Column(key="identity_encoder", title="Identity", note="by encoder", show=two_decimals, best="max"),
        Column(key="scene", title="Scene", note="as asked", show=two_decimals, best="max"),
        Column(key="product", title="Product", note="identity x scene", show=two_decimals, best="max"),
        Column(key="ahead", title=f"Ahead of {first}", note="in product", show=_signed),
        Column(key="copy", title="Copies", show=percent, best="min"),
        Column(key="validation_loss", title="Loss", note="held-out pairs", show=_four_decimals, best="min"),
    ]


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "\N{MINUS SIGN}")


def _four_decimals(value: float) -> str:
    return f"{value:.4f}"


_COST_COLUMNS = [
    Column(key="backend", title="Backend"),
    Column(key="trained", title="Trained"),
    Column(key="trained_parameters", title="Trained", note="parameters", show=millions),
    Column(key="added_parameters", title="Added", note="parameters", show=millions),
    Column(key="num_tokens", title="Tokens", show=str),
    Column(key="step_tflop", title="TFLOP a step", note="counted", show=three_digits, best="min"),
    Column(key="forward_tflop", title="Forward", note="TFLOP, counted", show=three_digits),
    Column(key="formula_tflop", title="Forward", note="TFLOP, by formula", show=three_digits),
    Column(key="step_s", title="Seconds a step", show=three_digits, best="min"),
    Column(key="peak_mib", title="Peak memory", note="MiB", show=three_digits, best="min"),
    Column(key="steps_to_quality", title="To the quality", note="steps", show=str, best="min"),
    Column(key="seconds_to_quality", title="To the quality", note="time", show=duration, best="min"),
    Column(key="tflop_to_quality", title="To the quality", note="TFLOP", show=three_digits, best="min"),
]
_FLUX_COLUMNS = [
    Column(key="backend", title="Backend"),
    Column(key="added_parameters", title="Added", note="parameters", show=millions, best="min"),
    Column(key="num_tokens", title="Tokens", show=str),
    Column(key="forward_tflop", title="Forward", note="TFLOP, counted", show=three_digits, best="min"),
    Column(key="formula_tflop", title="Forward", note="TFLOP, by formula", show=three_digits, best="min"),
    Column(key="step_tflop", title="Training step", note="TFLOP, whole denoiser trained", show=three_digits),
    Column(key="relative", title="Forward", note="relative to the cheapest", show=two_decimals),
]
