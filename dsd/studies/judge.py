"""How far does each judge agree with people? Judges and metrics on pictures that people rated."""

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from dsd.data.atomic import lock, make_folder, sweep_temporary
from dsd.metrics.functional.agreement import Level, check_level
from dsd.quiet import quiet_loading
from dsd.studies.entries import check_names, check_specs
from dsd.studies.folder import StudyFolder
from dsd.studies.judge_asking import JudgeEntry, JudgesLike, TimedRating, ask_missing, judge_entries
from dsd.studies.judge_metrics import MetricsLike, check_shown, metric_entries
from dsd.studies.judge_ratings import EMBEDDED, RatedItems, Scores, of_imagenhub, of_table
from dsd.studies.judge_report import JudgeReport
from dsd.studies.judge_results import PEOPLE, JudgeResults, JudgeScores
from dsd.studies.judge_tables import tables

IMAGENHUB = "imagenhub"


def compare_judges(
    ratings: str | PathLike[str] | RatedItems,
    out: str | PathLike[str],
    judges: JudgesLike | None = None,
    *,
    metrics: MetricsLike | None = None,
    columns: str | Mapping[str, Any] | None = None,
    images: str | PathLike[str] | None = None,
    low: float | None = None,
    high: float | None = None,
    level: Level | None = None,
    repeats: int | None = None,
    batch_size: int = 32,
    retry_failed: bool = False,
    resamples: int = 2000,
    seed: int = 0,
    progress: bool = True,
) -> dict[str, Any]:
    """Compare judges, metrics, or scores that are known, with what people said, and write a report.

    Ratings of judges that are asked, and what metrics measure, are kept as they come. Called again for the
    same folder it asks only for what is missing, so that judges and metrics can be added one by one, and one
    that was stopped goes on.

    Args:
        ratings: a CSV or Parquet file, a row an item; "imagenhub", ratings of 300 pictures that come with
            dsd; or `RatedItems` of your own.
        out: the folder of the study.
        judges: that are to be asked, of the family `dsd.judges`: names joined by commas; a list of names,
            specs and objects; or `{NAME: spec}`, which says what each is called. Scores that the table holds
            stand beside them, and come first.
        metrics: that are to be measured on the pictures, of the family `dsd.metrics`, in the same forms; they
            come last. In a spec, `range: [low, high]` are the values that stand for the ends of people's
            scale.
        columns: the table's columns, see `dsd.studies.judge_ratings.of_table`; "imagenhub" for a file in the
            layout of the ratings that come with dsd.
        images: the folder that pictures' files start from; for ImagenHub's ratings its folder
            `ImagenHub_Subject-Driven_IG`.
        low: lowest rating of the people's scale; the lowest that was given by default.
        high: highest rating of it; the highest that was given by default.
        level: what people's numbers mean: "ordinal", "interval", "nominal" or "ratio". By default "interval",
            as DreamBench++ has it; "ordinal" for ImagenHub, as there.
        repeats: how often a judge is asked about each item; as often as it says itself by default (a rubric
            has `runs`). Its score is the mean.
        batch_size: how many items a judge or metric is given at once.
        retry_failed: ask again for ratings that are "failed".
        resamples: of the bootstrap.
        seed: of the bootstrap.
        progress: show progress bars and the table on stderr.

    Returns:
        what `report.json` holds.

    Raises:
        FileNotFoundError: if there is no such table, or a folder of pictures is missing.
        ValueError: if the table cannot be used, there is nothing to compare, the folder was begun with other
            ratings, a name stands for another spec in it, a metric needs what the table does not name, or a
            number is below 1.
        LookupError, TypeError: if a spec stands for no judge or metric.
        Exception: of a metric, where it cannot measure at all: weights that are not there, say.
        LockedError: if another study goes on in the folder.
    """
    for name, value in {"repeats": repeats, "batch_size": batch_size, "resamples": resamples}.items():
        if value is not None and value < 1:
            raise ValueError(f"`{name}` must be at least 1; got {value}.")
    items = rated_items(ratings, columns=columns, images=images, low=low, high=high, level=level)
    asked = judge_entries(judges) if judges is not None else []
    if metrics is not None:
        measured = metric_entries(metrics)
        check_shown(measured, items)
        asked += measured
        check_names(asked, "judge or metric")
    if not asked and not items.stored:
        raise ValueError(
            "There is nothing to compare. Give `judges`, `metrics`, or `columns` with {scores: {NAME: "
            "column}}."
        )
    taken = {PEOPLE, *items.stored}
    if twice := [entry.name for entry in asked if entry.name in taken]:
        raise ValueError(
            f"Two rows would be called {twice[0]!r}. Give the judge or metric another name: {{NAME: spec}}}}."
        )
    out = Path(out).expanduser()
    make_folder(out)
    with quiet_loading(), lock(out, "dsd study judge"):
        sweep_temporary(out)
        arguments = {"ratings": f"{len(items.keys)} rated items, digest {items.digest}"}
        study = StudyFolder(out, "judge", arguments)
        study.keep({"judges": check_specs((study.plan or {}).get("judges", {}), asked, out, "ratings")})
        found = [
            JudgeScores(
                name=name,
                scores=scores,
                spec={"scores": scores.about, "range": scores.range}
                | ({} if scores.higher_is_better else {"higher_is_better": False}),
            )
            for name, scores in items.stored.items()
        ]
        for entry in asked:
            said = ask_missing(
                out, entry, items, runs=repeats, batch_size=batch_size, retry_failed=retry_failed,
                progress=progress,
            )  # fmt: skip
            found.append(_scores_of(entry, items, said))
        results = JudgeResults(items, found, count=resamples, seed=seed)
        report = JudgeReport(results=results, facts=_facts(results, resamples, seed))
        report.write(out)
    if progress:
        Console(stderr=True).print(tables(results)["agreement"].rich())
    return report.content()


