"""The released weights in memory, for the pipeline."""

from pathlib import Path
from typing import Any

import torch
from diffusers import FluxPipeline, FluxTransformer2DModel

from dsd.convert.adapters import LORA_FILE
from dsd.convert.folder import BASE, card
from dsd.convert.layouts import meta_model, open_layout, to_stock


def load_release(folder: Path, dtype: torch.dtype | str) -> FluxTransformer2DModel:
    """The released transformer in its stock form, adapters merged, without writing a file.

    Args:
        folder: in the release's layout.
        dtype: of the weights; the adapters are merged in the stored one first, as `convert` does.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if a file is damaged, or they do not fit each other.
    """
    dtype = getattr(torch, dtype.removeprefix("torch.")) if isinstance(dtype, str) else dtype
    config, entries = to_stock(open_layout(folder), merge=True)
    model = meta_model(folder, config)
    weights = {entry.name: entry.make().to(dtype, copy=True) for entry in entries}
    model.load_state_dict(weights, strict=True, assign=True)
    return model.requires_grad_(False).eval()


def load_adapters(denoiser: FluxTransformer2DModel, folder: Path) -> None:
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
