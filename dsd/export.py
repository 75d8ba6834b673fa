"""A trained student as a folder that stock diffusers loads."""

import importlib.metadata
import json
import shutil
from pathlib import Path
from typing import Any

import diffusers
import torch
from torch import nn

import dsd
from dsd import backbones
from dsd import conditioning as conditionings
from dsd.backbones.base import Backbone
from dsd.backbones.lora import adapter_state, merged_state
from dsd.conditioning.base import Conditioning

CARD = "dsd.json"
ADAPTERS = "adapters"
"""Folder of the adapters as they were trained, beside the weights that they are merged into: in half
precision they could not be told from those any more."""


def save(
    folder: str | Path,
    *,
    backbone: Backbone,
    conditioning: Conditioning,
    base: Any,
    frame_size: tuple[int, int] | None,
    components: str = "all",
) -> None:
    """Write a student; see `Student.save_pretrained`."""
    if components not in ("all", "trained"):
        raise ValueError(f"Unknown components={components!r}. Allowed: 'all', 'trained'.")
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{str(folder)!r} is a file. Give a folder, or a name that is free.")
    folder.mkdir(parents=True, exist_ok=True)
    assert backbone.denoiser is not None
    denoiser = plain_copy(backbone.denoiser)
    if components == "all":
        parts = {**backbone.components(), **conditioning.components(), "transformer": denoiser}
        pipeline = getattr(diffusers, conditioning.stock_pipeline or "FluxPipeline")
        pipeline(**parts).save_pretrained(folder, safe_serialization=True)
    else:
        denoiser.save_pretrained(folder / "transformer", safe_serialization=True)
    conditioning.save(folder)
    adapters = adapter_state(backbone.denoiser)
    if (folder / ADAPTERS).is_dir():  # of another student that was saved here
        shutil.rmtree(folder / ADAPTERS)
    if adapters:
        diffusers.FluxPipeline.save_lora_weights(folder / ADAPTERS, transformer_lora_layers=adapters)
    card = {
        "dsd": dsd.__version__,
        "conditioning": conditionings.spec(conditioning),
        "stock_pipeline": conditioning.stock_pipeline,
        "backbone": backbones.spec(backbone)["name"],
        "settings": backbone.settings,
        "base": base,
        "components": components,
        "frame_size": frame_size,
        "versions": {
            name: importlib.metadata.version(name) for name in ("torch", "diffusers", "transformers", "peft")
        },
    }
    (folder / CARD).write_text(json.dumps(card, indent=2) + "\n")


def plain_copy(denoiser: nn.Module) -> Any:
    """The denoiser as a fresh model of its class without adapters, sharing what memory it can."""
    model: Any = denoiser
    # Else diffusers would forget what was registered since loading where the file did not name it: the
    # config.json of FLUX.1-dev has no out_channels.
    config = {**model.config, "_use_default_values": []}
    with torch.device("meta"):
        plain = type(model).from_config(config)
    missing, _ = plain.load_state_dict(merged_state(denoiser), strict=False, assign=True)
    assert not missing, missing
    return plain
