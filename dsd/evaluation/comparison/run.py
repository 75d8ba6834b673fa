"""`compare`: draws, measures, rates and reports, each only where it is missing."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from dsd.data.atomic import lock, make_folder, sweep_temporary
from dsd.evaluation import benchmarks, methods
from dsd.evaluation.benchmarks.base import Benchmark, BenchmarkCase, cases_of, digest_of
from dsd.evaluation.comparison.album import Album
from dsd.evaluation.comparison.drawing import draw_missing, total_usd
from dsd.evaluation.comparison.figures import RULES, Average, Averages, Column, Figure, Values
from dsd.evaluation.comparison.journal import Journal, lasting
from dsd.evaluation.comparison.judging import Panel
from dsd.evaluation.comparison.measures import Measure, MetricMeasure, Shown, SmallWorldMeasure
from dsd.evaluation.comparison.ranking import derived, ranked
from dsd.evaluation.methods.base import Job, Method, jobs_of
from dsd.llm.records import Stopped

_OWN_MEASURES: Mapping[str, Callable[[], Measure]] = {"small_world": SmallWorldMeasure}


@dataclass(frozen=True, kw_only=True)
class MethodResult:
    """How a method did.

    Attributes:
        label: what it is called.
        about: what it is given, in a few words.
        models: what drew its pictures.
        spec: of the method, without secrets.
        statuses: how many pictures were drawn, refused, missing or failed.
        seconds_per_image: median; None if unknown.
        tuning_s_per_subject: mean seconds of tuning on a subject; 0 for zero-shot methods, None if unknown.
        cost_usd: of all its pictures; None if unknown.
        cut_prompts: prompts that are longer than it reads.
        figures: by column.
        values: of each picture, by column; NaN where it has none.
        ratings: what became of each judge's ratings.
        words: what each judge said, by picture.
        album: its pictures.
    """

    label: str
    about: str
    models: Sequence[str]
    spec: Mapping[str, Any]
    statuses: Mapping[str, int]
    seconds_per_image: float | None
    tuning_s_per_subject: float | None
    cost_usd: float | None
    cut_prompts: int
    figures: Mapping[str, Figure]
    values: Mapping[str, Values] = field(repr=False)
    ratings: Mapping[str, Mapping[str, Any]]
    words: Mapping[str, Mapping[str, str]] = field(repr=False)
    album: Album = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Methods beside each other on a benchmark.

    Attributes:
        benchmark: what they were compared on.
        jobs: every picture that was asked for, in the order of all `values`.
        cases_in_all: how many cases the benchmark has; fewer jobs than these are a sample.
        columns: what the figures are of, in order.
        preservation: the column that says how well the subject is kept; None without one.
        following: the column that says how well the prompt is followed; None without one.
        ranked_by: the column that the methods are ranked by.
        methods: the best first.
        averages: for further figures of the same pictures.
        settings: what it was made with.
        stopped: why it is unfinished; empty if it is not.
    """

    benchmark: Benchmark
    jobs: Sequence[Job] = field(repr=False)
    cases_in_all: int
    columns: Sequence[Column]
    preservation: str | None
    following: str | None
    ranked_by: str
    methods: Sequence[MethodResult]
    averages: Averages = field(repr=False)
    settings: Mapping[str, Any]
    stopped: str = ""

    def column(self, name: str) -> Column:
        """A column by its name."""
        return next(column for column in self.columns if column.name == name)

    def method(self, label: str) -> MethodResult:
        """A method by its label.

        Raises:
            LookupError: if there is none of that label.
        """
        for found in self.methods:
            if found.label == label:
                return found
        raise LookupError(f"There is no method {label!r}. Known: {', '.join(x.label for x in self.methods)}.")


