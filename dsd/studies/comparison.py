"""The comparison of architectures in its folder: what is done when, and what was done before is skipped."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from typing import Any

from rich.console import Console
from rich.markup import escape

import dsd
from dsd.data.manifest import ids_digest
from dsd.data.store import Run
from dsd.evaluation.page import duration
from dsd.evaluation.rows import load_rows, save_rows
from dsd.precision import fast_precision
from dsd.studies.cell import run_cell, tidy
from dsd.studies.folder import Cell, StudyFolder
from dsd.studies.plan import EQUAL_COMPUTE, Probe, marks, steps_for

_MARGIN = 0.95  # of the time is planned for
_BUILDING_S = 8.0  # to build a student and to load it again
_FULL_MINUTES = 60.0  # from how many minutes on all references are drawn
_VALIDATIONS = 8  # up to the mark of equal steps
_TEACHER = {"batch_size": 16, "dtype": "float32"}


class Comparison:
    """One folder, and the way through it; each step is skipped or resumed when it was done before.

    Args:
        run: where the pairs are.
        study: the folder, with its arguments.
        seeds: how many cells of each backend.
        extractor: the identity encoder.
        workers: processes that measure pictures.
        checkpoint_s: seconds between checkpoints.
        progress: show what is done.
    """

    def __init__(
        self,
        run: Run,
        study: StudyFolder,
        *,
        seeds: int,
        extractor: Any,
        workers: int,
        checkpoint_s: float,
        progress: bool,
    ) -> None:
        self.run, self.study, self.seeds, self.extractor = run, study, seeds, extractor
        self.workers, self.checkpoint_s, self.progress = workers, checkpoint_s, progress
        self.asked = study.arguments
        self.backends = {name_of(spec): spec for spec in self.asked["backends"]}
        if len(self.backends) != len(self.asked["backends"]):
            raise ValueError(f"A backend is given twice: {self.asked['backends']}. Give each once.")
        for name in self.backends:
            rate_of(self.asked["lr"], name)  # what is wrong shows now
        self.console = Console(stderr=True, highlight=False, quiet=not progress)
        self.started = time.monotonic()

    def run_all(self) -> dict[str, Any]:
        """Do what is missing; returns what `report.json` holds."""
        caches = self.encode()
        baseline = self.baseline()
        plan = self.planned(caches, baseline)
        names = list(self.backends)
        cells: dict[str, list[Cell]] = {name: [] for name in names}
        todo = [(name, seed) for seed in range(self.seeds) for name in names]
        for number, (name, seed) in enumerate(todo):
            cell = self.cell(name, seed, plan)
            cells[name].append(cell)
            if cell.manifest is None:
                self.do(cell, caches[name], plan, f"[{number + 1}/{len(todo)}] {name}, seed {seed}")
            tidy(cell)
        return self.report(cells, baseline, plan)

    @cached_property
    def cases(self) -> Any:
        """The held-out characters: the same for all cells."""
        from dsd.evaluation.small_world import held_out

        references, minutes = self.asked["references"], self.asked["minutes"]
        if minutes is not None:
            references = min(references, max(4, round(references * minutes / _FULL_MINUTES)))
        return held_out(references, self.asked["scenes"])

    def encode(self) -> dict[str, str]:
        """Cache what each backend reads; returns the names of the caches."""
        caches = {}
        for name, spec in self.backends.items():
            done = dsd.encode(
                self.run,
                backbone=self.asked["base"],
                conditioning=spec,
                policy=self.asked["policy"],
                batch_size=32,
                progress=self.progress,
            )
            caches[name] = done.stage.removeprefix("encoded/").removesuffix("/pairs")
        self.say(f"{done.rows} pairs encoded for {len(caches)} backends")
        return caches

    def data(self, cache: str, seed: int) -> Any:
        """The pairs of a cell: those of one seed are the same for all backends.

        Raises:
            ValueError: if there are too few.
        """
        pairs = len(self.run.accepted(self.asked["policy"]))
        data = dsd.PairDataModule(
            self.run,
            batch_size=self.asked["batch_size"],
            policy=self.asked["policy"],
            encoded=cache,
            seed=seed,
            val_fraction=min(0.1, 2 * self.asked["validation_pairs"] / max(pairs, 1)),
        )
        if not data.val_ids or len(data.train_ids) < self.asked["batch_size"]:
            raise ValueError(
                f"{self.run.path} has {pairs} accepted pairs: too few for batches of "
                f"{self.asked['batch_size']} and some to validate on. Draw more grids, or lower `batch_size`."
            )
        return data

    def baseline(self) -> dict[str, Any]:
        """Scores of what is not trained: text alone, the reference copied, the true pictures."""
        cell = self.study.cell("baseline", {"base": self.asked["base"], "cases": len(self.cases)})
        if (found := cell.manifest) is not None:
            return found
        from dsd import teachers
        from dsd.evaluation.small_world import text_only_answers
        from dsd.studies.answers import score

        folder, cases, base = cell.begin(), self.cases, self.asked["base"]["base"]
        drawn = folder / "text_only.png"
        if not drawn.is_file():
            spec = {"name": "diffusers", "model": base, "panel_size": 64}
            artist = teachers.create({**spec, **self.asked["sampling"], **_TEACHER})
            save_rows(text_only_answers(cases, artist, progress=self.bar("text alone")), drawn)
        answers = {
            "text_only": load_rows(drawn, len(cases), len(cases[0].scenes)),
            "copy": [[case.reference] * len(case.scenes) for case in cases],
            "ceiling": [list(case.truths) for case in cases],
        }
        started = time.monotonic()
        scores = score(cases, answers, self.extractor, workers=self.workers, progress=self.bar("measure"))
        pictures = sum(len(case.scenes) for case in cases)
        return cell.finish(
            {"scores": scores, "measure_s": (time.monotonic() - started) / (2 * pictures + len(cases))}
        )

    def planned(self, caches: Mapping[str, str], baseline: Mapping[str, Any]) -> dict[str, Any]:
        """What each backend costs, and when it is judged; made once."""
        digest = ids_digest(self.run.accepted(self.asked["policy"]))
        if (plan := self.study.plan) is not None:
            if plan["pairs"] != digest:
                raise ValueError(
                    f"The accepted pairs of {self.run.path} have changed since {self.study.path} was begun. "
                    "Give the run as it was, or another folder."
                )
            return plan
        from dsd.studies.probing import probe

        precision = self.asked["precision"]
        precision = fast_precision() if precision == "auto" else precision
        probes: dict[str, Probe] = {}
        for name, spec in self.backends.items():
            data = self.data(caches[name], 0)
            batch = data.encoded.batch(data.train_ids[: self.asked["batch_size"]])
            probes[name] = found = probe(
                self.asked["base"],
                spec,
                batch,
                self.cases,
                budget=self.asked["parameters"],
                precision=precision,
                sampling=self.asked["sampling"],
                ema_decay=self.asked["ema_decay"],
            )
            told = f"{found.step_tflop:.3g} TFLOP and {found.step_s:.2f} s a step, trained: {found.trained}"
            self.say(f"{name}: {told}")
        steps = self.asked["steps"]
        if steps is None:
            left = 60 * _MARGIN * self.asked["minutes"] - (time.monotonic() - self.started)
            steps = steps_for(left, probes, self.seeds, self._rest_s(probes, baseline["measure_s"]))
        return self.study.keep(
            {
                "pairs": digest,
                "precision": precision,
                "probes": {name: asdict(found) for name, found in probes.items()},
                "marks": marks(steps, {name: found.step_tflop for name, found in probes.items()}),
                "warmup_steps": min(self.asked["warmup_steps"], max(1, steps // 5)),
                "validate_every": max(1, steps // _VALIDATIONS),
            }
        )

    def _rest_s(self, probes: Mapping[str, Probe], measure_s: float) -> float:
        """Seconds for all that is not training."""
        pictures = sum(len(case.scenes) for case in self.cases)
        batches = -(-self.asked["validation_pairs"] // self.asked["batch_size"])
        dearest = max(probe.step_tflop for probe in probes.values())
        total = 0.0
        for probe in probes.values():
            longer = dearest / probe.step_tflop
            snapshots = 1 if round(longer, 2) == 1 else 2
            drawing = snapshots * pictures * (probe.picture_s + measure_s)
            total += _BUILDING_S + drawing + _VALIDATIONS * longer * batches * probe.step_s / 3
        return self.seeds * total

    def cell(self, name: str, seed: int, plan: Mapping[str, Any]) -> Cell:
        """The cell of a backend and a seed."""
        spec = {
            "backend": self.backends[name],
            "seed": seed,
            "marks": plan["marks"][name],
            "lr": rate_of(self.asked["lr"], name),
            "student": plan["probes"][name]["student"],
            "pairs": plan["pairs"],
            "cases": len(self.cases),
        }
        return self.study.cell(f"{name}-seed{seed}", spec)

    def do(self, cell: Cell, cache: str, plan: Mapping[str, Any], title: str) -> None:
        """Do one cell, or go on with it."""
        found = run_cell(
            cell,
            self.data(cache, cell.spec["seed"]),
            self.cases,
            self.asked,
            plan,
            extractor=self.extractor,
            workers=self.workers,
            checkpoint_s=self.checkpoint_s,
            progress=self.bar(title),
        )
        scores = found["scores"][str(cell.spec["marks"][EQUAL_COMPUTE])]
        product = sum(map(sum, scores["product"])) / sum(map(len, scores["product"]))
        took = duration(sum(found["seconds"].values()))
        self.say(f"{title}: product {product:.2f} at equal compute ({took})")

    def report(
        self, cells: Mapping[str, Sequence[Cell]], baseline: Mapping[str, Any], plan: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Write the report from the cells' files; returns what `report.json` holds."""
        from dsd.studies.gather import gathered

        report = gathered(self.study, cells, baseline, plan, self.cases)
        page = report.write(self.study.path)
        self.console.print(report.tables()["scores"].rich())
        self.console.print(report.tables()["costs"].rich())
        self.console.print(f"[bold]The report:[/] {escape(str(page.resolve()))}", soft_wrap=True)
        return {**report.facts, **{name: [*table.rows] for name, table in report.tables().items()}}

    def bar(self, name: str) -> str | None:
        """The name of a progress bar, if there are to be any."""
        return name if self.progress else None

    def say(self, text: str) -> None:
        """One line for one step."""
        self.console.print(f"[bold green]✓[/] {escape(text)}", soft_wrap=True)


def name_of(spec: Mapping[str, Any]) -> str:
    """What a backend is called: its name, with the arguments that it is given."""
    given = [f"{key}={value}" for key, value in spec.items() if key != "name"]
    return " ".join([str(spec["name"]).rpartition(":")[2], *given])


def rate_of(lr: float | Mapping[str, float], name: str) -> float:
    """The learning rate of a backend.

    Raises:
        ValueError: if there is none, or it is not above 0.
    """
    rate = lr.get(name, lr.get("others")) if isinstance(lr, Mapping) else lr
    if rate is None or not rate > 0:
        raise ValueError(
            f"`lr` gives the backend {name!r} {rate!r}. Give a number above 0, or one for each backend by "
            'its name and "others".'
        )
    return float(rate)
