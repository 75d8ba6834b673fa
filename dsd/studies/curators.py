"""How well does each curator decide? Any curators on labelled pairs."""

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from dsd.data.atomic import lock, make_folder, sweep_temporary
from dsd.data.storage import location
from dsd.data.store import Run
from dsd.quiet import quiet_loading
from dsd.studies.curators_csv import of_table
from dsd.studies.curators_pairs import LabelledPairs, of_people, of_small_world
from dsd.studies.curators_rendered import of_renderer
from dsd.studies.curators_report import Report
from dsd.studies.curators_results import Results, Verdicts
from dsd.studies.curators_verdicts import CuratorsLike, entries, judge_missing
from dsd.studies.entries import check_specs
from dsd.studies.folder import StudyFolder

MINI = "mini"
Source = str | PathLike[str] | Run | LabelledPairs


def compare_curators(
    pairs: Source,
    out: str | PathLike[str],
    curators: CuratorsLike = "heuristic,histogram,embedding",
    *,
    labels: str | PathLike[str] | None = None,
    columns: Mapping[str, str] | None = None,
    images: str | PathLike[str] | None = None,
    subjects: str | PathLike[str] | None = None,
    hard: str | None = None,
    batch_size: int = 32,
    retry_failed: bool = False,
    mistakes: int = 24,
    resamples: int = 2000,
    seed: int = 0,
    workers: int = 2,
    progress: bool = True,
) -> dict[str, Any]:
    """Let curators judge labelled pairs, and write a report of how well they do.

    Verdicts are kept as they come. Called again for the same folder it asks only for what is missing, so that
    curators can be added one by one, and one that was stopped goes on.

    Args:
        pairs: a CSV file of image files and labels, see `dsd.studies.curators_csv`, or a folder with a
            `pairs.csv`; "mini", characters of the small world that its renderer draws; a run of the small
            world, whose labels are measured; any run, with `labels`; or `LabelledPairs` of your own.
        out: the folder of the study.
        curators: names joined by commas; a list of names, specs and objects; or `{NAME: spec}`, which says
            what each is called. The others are compared with the first.
        labels: what people said of a run's pairs: a Parquet or CSV file with the columns `pair_id` and
            `label` (same, different, unsure), as `dsd.labels.export` writes it.
        columns: names of the table's columns where they differ: `reference`, `target`, `label`, `group`,
            `reference_subject`, `target_subject` of a CSV file of pairs; `pair_id` and `label` of `labels`.
        images: the folder that a CSV file's paths start from.
        subjects: a CSV file with the columns `image` and `subject`; `subjects.csv` beside the pairs by
            default. Intervals are over subjects where they are known.
        hard: the group of the hard negatives in a CSV file; one that begins with "same class" by default.
        batch_size: how many pairs a curator is given at once.
        retry_failed: judge those pairs again whose verdict is "failed".
        mistakes: how many mistakes of each kind to show of each curator.
        resamples: of the bootstrap.
        seed: of the bootstrap.
        workers: processes that measure a run's pictures.
        progress: show progress bars on stderr.

    Returns:
        what `report.json` holds.

    Raises:
        FileNotFoundError: if there are no such pairs or labels.
        ValueError: if the pairs cannot be used, the folder was begun with other pairs, a curator's name
            stands for another spec in it, or a number is below 1.
        LookupError, TypeError: if a spec stands for no curator.
        LockedError: if another study goes on in the folder.
    """
    for name, value in {"batch_size": batch_size, "mistakes": mistakes, "resamples": resamples}.items():
        if value < 1:
            raise ValueError(f"`{name}` must be at least 1; got {value}.")
    asked = entries(curators)
    labelled = labelled_pairs(
        pairs, labels=labels, columns=columns, images=images, subjects=subjects, hard=hard, workers=workers,
        progress="measure" if progress else None,
    )  # fmt: skip
    out = Path(out).expanduser()
    make_folder(out)
    with quiet_loading(), lock(out, "dsd study curators"):
        sweep_temporary(out)
        arguments = {"pairs": f"{len(labelled.labels)} labelled pairs, digest {labelled.digest}"}
        study = StudyFolder(out, "curators", arguments)
        study.keep({"curators": check_specs((study.plan or {}).get("curators", {}), asked, out)})
        verdicts = []
        for entry in asked:
            said = judge_missing(
                out, entry, labelled, batch_size=batch_size, retry_failed=retry_failed, progress=progress
            )
            verdicts.append(Verdicts(entry=entry, timed=[said[x.pair_id] for x in labelled.labels]))
        results = Results(labelled, verdicts, count=resamples, seed=seed)
        report = Report(results=results, facts=_facts(labelled, results, resamples, seed), mistakes=mistakes)
        report.write(out)
    return report.content()


def labelled_pairs(
    pairs: Source,
    *,
    labels: str | PathLike[str] | None = None,
    columns: Mapping[str, str] | None = None,
    images: str | PathLike[str] | None = None,
    subjects: str | PathLike[str] | None = None,
    hard: str | None = None,
    workers: int = 2,
    progress: str | None = None,
) -> LabelledPairs:
    """The labelled pairs that the arguments of `compare_curators` stand for.

    Raises:
        FileNotFoundError, ValueError: as `compare_curators`.
    """
    if isinstance(pairs, LabelledPairs):
        return pairs
    if pairs == MINI:
        if any(given is not None for given in (labels, columns, images, subjects, hard)):
            raise ValueError(
                f"The pairs {MINI!r} are drawn here. Leave out labels, columns, images, subjects and hard."
            )
        return of_renderer()
    path = pairs.path if isinstance(pairs, Run) else location(pairs)
    if not isinstance(pairs, Run) and not path.exists():
        raise FileNotFoundError(
            f"There are no labelled pairs in {path}: no such file or folder. Check the path."
        )
    table = path / "pairs.csv" if path.is_dir() else path
    if isinstance(table, Path) and table.is_file():
        if labels is not None:
            raise ValueError(f"`labels` go with a run, but {table} has its own. Leave them out.")
        return of_table(
            table,
            columns=columns,
            images=None if images is None else Path(images).expanduser(),
            subjects=None if subjects is None else Path(subjects).expanduser(),
            hard=hard,
        )
    if images is not None or subjects is not None:
        raise ValueError(
            f"`images` and `subjects` go with a CSV file of pairs, and {path} is a run. Leave them out."
        )
    run = pairs if isinstance(pairs, Run) else Run(path)
    if labels is None:
        return of_small_world(run, workers=workers, progress=progress)
    return of_people(run, Path(labels).expanduser(), columns)


def _facts(pairs: LabelledPairs, results: Results, resamples: int, seed: int) -> dict[str, Any]:
    num_same = sum(label.same for label in pairs.labels)
    return {
        "pairs": {
            "source": pairs.source,
            "truth": pairs.truth,
            "digest": pairs.digest,
            "pairs": len(pairs.labels),
            "same": num_same,
            "different": len(pairs.labels) - num_same,
            "hard": pairs.hard,
            "left_out": pairs.left_out,
            "resampled": results.num_clusters,
            "resamples": resamples,
            "seed": seed,
        },
        "specs": {x.entry.name: x.entry.spec for x in results.verdicts},
    }