def compare(
    benchmark: Any,
    method: Mapping[str, Any],
    out: str | PathLike[str],
    *,
    metrics: Sequence[Any] = (),
    judges: Sequence[Any] = (),
    limit: int | None = None,
    images_per_prompt: int | None = None,
    runs: int = 1,
    average: Average = "micro",
    rank_by: str | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Comparison:
    """Compare methods on a benchmark. What is in `out` is not done again; call it again after a stop, with
    more methods, metrics or judges, or with a higher `limit`.

    Args:
        benchmark: a name, a spec or a `Benchmark`.
        method: a spec or a `Method` for each label.
        out: the folder for pictures, ratings and the report.
        metrics: specs of `dsd.metrics`, measured picture by picture.
        judges: specs of `dsd.judges`.
        limit: so many cases, chosen by chance; None for all.
        images_per_prompt: None for as many as the benchmark's authors draw.
        runs: how often each picture is rated by each judge.
        average: how figures are averaged: "micro" or "macro"; see `RULES`.
        rank_by: the column that methods are ranked by; None for the product of preservation and following.
        seed: of the noise and the bootstrap.
        progress: show progress bars on stderr.

    Returns:
        the figures; `write_comparison` makes pages of them.

    Raises:
        FileNotFoundError: if a part of the benchmark or a model is missing.
        ValueError: if a number is out of range, two columns have one name, or `out` holds something else.
        LookupError, TypeError: for specs that stand for nothing.
        LockedError: if another process writes to `out`.
        OSError: explained, if `out` cannot be written.
    """
    if not method:
        raise ValueError("Give at least one method to compare.")
    folder = Path(out).expanduser()
    make_folder(folder)
    built = benchmarks.create(benchmark)
    every = cases_of(built)
    cases = every if limit is None else cases_of(built, limit)
    images = built.images_per_prompt if images_per_prompt is None else images_per_prompt
    jobs = jobs_of(cases, images, seed)
    makers = {label: methods.create(spec) for label, spec in method.items()}
    for maker in makers.values():
        maker.use_spellings(built.canonical)
    measures = [*(_OWN_MEASURES[name]() for name in built.measures), *map(MetricMeasure, metrics)]
    panels = [Panel(spec, runs) for spec in judges]
    columns = [*(column for measure in measures for column in measure.columns), *(x.column for x in panels)]
    _check_labels([*makers], [column.name for column in columns])
    settings = {
        "benchmark": benchmarks.spec(built),
        "cases_sha256": digest_of(every),
        "seed": seed,
        "cases": len(cases),
        "images_per_prompt": images,
        "runs": runs,
        "average": f"{average}: {RULES.get(average, '')}",
    }
    averages = Averages(
        [job.case.subject for job in jobs],
        [job.case.category for job in jobs],
        [job.case.kind for job in jobs],
        average,
        seed=seed,
    )
    stopped = ""
    with lock(folder, "dsd evaluate"):
        sweep_temporary(folder)
        _check_same(folder, settings)
        done: list[_Work] = []
        for label, maker in makers.items():
            work = _Work(folder / "methods" / label, label, maker, jobs, progress)
            try:
                work.draw()
            except Stopped as stop:
                stopped = stopped or str(stop)
            finally:
                maker.close()
            done.append(work)
        for work in done:
            for measure in measures:
                work.measure(measure)
        for panel in panels:
            try:
                for work in done:
                    work.rate(panel)
            except Stopped as stop:
                stopped = stopped or str(stop)
            finally:
                panel.judge.close()
        results = [work.result(measures, panels, averages) for work in done]
    columns, preservation, following, results = derived(built, columns, results, averages)
    by, results = ranked(columns, results, rank_by)
    return Comparison(
        benchmark=built,
        jobs=jobs,
        cases_in_all=len(every),
        columns=columns,
        preservation=preservation,
        following=following,
        ranked_by=by,
        methods=results,
        averages=averages,
        settings=settings,
        stopped=stopped,
    )


class _Work:
    """One method's folder, and what is missing in it."""

    def __init__(self, folder: Path, label: str, method: Method, jobs: Sequence[Job], progress: bool) -> None:
        self._folder, self._label, self._method, self._jobs = folder, label, method, jobs
        self._progress = progress
        self._spec = methods.spec(method)
        head = {"method": lasting(self._spec)}
        self._tuning, self._start = (
            Journal(folder / "tuning.jsonl", head),
            Journal(folder / "method.jsonl", head),
        )
        self._album = Album(folder / "images", method)
        self._scores: dict[str, dict[str, dict[str, float | None]]] = {}
        self._ratings: dict[str, Journal] = {}
        self._cut = 0

    def draw(self) -> None:
        """The pictures, and which prompts are too long for the method."""
        known = {entry["prompt"]: entry["cut"] for entry in self._start.entries}
        prompts = list(dict.fromkeys(job.case.prompt for job in self._jobs))
        if new := [prompt for prompt in prompts if prompt not in known]:
            cut = set(self._method.cut_prompts(new))
            self._start.append([{"prompt": prompt, "cut": prompt in cut} for prompt in new])
            known |= {prompt: prompt in cut for prompt in new}
        self._cut = sum(known[prompt] for prompt in prompts)
        draw_missing(self._method, self._album, self._jobs, self._tuning, self._bar("draw"))

    def measure(self, measure: Measure) -> None:
        """The numbers of each picture, a batch at a time."""
        from tqdm import tqdm

        journal = Journal(self._folder / f"scores-{measure.label}.jsonl", {"measure": lasting(measure.spec)})
        known = {entry["key"]: entry["scores"] for entry in journal.entries}
        there = [job for job in self._jobs if self._album.drawn(job).status == "drawn"]
        missing = [job for job in there if job.key not in known]
        name = self._bar(measure.label)
        with tqdm(total=len(missing), desc=name, unit="picture", disable=name is None or not missing) as bar:
            for start in range(0, len(missing), measure.batch_size):
                batch = missing[start : start + measure.batch_size]
                shown = [Shown(job=job, image=image) for job, image in self._album.images(batch)]
                found = measure.measure(shown)
                new = [{"key": x.job.key, "scores": scores} for x, scores in zip(shown, found, strict=True)]
                journal.append(new)
                known |= {entry["key"]: entry["scores"] for entry in new}
                bar.update(len(batch))
        self._scores[measure.label] = known

    def rate(self, panel: Panel) -> None:
        """A judge's ratings."""
        journal = self._ratings[panel.label] = panel.journal(self._folder)
        panel.rate_missing(self._album, self._jobs, journal, self._bar(panel.label))

    def result(
        self, measures: Sequence[Measure], panels: Sequence[Panel], averages: Averages
    ) -> MethodResult:
        """All that is known of the method."""
        values: dict[str, Values] = {}
        for measure in measures:
            known = self._scores[measure.label]
            for column in measure.columns:
                row = [known.get(job.key, {}).get(column.name) for job in self._jobs]
                values[column.name] = np.array([np.nan if x is None else x for x in row], dtype=float)
        ratings, words = {}, {}
        for panel in panels:
            journal = self._ratings.get(panel.label) or panel.journal(self._folder)
            values[panel.label] = panel.values(self._jobs, journal)
            ratings[panel.label] = panel.facts(self._jobs, journal)
            words[panel.label] = panel.words(journal)
        drawn = [self._album.drawn(job) for job in self._jobs]
        seconds = [x.seconds for x in drawn if x.status == "drawn" and x.seconds is not None]
        return MethodResult(
            label=self._label,
            about=self._method.about,
            models=sorted({x.model for x in drawn if x.model}),
            spec=self._spec,
            statuses=dict(Counter(x.status for x in drawn)),
            seconds_per_image=float(np.median(seconds)) if seconds else None,
            tuning_s_per_subject=self._tuning_s(),
            cost_usd=total_usd(x.cost_usd for x in drawn if x.status == "drawn"),
            cut_prompts=self._cut,
            figures={name: averages.figure(row) for name, row in values.items()},
            values=values,
            ratings=ratings,
            words=words,
            album=self._album,
        )

    def _tuning_s(self) -> float | None:
        if self._tuning.entries:
            seconds = {entry["subject"]: entry["seconds"] for entry in self._tuning.entries}
            return float(np.mean(list(seconds.values())))
        return self._method.tuning_seconds()

    def _bar(self, what: str) -> str | None:
        return f"{self._label}: {what}" if self._progress else None


def _check_labels(labels: Sequence[str], columns: Sequence[str]) -> None:
    for what, names in {"method": labels, "metric or judge": columns}.items():
        twice = [name for name, count in Counter(names).items() if count > 1]
        if twice:
            raise ValueError(
                f"Two of a {what} are called {twice[0]!r}. Give each a `label` of its own in its spec."
            )
        for name in names:
            if (
                not name
                or not all(letter.isalnum() or letter in "._+- " for letter in name)
                or name[0] == "."
            ):
                raise ValueError(f"{name!r} cannot be the label of a {what}: use letters, digits and ._+-")


def _check_same(folder: Path, settings: Mapping[str, Any]) -> None:
    """One folder, one benchmark and seed: keys of others would be taken for these."""
    head = {
        "benchmark": settings["benchmark"]["name"],
        "cases": settings["cases_sha256"],
        "seed": settings["seed"],
    }
    journal = Journal(folder / "comparison.jsonl", head)
    if not journal.entries:
        journal.append([{"cases": settings["cases"]}])


__all__ = ["BenchmarkCase", "Comparison", "MethodResult", "compare"]
