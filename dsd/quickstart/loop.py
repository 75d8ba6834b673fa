"""The steps of the quickstart, one after the other; each is skipped or resumed when it was done before."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

import dsd
from dsd import curators, teachers
from dsd.data.atomic import discard_folder, lock, make_folder, replace_file
from dsd.data.store import Run
from dsd.evaluation.curation import Consistency, consistency
from dsd.evaluation.page import duration, percent, write_json
from dsd.evaluation.rows import Rows, load_rows, save_rows
from dsd.quickstart.recipe import Recipe
from dsd.quickstart.state import State
from dsd.quiet import quiet_loading

_WRITING_S = 8.0  # to load the student and to write the report
_LEAST_SHARE = 0.15  # of the time for training, however long the rest took
_FRAME = (64, 64)


class Loop:
    """One folder, and the way through it.

    Args:
        out: the folder.
        minutes: how long everything is to take.
        seed: of everything.
        recipe: the numbers.
    """

    def __init__(self, out: Path, minutes: float, seed: int, recipe: Recipe) -> None:
        self.out, self.minutes, self.seed, self.recipe = out, minutes, seed, recipe
        self.run = Run(out)
        self.state = State(out, {"minutes": minutes, "seed": seed, "recipe": asdict(recipe)})
        self.console = Console(stderr=True, highlight=False)

    def run_all(self) -> dict[str, Any]:
        """Do what is missing; returns what `report.json` holds."""
        what = f"{escape(str(self.out))}: about {self.minutes:g} minutes, seed {self.seed}"
        self.console.print(
            f"[bold]dsd quickstart[/] in {what}. Stop it when you like; the same command goes on.",
            soft_wrap=True,
        )
        checkpoints = self.out / "checkpoints"
        make_folder(checkpoints)
        with quiet_loading(), lock(checkpoints, "dsd quickstart"):  # the stages lock the run for themselves
            return self.run_steps()

    def run_steps(self) -> dict[str, Any]:
        """The steps in their order."""
        seed = self.seed
        self.make_data()
        measured = self.measure_pairs()
        from dsd.evaluation import small_world

        cases = small_world.held_out(self.recipe.num_references(self.minutes), seed=seed)
        num_pictures = sum(len(case.scenes) for case in cases)
        answers = {"text_only": self.kept("text_only", cases, lambda: self.draw_text_only(cases))}
        answers["untrained"] = self.kept("untrained", cases, lambda: self.draw(cases, self.untrained_pipe()))
        history = self.train(num_pictures)
        answers["student"] = self.kept("student", cases, lambda: self.draw(cases, self.trained_pipe()))
        with self.state.step("evaluation", anew=True):
            result = small_world.evaluate_methods(
                cases, answers, self.recipe.extractor, workers=self.recipe.workers, progress="measure"
            )
        self.say("evaluation", f"{num_pictures} pictures by each of {len(result.methods)} methods measured")
        facts = {
            **self.facts(measured, history),
            "references": len(cases),
            "methods": {name: found.to_json() for name, found in result.methods.items()},
            "gap_closed": result.gap_closed,
            "gap_closed_interval": result.gap_interval,
        }
        from dsd.evaluation.sheet import write_answers
        from dsd.quickstart.page import write_report

        page = write_report(
            self.run,
            curator=self.curator,
            facts=facts,
            cases=cases,
            answers=answers,
            result=result,
            measured=measured,
            losses=history["losses"],
        )
        write_answers(self.out / "answers.png", cases, answers["student"])
        write_json(self.out / "report.json", facts)
        self.show(facts)
        self.console.print(f"[bold]The report:[/] {escape(str(page.resolve()))}", soft_wrap=True)
        return facts

    @cached_property
    def teacher(self) -> teachers.Teacher:
        """The base, which loads itself when it draws."""
        spec = {
            "name": "diffusers",
            "model": self.recipe.base,
            "panel_size": _FRAME[0],
            **self.recipe.teacher,
        }
        return teachers.create(spec)

    @cached_property
    def student(self) -> Any:
        """A student as it is before training; made only if it is needed."""
        settings = {"frame_size": _FRAME, "seed": self.seed, **self.recipe.student}
        return dsd.Student(
            base=self.recipe.student_base,
            conditioning=self.recipe.conditioning,
            lr=self.recipe.lr,
            **settings,
        )

    @cached_property
    def curator(self) -> str:
        """The name of the verdicts."""
        name = (
            self.recipe.curator if isinstance(self.recipe.curator, str) else str(self.recipe.curator["name"])
        )
        return name.rpartition(":")[2]

    def make_data(self) -> None:
        """Prompts, grids, pairs, verdicts, encodings."""
        recipe, run, seed, step = self.recipe, self.run, self.seed, self.state.step
        with step("prompts"):
            done = dsd.write_prompts(run, writer="template", count=recipe.num_grids(self.minutes), seed=seed)
        self.say("prompts", f"{done.rows} written from word lists")
        with step("grids"):
            done = dsd.draw_grids(run, teacher=self.teacher, seed=seed)
        self.say("grids", f"{done.rows} drawn by {recipe.base}")
        with step("pairs"):
            done = dsd.make_pairs(run)
        self.say("pairs", f"{done.rows} cut from the grids")
        with step("curation"):
            done = dsd.curate(run, curator=curators.create(recipe.curator), name=self.curator)
        kept = len(run.accepted(self.curator))
        self.say("curation", f"{kept} of {done.rows} pairs kept by {self.curator}")
        if kept < recipe.batch_size:
            raise ValueError(
                f"The curator {self.curator!r} kept {kept} of {done.rows} pairs; training needs at least "
                f"{recipe.batch_size}, one batch. `dsd report --run {self.out}` shows what it dropped, and "
                "why. Then begin in another folder, with more minutes (more grids) or with a Recipe whose "
                "curator is less strict."
            )
        with step("encoding"):
            done = dsd.encode(
                run,
                backbone=recipe.student_base,
                conditioning=recipe.conditioning,
                policy=self.curator,
                batch_size=32,
            )
        self.say("encoding", f"{done.rows} pairs encoded")

    def measure_pairs(self) -> Consistency:
        """Does curation earn its keep? Measured once."""
        path = self.out / "consistency.json"
        if path.is_file():
            return Consistency(**json.loads(path.read_text()))
        with self.state.step("measuring"):
            accepted = set(self.run.accepted(self.curator))
            kept = [pair_id in accepted for pair_id in self.run.pairs.ids()]
            found = consistency(self.run.pairs, kept, workers=self.recipe.workers, progress="measure")
            replace_file(path, (json.dumps(found.to_json()) + "\n").encode())
        before, after = percent(found.before), percent(found.after)
        self.say("measuring", f"{before} of the pairs consistent, {after} of the kept ones")
        return found

    def untrained_pipe(self) -> Any:
        """The student at installation."""
        from dsd.pipeline import DSDPipeline

        return DSDPipeline(self.student.backbone, self.student.conditioning, _FRAME)

    def trained_pipe(self) -> Any:
        """The student that was saved."""
        from dsd.pipeline import DSDPipeline

        return DSDPipeline.from_pretrained(self.out / "student", local_files_only=True)

    def draw(self, cases: Any, pipe: Any) -> Rows:
        """What a pipeline answers."""
        from dsd.evaluation.small_world import student_answers

        return student_answers(cases, pipe, seed=self.seed, progress="answers", **self.recipe.sampling)

    def draw_text_only(self, cases: Any) -> Rows:
        """What the teacher draws without the references."""
        from dsd.evaluation.small_world import text_only_answers

        return text_only_answers(cases, self.teacher, seed=self.seed, progress="answers")

    def kept(self, name: str, cases: Sequence[Any], draw: Callable[[], Rows]) -> Rows:
        """What a method drew; kept as a picture, so that it is drawn once."""
        path = self.out / "answers" / f"{name}.png"
        if not path.is_file():
            with self.state.step(name):
                save_rows(draw(), path)
        answers = load_rows(path, rows=len(cases), columns=len(cases[0].scenes))
        self.say(name, f"{sum(map(len, answers))} pictures drawn")
        return answers

    def train(self, num_pictures: int) -> dict[str, Any]:
        """Train for the time that is left, or go on; returns seconds, steps and losses."""
        finished, record = self.out / "student", self.out / "training.json"
        if not finished.is_dir():
            from dsd.precision import fast_precision
            from dsd.quickstart.clock import fit_for

            if self.state.train_s is None:
                self.state.train_s = self.time_left(num_pictures)
                self.state.save()
            recipe = self.recipe
            precision = fast_precision() if recipe.precision == "auto" else recipe.precision
            with self.state.step("training"):
                data = dsd.PairDataModule(
                    self.run, batch_size=recipe.batch_size, curator=self.curator, encoded=True, seed=self.seed
                )
                history = fit_for(
                    self.state.train_s,
                    self.student,
                    data,
                    self.out / "checkpoints",
                    precision=precision,
                    warmup_share=recipe.warmup_share,
                    last_lr_share=recipe.last_lr_share,
                    checkpoint_s=recipe.checkpoint_s,
                )
                history |= {"precision": str(precision)}
                replace_file(record, (json.dumps(history) + "\n").encode())
                part = self.out / "student.part"
                discard_folder(part)
                self.student.save_pretrained(part)
                (self.out / "answers" / "student.png").unlink(missing_ok=True)  # of another student
                part.rename(finished)
            self.say(
                "training", f"{len(history['losses'])} steps of {recipe.batch_size} pairs; student saved"
            )
        found: dict[str, Any] = json.loads(record.read_text())
        return found

    def time_left(self, num_pictures: int) -> float:
        """Seconds for training: what is left when the rest takes as long as its like has taken so far."""
        seconds, total = self.state.seconds, 60 * self.minutes
        a_panel = seconds.get("measuring", 0.0) / (4 * max(1, len(self.run.grids)))
        rest = 1.15 * (seconds.get("untrained", 0.0) + a_panel * 4 * num_pictures) + _WRITING_S
        return max(_LEAST_SHARE * total, total - sum(seconds.values()) - rest)

    def facts(self, measured: Consistency, history: Mapping[str, Any]) -> dict[str, Any]:
        """What `report.json` holds beside the scores."""
        return {
            "seconds": sum(self.state.seconds.values()),
            "grids": len(self.run.grids),
            "pairs": len(self.run.pairs),
            "kept": len(self.run.accepted(self.curator)),
            "consistent_before": measured.before,
            "consistent_after": measured.after,
            "curator": {"name": self.curator, "precision": measured.after, "recall": measured.recall},
            "teacher": {
                "grids_consistent": measured.grids_consistent / max(1, measured.grids),
                "scene": measured.panels_in_scene / max(1, measured.panels),
            },
            "training": {
                "steps": len(history["losses"]),
                **{key: history[key] for key in ("seconds", "precision")},
            },
            "seconds_by_step": dict(self.state.seconds),
            "arguments": self.state.arguments,
            "cpu_count": os.cpu_count(),
        }

    def show(self, facts: Mapping[str, Any]) -> None:
        """The scores as a table."""
        table = Table(box=box.SIMPLE, title=f"{facts['references']} characters that nothing was trained on")
        for title in ("", "identity", "by encoder", "scene", "product"):
            table.add_column(title, justify="right" if title else "left")
        scored = ("identity", "identity_encoder", "scene", "product")
        for name, scores in facts["methods"].items():
            style = "bold green" if name == "student" else None
            table.add_row(name, *(f"{scores[score]:.2f}" for score in scored), style=style)
        self.console.print(table)
        closed = percent(facts["gap_closed"])
        self.console.print(f"The student closes {closed} of the gap in identity from text_only to ceiling.")

    def say(self, name: str, text: str) -> None:
        """One line for one step."""
        took = duration(self.state.seconds.get(name, 0.0))
        self.console.print(
            f"[bold green]✓[/] [bold]{name:<10}[/] {escape(text)} [dim]({took})[/]", soft_wrap=True
        )
