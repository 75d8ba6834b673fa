"""Studies from the command line."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

_SHARED = frozenset({"question", "out", "progress"})
_OF_BOTH = frozenset({"columns", "images", "retry_failed", "resamples", "seed"})
_OF_CURATORS = _OF_BOTH | {
    "pairs",
    "curators",
    "labels",
    "subjects",
    "hard",
    "mistakes",
    "batch_size",
    "workers",
}
_OF_JUDGES = _OF_BOTH | {"ratings", "judges", "metrics", "low", "high", "level", "repeats", "batch_size"}
_OF_IDENTITY = frozenset({"pictures", "extractors", "columns", "images", "batch_size", "resamples", "seed"})
_NEEDED = {"architectures": "run", "curators": "pairs", "judge": "ratings", "identity": "pictures"}


def study(
    question: Literal["architectures", "curators", "judge", "identity"],
    out: str,
    run: str | None = None,
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
    checkpoint_s: float = 30.0,
    pairs: str | None = None,
    curators: str | Sequence[Any] | Mapping[str, Any] = "heuristic,histogram,embedding",
    labels: str | None = None,
    columns: str | Mapping[str, Any] | None = None,
    images: str | None = None,
    subjects: str | None = None,
    hard: str | None = None,
    retry_failed: bool = False,
    mistakes: int = 24,
    ratings: str | None = None,
    judges: str | Sequence[Any] | Mapping[str, Any] | None = None,
    metrics: str | Sequence[Any] | Mapping[str, Any] | None = None,
    low: float | None = None,
    high: float | None = None,
    level: Literal["nominal", "ordinal", "interval", "ratio"] | None = None,
    repeats: int | None = None,
    pictures: str | None = None,
    extractors: str | Sequence[Any] | Mapping[str, Any] = "mini",
    resamples: int = 2000,
    seed: int = 0,
    workers: int = 2,
    progress: bool = True,
) -> str:
    """Answer a question: which way of conditioning keeps a character best (`architectures`), how well does
    each curator decide (`curators`), how far does a judge or metric agree with people (`judge`), or how well
    does each extractor tell subjects apart (`identity`)?

    `architectures` trains and judges many students of the small world, at equal steps and at equal compute.
    `curators` lets curators judge labelled pairs. `judge` compares judges' scores with people's ratings.
    `identity` compares all pairs of pictures whose subjects are known. All write `report.html`, `report.md`,
    CSV files and drawings; stopped at any moment, the same command goes on.

    Args:
        question: which study: architectures, curators, judge or identity.
        out: the folder of the study.
        run: architectures: a run of the small world with judged pairs.
        base: architectures: what all students start from: "mini", a folder or a spec.
        backends: architectures: conditionings to compare with the first of them: names joined by commas, or a
            list of names and specs.
        seeds: architectures: trainings of each backend; more can be added later.
        minutes: architectures: how long everything is to take; the number of steps follows from it.
        steps: architectures: at the mark of equal steps, instead of what `minutes` allows.
        parameters: architectures: about how many each backend trains; as many as the base's denoiser has by
            default.
        policy: architectures: which pairs to train on: the name of a curator, or a policy.
        references: architectures: held-out characters; fewer in less than an hour.
        scenes: architectures: how many new scenes of each.
        batch_size: pairs a training step, or pairs given to a curator or items to a judge at once.
        lr: architectures: learning rate, constant after the warm-up; or one for each backend by its name, and
            "others".
        warmup_steps: architectures: steps over which it rises.
        ema_decay: architectures: of the average weights, which are judged.
        dropout: architectures: share of captions, and of references, that are hidden in training.
        num_inference_steps: architectures: steps of the sampler.
        guidance_scale: architectures: what a guidance-distilled denoiser is told, in training and drawing.
        time_sampling: architectures: of the training, such as `{law: uniform}`; logit-normal around 0.67 by
            default.
        validation_pairs: architectures: pairs whose loss is followed.
        precision: architectures: of training, such as "32-true"; "auto" for the faster one on this machine.
        checkpoint_s: architectures: seconds between checkpoints of a training.
        pairs: curators: a CSV file of image files and labels, "mini" for characters that the small world's
            renderer draws, or a run (of the small world, or with `labels`).
        curators: curators: names joined by commas, a list of names and specs, or `{NAME: spec}`.
        labels: curators: what people said of a run's pairs: a file with the columns pair_id and label.
        columns: curators: names of the table's columns where they differ, such as `{label: is_same}`. judge:
            the table's columns, such as `{people: [rater_1, rater_2], group: method, scores: {gpt: [a, b]}}`,
            or "imagenhub". identity: names of the table's columns where they differ.
        images: curators, judge, identity: the folder that a table's paths start from.
        subjects: curators: a CSV file with the columns image and subject.
        hard: curators: the group of the hard negatives; one that begins with "same class" by default.
        retry_failed: curators, judge: ask again where the answer is "failed".
        mistakes: curators: how many mistakes of each kind to show of each curator.
        ratings: judge: a CSV or Parquet file of people's ratings, a row an item, or "imagenhub" for those
            that come with dsd.
        judges: judge: to be asked: names joined by commas, a list of names and specs, or `{NAME: spec}`.
            Scores that the table holds stand beside them.
        metrics: judge: to be measured on the pictures of --images, in the same forms.
        low: judge: lowest rating of the people's scale; the lowest that was given by default.
        high: judge: highest rating of it; the highest that was given by default.
        level: judge: what people's numbers mean, for alpha: interval by default, ordinal for ImagenHub.
        repeats: judge: how often a judge is asked about each item; as often as it says itself by default.
        pictures: identity: a CSV file with the columns image, subject and, if you like, class.
        extractors: identity: names joined by commas, a list, or `{NAME: spec}`, as `dsd.extractors.load`
            takes them.
        resamples: curators, judge, identity: of the bootstrap for intervals.
        seed: curators, judge, identity: of the bootstrap.
        workers: processes that measure pictures.
        progress: show progress bars and the tables on stderr.

    Raises:
        ValueError: if the folder was begun with other arguments, a number is out of range, or an option
            belongs to another question.
    """
    given = dict(locals())
    defaults = {name: p.default for name, p in inspect.signature(study).parameters.items()}
    options = {"curators": _OF_CURATORS, "judge": _OF_JUDGES, "identity": _OF_IDENTITY}
    others = frozenset().union(*options.values()) - {"batch_size", "workers"}
    known = options.get(question, set(defaults) - others - _SHARED)
    foreign = [name for name in defaults if name not in known and name not in _SHARED]
    if wrong := [name for name in foreign if given[name] != defaults[name]]:
        raise ValueError(f"--{wrong[0]} is no option of `dsd study {question}`.")
    needed = _NEEDED[question]
    if given[needed] is None:
        raise ValueError(f"--{needed} must be given. See dsd study --help.")
    from dsd import studies

    answers: dict[str, Callable[..., Any]] = {
        "architectures": studies.compare_architectures,
        "curators": studies.compare_curators,
        "judge": studies.compare_judges,
        "identity": studies.compare_extractors,
    }
    own = {name: given[name] for name in defaults if name in known | {"progress"}}
    answers[question](own.pop(needed), out, **own)
    return str(Path(out).expanduser() / "report.html")
