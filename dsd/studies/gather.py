"""The report of the comparison of architectures, put together from the files of its cells."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from dsd.backbones.base import Reference
from dsd.counting import CONFIGS, count
from dsd.evaluation.rows import load_rows
from dsd.evaluation.small_world import HeldOut
from dsd.studies.architectures_report import Report
from dsd.studies.cell import answers_file, read_record
from dsd.studies.folder import Cell, StudyFolder
from dsd.studies.plan import EQUAL_COMPUTE, Probe
from dsd.studies.results import Results

# What a backend takes on FLUX.1-dev where that cannot be told without a download: further arguments, and the
# tokens of its encoder (number, width).
_AT_FLUX: Mapping[str, tuple[Mapping[str, Any], tuple[int, int]]] = {
    "ip_adapter": ({"encoder": str(CONFIGS / "siglip-so400m-patch14-384")}, (729, 1152)),
}


def gathered(
    study: StudyFolder,
    cells: Mapping[str, Sequence[Cell]],
    baseline: Mapping[str, Any],
    plan: Mapping[str, Any],
    cases: Sequence[HeldOut],
) -> Report:
    """Everything for the report.

    Args:
        study: the folder.
        cells: the finished cells of each backend, one a seed.
        baseline: the manifest of what is not trained.
        plan: what the study planned.
        cases: the held-out characters.

    Raises:
        RuntimeError: if the backends did not see the same pairs.
    """
    manifests = {name: [cell.manifest or {} for cell in row] for name, row in cells.items()}
    results = Results(
        backends=list(cells),
        probes={name: Probe(**plan["probes"][name]) for name in cells},
        marks={name: plan["marks"][name] for name in cells},
        cells=manifests,
        records={name: [read_record(cell) for cell in row] for name, row in cells.items()},
        baselines=baseline["scores"],
    )
    results.check()
    shape = len(cases), len(cases[0].scenes)
    answers: dict[str, Any] = {
        name: load_rows(answers_file(row[0], plan["marks"][name][EQUAL_COMPUTE]), *shape)
        for name, row in cells.items()
    }
    answers["text_only"] = load_rows(study.cell("baseline", {}).path / "text_only.png", *shape)
    answers["ceiling"] = [list(case.truths) for case in cases]
    spent = [sum(found["seconds"].values()) for row in manifests.values() for found in row]
    facts = {
        "question": study.question,
        "arguments": study.arguments,
        "plan": plan,
        "seeds": len(next(iter(cells.values()))),
        "references": len(cases),
        "seconds": sum(spent),
        "cpu_count": os.cpu_count(),
    }
    specs = {name: row[0].spec["backend"] for name, row in cells.items()}
    return Report(results=results, flux=flux_rows(study, specs), facts=facts, cases=cases, answers=answers)


def flux_rows(study: StudyFolder, backends: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What each backend costs on FLUX.1-dev, counted once without weights: one frame of 512 x 512 px.

    Args:
        study: where they are kept.
        backends: their specs by name.
    """
    cell = study.cell("flux", {"backends": backends})
    found = cell.manifest
    if found is None:
        rows = [{"backend": name, **_at_flux(spec)} for name, spec in backends.items()]
        least = min(row["forward_tflop"] for row in rows)
        cell.begin()
        found = cell.finish({"rows": [{**row, "relative": row["forward_tflop"] / least} for row in rows]})
    counted: list[dict[str, Any]] = found["rows"]
    return counted


def _at_flux(spec: Mapping[str, Any]) -> dict[str, Any]:
    further, tokens = _AT_FLUX.get(str(spec["name"]), ({}, None))
    reference = None if tokens is None else Reference(tokens=torch.ones(1, *tokens))
    counted = count("flux.1-dev", {**further, **spec}, reference=reference, train="full")
    return {
        name: getattr(counted, name)
        for name in ("added_parameters", "num_tokens", "forward_tflop", "formula_tflop", "step_tflop")
    }
