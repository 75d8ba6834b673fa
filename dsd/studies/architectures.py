"""Which way of conditioning keeps a character best, at equal steps and at equal compute?"""

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from dsd import conditioning as conditionings
from dsd.data.atomic import lock, make_folder, sweep_temporary
from dsd.data.store import Run
from dsd.quiet import quiet_loading
from dsd.studies.comparison import Comparison
from dsd.studies.folder import StudyFolder

TIME_SAMPLING = {"law": "logit_normal", "mean": 0.7, "std": 1.2}
BACKENDS = ("parallel", "concat", "token_concat", "controlnet", "ip_adapter")


def compare_architectures(
    run: str | PathLike[str] | Run,
    out: str | PathLike[str],
    base: str | Mapping[str, Any] = "mini",
    backends: str | Sequence[str | Mapping[str, Any]] = BACKENDS,
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
    extractor: Any = "mini",
    workers: int = 2,
    checkpoint_s: float = 30.0,
    progress: bool = True,
) -> dict[str, Any]:
    """Train each backend with each seed on a run's accepted pairs, judge all, and write the report.

    Called again for the same folder it goes on: finished cells stay as they are, and a cell that was stopped
    in its training goes on from its last checkpoint. More seeds can be added later. A script that calls this
    needs the usual `if __name__ == "__main__":`, because pictures are measured by processes that are started
    afresh.

    Args:
        run: a run of the small world with judged pairs, or its folder.
        out: the folder of the study.
        base: what all students start from: "mini", another FLUX model that knows the small world, or a spec.
        backends: names or specs of conditionings; names may be joined by commas. The others are compared with
            the first.
        seeds: how many trainings of each backend.
        minutes: how long everything is to take; the number of steps follows from it, once.
        steps: at the mark of equal steps, instead of what `minutes` allows.
        parameters: about how many each backend trains, see `dsd.studies.matching.matched`; as many as the
            base's denoiser has by default.
        policy: which pairs; see `Run.accepted`.
        references: held-out characters; fewer, in proportion, in less than an hour without `steps`.
        scenes: how many new scenes of each.
        batch_size: pairs a step.
        lr: learning rate, constant after the warm-up; or one for each backend by its name, and "others".
        warmup_steps: steps over which it rises; at most a fifth of the steps.
        ema_decay: of the average weights, which are judged.
        dropout: share of captions, and of references, that are hidden in training.
        num_inference_steps: steps of the sampler.
        guidance_scale: what a guidance-distilled denoiser is told, in training and drawing: 3.5, as the pairs
            were drawn.
        time_sampling: of the training, see `Student`; `TIME_SAMPLING` by default.
        validation_pairs: pairs whose loss is followed and that are not trained on, at most a tenth of all.
        precision: of the `Trainer`; "auto" for bfloat16 where this machine is faster at it than at float32.
        extractor: the identity encoder; see `dsd.extractors`.
        workers: processes that measure pictures.
        checkpoint_s: seconds between checkpoints of a training.
        progress: show progress bars and the table on stderr.

    Returns:
        what `report.json` holds.

    Raises:
        ValueError: if the folder was begun with other arguments, a number is out of range, or there are too
            few pairs.
        LookupError: if there is no such backend.
        LockedError: if another study goes on in the folder.
        RuntimeError: if a loss is not finite, or the pairs changed in between.
    """
    numbers = {"seeds": seeds, "references": references, "batch_size": batch_size, "warmup": warmup_steps}
    for name, value in {**numbers, "steps": steps, "validation_pairs": validation_pairs}.items():
        if value is not None and value < 1:
            raise ValueError(f"`{name}` must be at least 1; got {value}.")
    if not 0 < minutes < float("inf"):
        raise ValueError(f"`minutes` must be above 0; got {minutes}.")
    specs = backends.split(",") if isinstance(backends, str) else list(backends)
    run = run if isinstance(run, Run) else Run(run)
    arguments = {
        "run": str(run.path.resolve()),
        "base": {"name": "flux", "base": base, "max_text_tokens": 24} if isinstance(base, str) else base,
        "backends": [conditionings.spec(conditionings.create(spec)) for spec in specs],
        "minutes": minutes if steps is None else None,
        "steps": steps,
        "parameters": parameters,
        "policy": policy,
        "references": references,
        "scenes": scenes,
        "batch_size": batch_size,
        "lr": lr,
        "warmup_steps": warmup_steps,
        "ema_decay": ema_decay,
        "dropout": dropout,
        "sampling": {"num_inference_steps": num_inference_steps, "guidance_scale": guidance_scale},
        "time_sampling": TIME_SAMPLING if time_sampling is None else time_sampling,
        "validation_pairs": validation_pairs,
        "precision": precision,
        "extractor": extractor,
    }
    out = Path(out).expanduser()
    make_folder(out)
    with quiet_loading(), lock(out, "dsd study architectures"):
        sweep_temporary(out)
        study = Comparison(
            run,
            StudyFolder(out, "architectures", arguments),
            seeds=seeds,
            extractor=extractor,
            workers=workers,
            checkpoint_s=checkpoint_s,
            progress=progress,
        )
        return study.run_all()
