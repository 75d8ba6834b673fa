"""`compare`: draws, measures, rates and reports, each only where it is missing."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from dsd.data.atomic import lock, make_folder, sweep_temporary
from dsd.evaluation import benchmarks, methods
from dsd.evaluation.benchmarks.base import cases_of, digest_of
from dsd.evaluation.comparison.figures import RULES, Average, Averages
from dsd.evaluation.comparison.journal import Journal
from dsd.evaluation.comparison.judging import panels_of
from dsd.evaluation.comparison.measures import Measure, MetricMeasure, SmallWorldMeasure
from dsd.evaluation.comparison.ranking import derived, ranked
from dsd.evaluation.comparison.result import Comparison
from dsd.evaluation.comparison.work import Work
from dsd.evaluation.methods.base import jobs_of
from dsd.llm.records import Stopped

_OWN_MEASURES: Mapping[str, Callable[[], Measure]] = {"small_world": SmallWorldMeasure}


def compare(
    benchmark: Any,
    method: Mapping[str, Any],
    out: str | PathLike[str],
    *,
    metrics: Sequence[Any] = (),
    judges: Sequence[Any] = (),
    limit: int | None = None,
    images_per_prompt: int | None = None,
    runs: int | None = None,
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
        runs: how often each picture is rated by each judge; None for as often as the judge says.
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
    panels = panels_of(judges, runs)
    columns = [*(column for measure in measures for column in measure.columns), *(x.column for x in panels)]
    _check_labels([*makers], [column.name for column in columns])
    settings = {
        "benchmark": benchmarks.spec(built),
        "cases_sha256": digest_of(every),
        "seed": seed,
        "cases": len(cases),
        "images_per_prompt": images,
        "runs": {panel.label: panel.runs for panel in panels},
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
        done: list[Work] = []
        for label, maker in makers.items():
            work = Work(folder / "methods" / label, label, maker, jobs, progress)
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
        for member in (member for panel in panels for member in panel.members):
            member.judge.keep_answers(folder / "cache" / "answers.sqlite")
            try:
                for work in done:
                    work.rate(member)
            except Stopped as stop:
                stopped = stopped or str(stop)
            except KeyboardInterrupt:
                member.judge.cancel()
                raise
            finally:
                member.judge.close()
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
