"""Studies from the command line."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal


def study(
    question: Literal["architectures"],
    run: str,
    out: str,
    base: str | Mapping[str, Any] = "mini",
    backends: str | Sequence[Any] = "parallel,concat,token_concat,controlnet,ip_adapter",
    seeds: int = 3,
    minutes: float = 135.0,
    steps: int | None = None,
    parameters: int | None = None,
    policy: str | Mapping[str, Any] | None = None,
    references: int = 32,
    scenes: int = 4,
    batch_size: int = 32,
    lr: float | Mapping[str, float] = 3e-4,
    warmup_steps: int = 20,
    ema_decay: float = 0.99,
    dropout: float = 0.05,
    num_inference_steps: int = 20,
    guidance_scale: float = 3.5,
    time_sampling: Mapping[str, Any] | None = None,
    validation_pairs: int = 64,
    precision: str = "auto",
    workers: int = 2,
    checkpoint_s: float = 30.0,
    progress: bool = True,
) -> str:
    """Answer a question by training and judging many students of the small world.

    `architectures`: which way of conditioning keeps a character best, at equal steps and at equal compute?
    Writes `report.html`, `report.md`, CSV files and drawings; stopped at any moment, the same command goes
    on.

    Args:
        question: which study: architectures.
        run: a run of the small world with judged pairs.
        out: the folder of the study.
        base: what all students start from: "mini", a folder or a spec.
        backends: conditionings to compare with the first of them: names joined by commas, or a list of names
            and specs.
        seeds: trainings of each backend; more can be added later.
        minutes: how long everything is to take; the number of steps follows from it.
        steps: at the mark of equal steps, instead of what `minutes` allows.
        parameters: about how many each backend trains; as many as the base's denoiser has by default.
        policy: which pairs to train on: the name of a curator, or a policy.
        references: held-out characters; fewer in less than an hour.
        scenes: how many new scenes of each.
        batch_size: pairs a step.
        lr: learning rate, constant after the warm-up; or one for each backend by its name, and "others".
        warmup_steps: steps over which it rises.
        ema_decay: of the average weights, which are judged.
        dropout: share of captions, and of references, that are hidden in training.
        num_inference_steps: steps of the sampler.
        guidance_scale: what a guidance-distilled denoiser is told, in training and drawing.
        time_sampling: of the training, such as `{law: uniform}`; logit-normal around 0.67 by default.
        validation_pairs: pairs whose loss is followed.
        precision: of training, such as "32-true"; "auto" for the faster one on this machine.
        workers: processes that measure pictures.
        checkpoint_s: seconds between checkpoints of a training.
        progress: show progress bars and the tables on stderr.

    Raises:
        ValueError: if the folder was begun with other arguments, or a number is out of range.
    """
    from dsd.studies import compare_architectures

    compare_architectures(
        run,
        out,
        base=base,
        backends=backends,
        seeds=seeds,
        minutes=minutes,
        steps=steps,
        parameters=parameters,
        policy=policy,
        references=references,
        scenes=scenes,
        batch_size=batch_size,
        lr=lr,
        warmup_steps=warmup_steps,
        ema_decay=ema_decay,
        dropout=dropout,
        num_inference_steps=num_inference_steps,
        guidance_scale=guidance_scale,
        time_sampling=time_sampling,
        validation_pairs=validation_pairs,
        precision=precision,
        workers=workers,
        checkpoint_s=checkpoint_s,
        progress=progress,
    )
    return str(Path(out).expanduser() / "report.html")