def rated_items(
    ratings: str | PathLike[str] | RatedItems,
    *,
    columns: str | Mapping[str, Any] | None = None,
    images: str | PathLike[str] | None = None,
    low: float | None = None,
    high: float | None = None,
    level: Level | None = None,
) -> RatedItems:
    """The rated items that the arguments of `compare_judges` stand for.

    Raises:
        FileNotFoundError, ValueError: as `compare_judges`.
    """
    if level is not None:
        check_level(level)
    folder = None if images is None else Path(images).expanduser()
    fixed = {"low": low, "high": high}
    if isinstance(ratings, RatedItems):
        if given := [
            name
            for name, x in {**fixed, "images": images, "columns": columns, "level": level}.items()
            if x is not None
        ]:
            raise ValueError(f"`{given[0]}` goes with a table, and the ratings are none. Leave it out.")
        return ratings
    if ratings == IMAGENHUB or columns == IMAGENHUB:
        if given := [name for name, value in fixed.items() if value is not None]:
            raise ValueError(f"`{given[0]}` is known for ImagenHub's ratings. Leave it out.")
        if ratings == IMAGENHUB and columns not in (None, IMAGENHUB):
            raise ValueError("`columns` are known for the ratings that come with dsd. Leave them out.")
        file = EMBEDDED if ratings == IMAGENHUB else Path(ratings).expanduser()
        return of_imagenhub(file, level or "ordinal", folder)
    if not isinstance(columns, Mapping):
        raise ValueError(
            f"Say with `columns` what the table holds, such as {{people: [rater_1, rater_2], scores: "
            f"{{judge: score}}}}, or {IMAGENHUB!r}; got {columns!r}."
        )
    return of_table(
        Path(ratings).expanduser(),
        columns,
        images=folder,
        low=low,
        high=high,
        level=level or "interval",
    )


def _scores_of(entry: JudgeEntry, items: RatedItems, said: Mapping[str, list[TimedRating]]) -> JudgeScores:
    values = np.full(len(items.keys), np.nan)
    for i, key in enumerate(items.keys):
        given = [x.rating.value for x in said[key] if x.rating.value is not None]
        if given:
            values[i] = sum(given) / len(given)
    if entry.range is not None and ((values < entry.range[0]) | (values > entry.range[1])).any():
        raise ValueError(
            f"{entry.name} gave {np.nanmin(values):g} to {np.nanmax(values):g}, which leaves its range from "
            f"{entry.range[0]:g} to {entry.range[1]:g}. Give another `range`; nothing is measured again."
        )
    scores = Scores(
        values=values,
        range=entry.range,
        about=entry.judge.rubric_name,
        higher_is_better=entry.higher_is_better,
    )
    return JudgeScores(
        name=entry.name, scores=scores, spec=entry.spec, said=[x for some in said.values() for x in some]
    )


def _facts(results: JudgeResults, resamples: int, seed: int) -> dict[str, Any]:
    items = results.items
    return {
        "ratings": {
            "source": items.source,
            "digest": items.digest,
            "items": len(items.keys),
            "raters": len(items.raters),
            "scale": [items.low, items.high],
            "level": items.level,
            "resampled": f"{results.num_clusters} {items.units}",
            "resamples": resamples,
            "seed": seed,
        },
        "specs": {x.name: dict(x.spec) for x in results.judges},
        "repeats": {x.name: len(x.said) // len(items.keys) for x in results.judges if x.said},
    }
