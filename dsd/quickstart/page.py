"""The quickstart's report: `report.html`, put together from the sections that all reports share."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dsd.data.store import Run
from dsd.evaluation import sections
from dsd.evaluation.curation import Consistency
from dsd.evaluation.page import Section, duration, percent, write_page
from dsd.evaluation.small_world import Answers, Evaluation, HeldOut

_STORY = (
    "A small text-to-image model drew grids: one character, four scenes. Their panels became pairs, a "
    "curator dropped those that do not look like one character, and the same model was trained on the rest "
    "to redraw a character from one picture. Then it met characters that nothing was ever trained on. Here "
    "is the first."
)


def write_report(
    run: Run,
    *,
    curator: str,
    facts: Mapping[str, Any],
    cases: Sequence[HeldOut],
    answers: Mapping[str, Answers],
    result: Evaluation,
    measured: Consistency,
    losses: Sequence[float],
) -> Path:
    """Write `report.html` into the run's folder.

    Args:
        run: where it goes, and whose data it shows.
        curator: the name of the verdicts that were trained on.
        facts: what `report.json` holds.
        cases: the held-out characters.
        answers: of `student`, `text_only` and `untrained`.
        result: their scores.
        measured: what measurement says of the pairs.
        losses: of every step of the training.
    """
    arguments, training = facts["arguments"], facts["training"]
    spent = f"{duration(facts['seconds'])} on {facts['cpu_count']} cores"
    steps = [
        *sections.run_steps(run),
        ("training steps", training["steps"], f"of {arguments['recipe']['batch_size']} pairs"),
        ("new characters", len(cases), f"in {len(cases[0].scenes)} scenes each"),
    ]
    parts = [
        sections.hero(cases[0], answers["student"][0], _STORY),
        sections.tiles(_tiles(facts, result, spent)),
        sections.flow(steps),
        sections.gallery(cases, answers["student"], result),
        sections.methods(result, cases, answers),
        sections.grids(run),
        sections.pairs(run, curator, samples=8, measured=measured),
        _curve(training, losses),
        sections.making(_stages(run, facts, len(cases)), arguments),
    ]
    subtitle = f"Diffusion Self-Distillation in the embedded small world: from nothing in {spent}"
    return write_page(
        Path(str(run.path)) / "report.html", "A model teaches itself to keep a character", parts, subtitle
    )


def _tiles(facts: Mapping[str, Any], result: Evaluation, spent: str) -> list[tuple[str, str, str]]:
    student = result.methods["student"]
    pictures = sum(len(row) for row in student.pictures["scene"])
    closed = percent(result.gap_closed)
    before, after = percent(facts["consistent_before"]), percent(facts["consistent_after"])
    none, all_of_it = percent(0.0), percent(1.0)
    return [
        (
            closed,
            "of the gap in identity closed",
            f"from text alone ({none}) to the true character ({all_of_it})",
        ),
        (
            percent(student.scene),
            "drawn in the scene asked for",
            f"of {pictures} pictures of characters never seen",
        ),
        (f"{before.split()[0]} → {after}", "consistent pairs", "before and after curation, by measurement"),
        (duration(facts["seconds"]), "for everything", spent.partition(" on ")[2]),
    ]


def _curve(training: Mapping[str, Any], losses: Sequence[float]) -> Section:
    took = f"{training['steps']} steps in {duration(training['seconds'])}"
    text = f"{took}. Faint: the loss of each step; strong: its running mean."
    return sections.loss_curve(range(1, len(losses) + 1), losses, text)


def _stages(run: Run, facts: Mapping[str, Any], num_cases: int) -> list[dict[str, Any]]:
    """The run's stages, and what the quickstart did beside them."""
    recipe, seconds = facts["arguments"]["recipe"], facts["seconds_by_step"]
    training = {
        "base": recipe["base"],
        "conditioning": recipe["conditioning"],
        **{key: recipe[key] for key in ("lr", "batch_size")},
        "precision": facts["training"]["precision"],
        **recipe["student"],
    }
    others = [
        ("Training", facts["training"]["steps"], "training", training),
        ("Answers: text only", num_cases, "text_only", {}),
        ("Answers: untrained", num_cases, "untrained", recipe["sampling"]),
        ("Answers: student", num_cases, "student", recipe["sampling"]),
        ("Measuring and scores", num_cases, "evaluation", {}),
    ]
    return sections.stage_rows(run) + [
        {"name": name, "rows": rows, "seconds": seconds.get(step, 0.0), "spec": spec, "counts": {}}
        for name, rows, step, spec in others
    ]
