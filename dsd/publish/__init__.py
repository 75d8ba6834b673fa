"""A trained student in the forms that others load: diffusers, LoRA files, ComfyUI, one file, the release."""

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from diffusers import FluxPipeline
from safetensors.torch import save_file
from torch import Tensor

from dsd import export as exporting
from dsd.backbones.origin import is_local
from dsd.convert import convert
from dsd.convert.adapters import LORA_FILE
from dsd.convert.checkpoint import Entry, read_json, write_file
from dsd.convert.exports import COMFYUI_FILE, SINGLE_FILE, swapped
from dsd.convert.folder import new_folder
from dsd.convert.names import originals
from dsd.pipeline import DSDPipeline
from dsd.publish import hub, modelcard
from dsd.publish.lora import comfyui_state, low_rank, peft_state
from dsd.publish.saved import Saved, base_tensors, open_saved
from dsd.student import Student

__all__ = ["Exported", "export"]

_PLACES = ("_name_or_path", "name_or_path")
Format = Literal["diffusers", "lora", "comfyui", "single_file", "release"]


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What an export wrote.

    Attributes:
        folder: where it is.
        format: its form.
        num_bytes: of all files.
        url: of its page on the Hub; None if it was not pushed.
    """

    folder: Path
    format: str
    num_bytes: int
    url: str | None = None

    def __str__(self) -> str:
        text = f"{self.format} ({self.num_bytes / 1e6:,.1f} MB) in {self.folder}"
        return f"{text}, and at {self.url}" if self.url else text


def export(
    student: "str | PathLike[str] | Student",
    out: str | PathLike[str],
    format: Literal["diffusers", "lora", "comfyui", "single_file", "release"] = "diffusers",
    base: str | PathLike[str] | None = None,
    rank: int | None = None,
    report: str | PathLike[str] | None = None,
    push: str | None = None,
    private: bool = True,
) -> Exported:
    """Write a trained student in a form that others load, with a model card. Weights are safetensors, and OUT
    appears whole or not at all.

    Args:
        student: the folder of a student, its id on the Hub, or in Python a `Student`.
        out: the new folder.
        format: "diffusers", a whole folder for `from_pretrained`, adapters merged; "lora", a file for
            `load_lora_weights` of the conditioning's stock pipeline on the base; "comfyui", the same under
            ComfyUI's names; "single_file", the whole transformer under the original names, for
            `from_single_file` and ComfyUI; "release", the layout of the paper's release.
        base: where the base is, if it is not where it was in training; "lora" and "comfyui" compare with it.
        rank: of "lora" and "comfyui" for a student that was trained in full: adapters that come near it.
        report: the folder of a quickstart or an evaluation, whose figures and picture go into the model card.
        push: owner/name on the Hub, where the folder goes then; the token is that of `hf auth login` or
            HF_TOKEN.
        private: whether a repository that `push` makes is seen by its owner alone.

    Raises:
        FileNotFoundError: if there is no such student, base or report.
        FileExistsError: if `out` exists.
        ValueError: if the student cannot be written in that form.
        LookupError: if the Hub does not give the student or the base, or does not take the folder.
        OSError: if `out` cannot be written.
    """
    if format not in get_args(Format):
        raise ValueError(f"Unknown format={format!r}. Allowed: {', '.join(map(repr, get_args(Format)))}.")
    if rank is not None and (rank < 1 or format not in ("lora", "comfyui")):
        raise ValueError(f"`rank` is of 'lora' and 'comfyui', and at least 1; got {rank} for {format!r}.")
    if push is not None:
        hub.check_repo(push)
    if report is not None:
        modelcard.read_report(report)  # a report that cannot be read shows before the work
    target = Path(out).expanduser().absolute()
    with _folder_of(student) as folder:
        saved = open_saved(folder)
        if base is not None:
            saved = replace(saved, card={**saved.card, "base": str(base)})
        size = sum(
            stored.file.stat().st_size for stored in {x.file: x for x in saved.tensors.values()}.values()
        )
        with new_folder(target, size) as new:
            _WRITERS[format](saved, new, base=base, rank=rank)
            _forget_places(new)
            modelcard.write_card(new, saved, format, name=push or target.name, repo=push, report=report)
    num_bytes = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
    url = None
    if push is not None:
        url = hub.push(
            target, push, private=private, message=f"A student of {saved.conditioning} as {format}"
        )
    return Exported(folder=target, format=format, num_bytes=num_bytes, url=url)


@contextmanager
def _folder_of(student: "str | PathLike[str] | Student") -> Iterator[str | PathLike[str]]:
    if not isinstance(student, Student):
        yield student
        return
    with tempfile.TemporaryDirectory(prefix="dsd-export-") as folder:
        student.save_pretrained(folder, components="trained")
        yield folder


def _diffusers(saved: Saved, new: Path, base: Any, rank: Any) -> None:
    """Load and save: what the folder lacks comes from the base."""
    pipe = DSDPipeline.from_pretrained(saved.folder, torch_dtype=saved.dtype, base=base)
    exporting.save(
        new,
        backbone=pipe.backbone,
        conditioning=pipe.conditioning,
        base=saved.card["base"],
        frame_size=pipe.frame_size,
    )
    if saved.merged and saved.adapters:
        (new / exporting.ADAPTERS).mkdir()
        shutil.copyfile(saved.folder / exporting.ADAPTERS / LORA_FILE, new / exporting.ADAPTERS / LORA_FILE)


def _lora(saved: Saved, new: Path, base: Any, rank: int | None) -> None:
    state, config = peft_state(low_rank(saved, base_tensors(saved, base), rank))
    FluxPipeline.save_lora_weights(
        new, transformer_lora_layers=state, transformer_lora_adapter_metadata=config, weight_name=LORA_FILE
    )
    _copy_beside(saved, new)


def _comfyui(saved: Saved, new: Path, base: Any, rank: int | None) -> None:
    state = comfyui_state(low_rank(saved, base_tensors(saved, base), rank), saved)
    save_file(
        {name: x.contiguous() for name, x in state.items()}, new / COMFYUI_FILE, metadata={"format": "pt"}
    )
    _copy_beside(saved, new)


def _single_file(saved: Saved, new: Path, base: Any, rank: Any) -> None:
    write_file(new / SINGLE_FILE, _original_entries(saved))
    (new / "transformer").mkdir()  # for `config=` of from_single_file, which cannot guess other sizes
    shutil.copyfile(saved.folder / "transformer" / "config.json", new / "transformer" / "config.json")
    _copy_beside(saved, new)


def _release(saved: Saved, new: Path, base: Any, rank: Any) -> None:
    inner = new / "release"
    convert(saved.folder, inner, reverse=True, progress=False)
    for path in inner.iterdir():
        path.rename(new / path.name)
    inner.rmdir()


_WRITERS: dict[str, Callable[..., None]] = {
    "diffusers": _diffusers,
    "lora": _lora,
    "comfyui": _comfyui,
    "single_file": _single_file,
    "release": _release,
}


def _copy_beside(saved: Saved, new: Path) -> None:
    """The card, and what the conditioning keeps outside the denoiser."""
    for place, path in saved.beside().items():
        (new / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, new / place)
    _write_json(new / exporting.CARD, {**saved.card, "components": "none", "lora": None})


def _forget_places(new: Path) -> None:
    """Take out of an export where folders lie on this machine: of its card, and of what diffusers notes."""
    card = new / exporting.CARD
    if card.is_file():
        _write_json(card, exporting.public_card(read_json(card)))
    for file in new.glob("*/*.json"):
        content = read_json(file)
        places = [key for key in _PLACES if is_local(str(content.get(key) or "mini"))]
        if places:
            _write_json(file, {key: value for key, value in content.items() if key not in places})


def _write_json(file: Path, content: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _original_entries(saved: Saved) -> list[Entry]:
    """The transformer's weights under their original names, each made when it is written."""
    layers = list(dict.fromkeys(name.rpartition(".")[0] for name in saved.tensors))
    entries = []
    for original in originals(layers):
        for leaf in ("weight", "bias"):
            parts = [f"{part}.{leaf}" for part in original.parts]
            if parts[0] not in saved.tensors:
                continue
            first = saved.tensors[parts[0]]
            rows = sum(saved.tensors[part].shape[0] for part in parts)
            name = f"{original.name}.{'scale' if original.scale else leaf}"
            make = partial(_joined, saved, parts, original.swapped, first.dtype)
            entries.append(Entry(name=name, shape=(rows, *first.shape[1:]), dtype=first.dtype, make=make))
    return entries


def _joined(saved: Saved, parts: list[str], swap: bool, dtype: torch.dtype) -> Tensor:
    rows = torch.cat([saved.load(part).to(dtype) for part in parts])
    return swapped(rows) if swap else rows
