"""How well does each extractor tell subjects apart? All pairs of pictures whose subjects are known."""

import io
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from rich.console import Console

from dsd import extractors as kinds
from dsd.data.atomic import lock, make_folder, replace_file, sweep_temporary
from dsd.engines import progress_bar
from dsd.extractors import Extractor
from dsd.quiet import quiet_loading
from dsd.studies.entries import Named, check_names, named_specs
from dsd.studies.folder import StudyFolder
from dsd.studies.identity_pictures import KnownPictures, of_subjects
from dsd.studies.identity_report import IdentityReport, tables
from dsd.studies.identity_results import IdentityResults

ExtractorsLike = str | Sequence[Any] | Mapping[str, Any]

_FILE = "embeddings.npy"


def compare_extractors(
    pictures: str | PathLike[str],
    out: str | PathLike[str],
    extractors: ExtractorsLike = "mini",
    *,
    columns: Mapping[str, str] | None = None,
    images: str | PathLike[str] | None = None,
    batch_size: int = 32,
    resamples: int = 2000,
    seed: int = 0,
    progress: bool = True,
) -> dict[str, Any]:
    """Compare extractors by how well they tell subjects apart, and write a report.

    Embeddings are kept: called again for the same folder it embeds by new extractors alone.

    Args:
        pictures: a CSV file, a row a picture, with the columns `image`, `subject` and, if you like, `class`.
        out: the folder of the study.
        extractors: as `dsd.extractors.load` takes them: names joined by commas, a list, or `{NAME: spec}`.
        columns: names of the table's columns where they are others, such as `{subject: who}`.
        images: the folder that files start from; by default `images` beside the table, or the table's own.
        batch_size: pictures embedded at once.
        resamples: of the bootstrap over subjects.
        seed: of the bootstrap.
        progress: show progress bars and the table on stderr.

    Returns:
        what `report.json` holds.

    Raises:
        FileNotFoundError: if the table or the folder is missing.
        ValueError: if the table cannot be used, the folder was begun with other pictures, a name stands for
            another extractor in it, or a number is below 1.
        LookupError, TypeError: if there is no such extractor.
        LockedError: if another study goes on in the folder.
    """
    for name, value in {"batch_size": batch_size, "resamples": resamples}.items():
        if value < 1:
            raise ValueError(f"`{name}` must be at least 1; got {value}.")
    folder = None if images is None else Path(images).expanduser()
    known = of_subjects(Path(pictures).expanduser(), columns=columns, images=folder)
    asked = _entries(extractors)
    out = Path(out).expanduser()
    make_folder(out)
    with quiet_loading(), lock(out, "dsd study identity"):
        sweep_temporary(out)
        study = StudyFolder(out, "identity", {"pictures": f"{len(known.files)}, digest {known.digest}"})
        study.keep({})
        embeddings, specs = {}, {}
        for named, spec in asked:
            extractor = kinds.load(spec)
            specs[named.name] = {**named.spec, "preprocessing": extractor.preprocessing}
            embeddings[named.name] = _embedded(
                study, named, specs[named.name], extractor, known, batch_size, progress
            )
        results = IdentityResults(known, embeddings, count=resamples, seed=seed)
        report = IdentityReport(results=results, specs=specs, resamples=resamples, seed=seed)
        report.write(out)
    if progress:
        Console(stderr=True).print(tables(results)["identity"].rich())
    return report.content()


def _entries(given: ExtractorsLike) -> list[tuple[Named, Any]]:
    """The extractors that are asked for, and what each is called."""
    one = isinstance(given, Mapping) and isinstance(given.get("kind"), str)
    found = []
    for name, spec in named_specs([given] if one else given, Extractor):
        if isinstance(spec, str | Mapping):
            kinds.check(spec)
        plain = {"extractor": dict(spec) if isinstance(spec, Mapping) else spec}
        if not isinstance(spec, str | Mapping):
            plain = {
                "extractor": repr(spec) if isinstance(spec, Extractor) else getattr(spec, "__qualname__", "")
            }
        found.append((Named(name=name or _called(spec), spec=plain), spec))
    check_names([named for named, _ in found], "extractor")
    return found


def _called(spec: Any) -> str:
    if not isinstance(spec, Mapping):
        return spec if isinstance(spec, str) else getattr(spec, "__qualname__", repr(spec))
    rest = [f"{key}={value}" for key, value in spec.items() if key != "kind"]
    return " ".join([str(spec.get("kind")), *rest])


def _embedded(
    study: StudyFolder,
    named: Named,
    spec: Mapping[str, Any],
    extractor: Extractor,
    known: KnownPictures,
    batch_size: int,
    progress: bool,
) -> Float[np.ndarray, "n d"]:
    cell = study.cell(named.file, spec)
    if cell.manifest is None:
        rows = []
        numbers = range(len(known.files))
        with progress_bar(named.name, len(numbers), progress, 0) as bar:
            for start in range(0, len(numbers), batch_size):
                part = numbers[start : start + batch_size]
                rows.append(extractor(known.open(part)).double().numpy())
                bar.update(len(part))
        buffer = io.BytesIO()
        np.save(buffer, np.concatenate(rows), allow_pickle=False)
        replace_file(cell.begin() / _FILE, buffer.getvalue())
        cell.finish({"pictures": len(numbers)})
    found: Float[np.ndarray, "n d"] = np.load(cell.path / _FILE, allow_pickle=False)
    return found
