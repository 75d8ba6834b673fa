"""The README of an export: what the model is, how to draw with it, how well it does."""

import json
import shutil
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from dsd.convert.checkpoint import read_json
from dsd.export import public_card
from dsd.publish import snippets
from dsd.publish.saved import Saved, public_base
from dsd.texts import markdown_text as escaped

_REPORTS = ("evaluation.json", "report.json")
_PICTURES = ("answers.png", "sheet.png")
_MEASURES = ("identity", "identity_encoder", "scene", "product")

Rows = dict[str, dict[str, tuple[float, Sequence[float] | None]]]
"""Figures with their 95 % intervals, by method and measure."""


def read_report(report: str | PathLike[str]) -> tuple[Rows, str, Path | None]:
    """The figures of a quickstart, a comparison of methods or a study, and its picture.

    Args:
        report: the folder with `evaluation.json` or `report.json`, or one of these files.

    Returns:
        figures, what they were measured on, and the picture beside them, if there is one.

    Raises:
        FileNotFoundError: if there is no report.
        ValueError: if it holds no figures by method.
    """
    given = Path(report).expanduser()
    files = [given] if given.is_file() else [given / name for name in _REPORTS if (given / name).is_file()]
    if not files:
        raise FileNotFoundError(f"{given} has no {' or '.join(_REPORTS)}: give the folder of an evaluation.")
    content = read_json(files[0])
    methods = content.get("methods")
    if not isinstance(methods, Mapping):
        raise ValueError(f"{files[0]} has no figures by method. Give a report of quickstart or evaluate.")
    rows: Rows = {}
    for label, found in methods.items():
        if "figures" in found:
            rows[label] = {
                name: (figure["value"], figure["interval"])
                for name, figure in found["figures"].items()
                if figure["value"] is not None
            }
        else:
            intervals = found.get("intervals", {})
            rows[label] = {
                name: (found[name], intervals.get(name)) for name in _MEASURES if found.get(name) is not None
            }
    if not any(rows.values()):
        raise ValueError(f"{files[0]} has methods without figures: its evaluation was not finished.")
    references = content.get("references")
    about = content.get("benchmark") or (
        f"{references} held-out characters" if references else "held-out pairs"
    )
    pictures = [files[0].parent / name for name in _PICTURES if (files[0].parent / name).is_file()]
    return rows, str(about), pictures[0] if pictures else None


def write_card(
    folder: Path,
    saved: Saved,
    file_format: str,
    *,
    name: str,
    repo: str | None = None,
    report: str | PathLike[str] | None = None,
) -> None:
    """Write `README.md`, and the report's picture beside it.

    Args:
        folder: of the export.
        saved: the student.
        file_format: of the export.
        name: of the model.
        repo: its id on the Hub, if it has one.
        report: as `read_report` takes it.
    """
    rows, about, picture = ({}, "", None) if report is None else read_report(report)
    base = public_base(saved.card)
    data: dict[str, Any] = {"library_name": "diffusers", "pipeline_tag": "image-to-image"}
    data["tags"] = ["diffusion-self-distillation", "flux", saved.conditioning]
    data["tags"] += ["lora"] if file_format in ("lora", "comfyui") else []
    if base and "/" in base:
        data["base_model"] = base
    label = "student" if "student" in rows else next(iter(rows), "")
    if rows:
        data["model_name"] = name
        data["eval_results"] = [
            EvalResult(
                task_type="image-to-image",
                dataset_type="dsd",
                dataset_name=about,
                metric_type=measure,
                metric_value=round(value, 4),
            )
            for measure, (value, _) in rows[label].items()
        ]
    size = saved.card.get("frame_size")
    frames = f", in frames of {size[1]} x {size[0]} px" if size else ""
    parts = [
        f"---\n{ModelCardData(**data).to_yaml()}\n---",
        f"# {escaped(name)}",
        "A text + image model: it draws the subject of a reference picture as a prompt says. It was trained "
        f"by Diffusion Self-Distillation (https://arxiv.org/abs/2411.18616) from {_shown(saved)}, "
        f"conditioning `{saved.conditioning}`{frames}. What it was made with stands in `dsd.json`."
        if file_format != "release"
        else f"The weights of a student of `{saved.conditioning}` in the layout of the release of Diffusion "
        "Self-Distillation (https://arxiv.org/abs/2411.18616), for its code.",
        "## How to draw",
        snippets.usage(saved, file_format, repo or "FOLDER"),
    ]
    if rows:
        parts += ["## Figures", f"On {escaped(about)}; in brackets 95 % intervals.", _table(rows)]
    if picture is not None:
        shutil.copyfile(picture, folder / "answers.png")
        parts += ["## Pictures", "![References, and what was drawn of them](answers.png)"]
    conditioning = json.dumps(public_card(saved.card)["conditioning"])
    parts += ["## Made with", f"dsd {saved.card.get('dsd', '?')}; conditioning `{conditioning}`."]
    (folder / "README.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def _table(rows: Rows) -> str:
    measures = list(dict.fromkeys(name for row in rows.values() for name in row))
    lines = [
        ["Method", *(escaped(name.replace("_", " ")) for name in measures)],
        ["---"] * (1 + len(measures)),
    ]
    for label, row in rows.items():
        cells = [escaped(label)]
        for name in measures:
            value, interval = row.get(name, (None, None))
            bounds = f" ({interval[0]:.3f} to {interval[1]:.3f})" if interval and None not in interval else ""
            cells.append("\N{EN DASH}" if value is None else f"{value:.3f}{bounds}")
        lines.append(cells)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _shown(saved: Saved) -> str:
    """A base by its name; of a folder the last part alone, as its path is nobody's business."""
    card = public_card(saved.card)
    return escaped(public_base(card) or f"a folder {card.get('base_folder', '')}".rstrip())
