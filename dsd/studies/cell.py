"""One cell of the comparison of architectures: train, draw, score."""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from dsd.data.datamodule import PairDataModule
from dsd.evaluation.rows import load_rows, save_rows
from dsd.evaluation.small_world import HeldOut
from dsd.student import Student
from dsd.studies.answers import FRAME, draw, score
from dsd.studies.folder import Cell
from dsd.studies.training import CHECKPOINT, RECORD, Recorder, snapshot, train


def run_cell(
    cell: Cell,
    data: PairDataModule,
    cases: Sequence[HeldOut],
    asked: Mapping[str, Any],
    plan: Mapping[str, Any],
    *,
    extractor: Any,
    workers: int,
    checkpoint_s: float,
    progress: str | None,
) -> dict[str, Any]:
    """Do a cell, or what is left of it; returns its manifest.

    Args:
        cell: what to do, and where.
        data: its pairs.
        cases: the held-out characters.
        asked: the study's arguments.
        plan: what the study planned.
        extractor: the identity encoder.
        workers: processes that measure pictures.
        checkpoint_s: seconds between checkpoints.
        progress: name of the progress bars on stderr; None for none.
    """
    folder, seed = cell.begin(), cell.spec["seed"]
    steps = sorted(set(cell.spec["marks"].values()))
    missing = [step for step in steps if not answers_file(cell, step).is_file()]
    seconds = {"draw": 0.0, "measure": 0.0}
    if missing:
        student = Student(
            base=asked["base"],
            conditioning=cell.spec["backend"],
            lr=cell.spec["lr"],
            warmup_steps=plan["warmup_steps"],
            ema_decay=asked["ema_decay"],
            guidance=asked["sampling"]["guidance_scale"],
            time_sampling=asked["time_sampling"],
            text_dropout=asked["dropout"],
            reference_dropout=asked["dropout"],
            frame_size=FRAME,
            seed=seed,
            **cell.spec["student"],
        )
        if not (folder / RECORD).is_file():
            recorder = Recorder(
                folder,
                steps,
                _validation(data, asked),
                validate_every=plan["validate_every"],
                seed=seed,
                checkpoint_s=checkpoint_s,
                progress=progress,
            )
            train(student, data, recorder, precision=plan["precision"])
        started = time.monotonic()
        for step in missing:
            student.load_state_dict(load_file(snapshot(folder, step)))
            drawn = draw(student, cases, seed=seed, progress=progress, **asked["sampling"])
            save_rows(drawn, answers_file(cell, step))
        seconds["draw"] = time.monotonic() - started
    started = time.monotonic()
    shape = len(cases), len(cases[0].scenes)
    answers = {str(step): load_rows(answers_file(cell, step), *shape) for step in steps}
    scores = score(cases, answers, extractor, workers=workers, progress=progress)
    seconds["measure"] = time.monotonic() - started
    record = read_record(cell)
    return cell.finish({"scores": scores, "seconds": {"train": sum(record["seconds"]), **seconds}})


def tidy(cell: Cell) -> None:
    """Remove what a finished cell needs no more: its checkpoint and its snapshots."""
    for file in (cell.path / CHECKPOINT, *cell.path.glob("step-*.safetensors")):
        file.unlink(missing_ok=True)


def answers_file(cell: Cell, step: int) -> Path:
    """The picture with what a cell's student drew after a step."""
    return cell.path / f"answers-{step:06d}.png"


def read_record(cell: Cell) -> dict[str, Any]:
    """What was written down of a cell's training."""
    record: dict[str, Any] = json.loads((cell.path / RECORD).read_text())
    return record


def _validation(data: PairDataModule, asked: Mapping[str, Any]) -> list[Any]:
    ids, size = data.val_ids[: asked["validation_pairs"]], asked["batch_size"]
    encoded = data.encoded
    assert encoded is not None
    return [encoded.batch(ids[i : i + size]) for i in range(0, len(ids), size)]
