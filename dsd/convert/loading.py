"""A saved model's folder, of whatever form, as a backbone in memory, for the pipeline."""

from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from diffusers import FluxPipeline, FluxTransformer2DModel
from huggingface_hub import snapshot_download

from dsd import backbones
from dsd.backbones.base import Backbone
from dsd.backbones.origin import dtype_of
from dsd.convert.adapters import LORA_FILE
from dsd.convert.checkpoint import read_json
from dsd.convert.exports import ExportForm, export_form, merge_export, read_single_file
from dsd.convert.folder import BASE, card
from dsd.convert.layouts import is_release, meta_model, open_layout, to_stock
from dsd.export import CARD, base_of


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A folder and what is known of it. No weights are read yet.

    Attributes:
        folder: where it is.
        card: its `dsd.json`, or what stands for it; empty if nothing is known.
        released: whether it is in the layout of the published weights.
        form: of an export that is adapters or one file; None for others.
    """

    folder: Path
    card: Mapping[str, Any]
    released: bool
    form: ExportForm | None


def open_folder(folder: str | PathLike[str], local_files_only: bool = False) -> Opened:
    """Find a saved model and see what it is.

    Args:
        folder: a folder or a Hub id.
        local_files_only: never ask the Hub.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if what says what it is, is damaged.
    """
    path = Path(folder).expanduser()
    if path.is_file():
        raise FileNotFoundError(
            f"{str(folder)!r} is a file. Give its folder: what lies beside it says what it is."
        )
    if not path.is_dir():
        if str(folder).count("/") != 1 or str(folder).startswith((".", "/", "~")):
            raise FileNotFoundError(
                f"There is no folder {str(folder)!r}. Give one of Student.save_pretrained, or a Hub id."
            )
        path = Path(snapshot_download(str(folder), local_files_only=local_files_only))
    found = read_json(path / CARD) if (path / CARD).is_file() else {}
    exported = found.get("components") == "none"
    alone = not found and not (path / "model_index.json").is_file()
    form = export_form(path) if exported or alone else None
    if exported and form is None:
        raise FileNotFoundError(f"By its {CARD}, {path} is an export, but its weights are missing.")
    # The release has a LoRA file too, beside its transformer.
    released = alone and form in (None, "lora") and is_release(path)
    return Opened(
        folder=path,
        card=release_card() if released else found,
        released=released,
        form=None if released else form,
    )


def load_backbone(
    opened: Opened, base: str | PathLike[str] | None, dtype: torch.dtype | str, local_files_only: bool
) -> Backbone:
    """All parts of a saved model, adapters merged, from its folder and from its base.

    Args:
        opened: the folder.
        base: instead of the base that the folder names.
        dtype: of all weights.
        local_files_only: never ask the Hub.

    Raises:
        FileNotFoundError: if a file is missing, or the base is needed and not known.
        ValueError: if a file is damaged, or files do not fit each other.
        LookupError: if the Hub does not give the base.
    """
    card, path = opened.card, opened.folder
    whole = card.get("components", "all") == "all" and opened.form is None
    if base is None and whole:
        origin: dict[str, Any] = {"base": str(path)}
    else:
        given = str(base) if base is not None else base_of(card, path)
        origin = {"base": given} if isinstance(given, str) else dict(given)
        if opened.form is None:
            origin["denoiser"] = str(path / "transformer")
    origin |= {"name": card.get("backbone", "flux"), **card.get("settings", {})}
    apart = opened.released or opened.form == "single_file"
    parts = {"parts": ("vae", "text")} if apart else {}
    backbone = backbones.load({**origin, "dtype": dtype, "local_files_only": local_files_only, **parts})
    if opened.released:
        backbone.denoiser = load_release(path, dtype)
    elif opened.form == "single_file":
        backbone.denoiser = read_single_file(path, dtype_of(dtype))
    assert backbone.denoiser is not None
    if opened.form == "lora" or opened.form == "comfyui":
        merge_export(backbone.denoiser, path, opened.form)
    elif card.get("lora"):
        load_adapters(backbone.denoiser, path)
    return backbone


def load_release(folder: Path, dtype: torch.dtype | str) -> FluxTransformer2DModel:
    """The released transformer in its stock form, adapters merged, without writing a file.

    Args:
        folder: in the release's layout.
        dtype: of the weights; the adapters are merged in the stored one first, as `convert` does.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if a file is damaged, or they do not fit each other.
    """
    config, entries = to_stock(open_layout(folder), merge=True)
    model = meta_model(folder, config)
    weights = {entry.name: entry.make().to(dtype_of(dtype), copy=True) for entry in entries}
    model.load_state_dict(weights, strict=True, assign=True)
    return model.requires_grad_(False).eval()


def load_adapters(denoiser: Any, folder: Path) -> None:
    """Put the adapters that `convert(..., lora="keep")` wrote on a transformer, by diffusers' own loader.

    Args:
        denoiser: in its stock form.
        folder: where the LoRA file is.
    """
    state, alphas, metadata = FluxPipeline.lora_state_dict(
        str(folder), weight_name=LORA_FILE, return_alphas=True, return_lora_metadata=True
    )
    FluxPipeline.load_lora_into_transformer(
        state, alphas, denoiser, adapter_name="default", metadata=metadata
    )
    denoiser.requires_grad_(False).eval()


def release_card() -> dict[str, Any]:
    """What a `dsd.json` in the released folder would say."""
    return card(BASE, "trained", lora=False)
