"""Low-rank adapters on a denoiser, and their way into its plain weights."""

import re
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import torch
from peft import LoraConfig
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

_ADAPTER = "default"


def add_lora(
    denoiser: nn.Module,
    known_targets: dict[str, str],
    *,
    rank: int = 16,
    alpha: float | None = None,
    targets: str = "attention",
    dropout: float = 0.0,
) -> None:
    """Put adapters W + (alpha / rank) B A on some linear layers; B starts at zero, so the output stays what
    it was.

    Args:
        denoiser: a diffusers model.
        known_targets: named sets of layers, as `Backbone.lora_targets`.
        rank: of B A. The release's size fits 128, the paper says 512.
        alpha: scale of the adapters; None for the rank itself, which makes the factor 1.
        targets: one of the named sets, or a regular expression that matches whole module names. (A list of
            suffixes, as peft also takes, would let `proj_out` match the blocks' and the model's own last
            layer.)
        dropout: of the adapters' input.

    Raises:
        ValueError: if no layer matches.
    """
    pattern = known_targets.get(targets, targets)
    linear = [name for name, module in denoiser.named_modules() if isinstance(module, nn.Linear)]
    if not any(re.fullmatch(pattern, name) for name in linear):
        raise ValueError(
            f"No linear layer of the denoiser matches the LoRA targets {targets!r}. Give one of "
            f"{', '.join(known_targets)}, or a regular expression for whole names such as {linear[-1]!r}."
        )
    adapters = LoraConfig(
        r=rank,
        lora_alpha=rank if alpha is None else alpha,  # peft takes fractions too
        target_modules=pattern,
        lora_dropout=dropout,
        bias="none",
    )
    model: Any = denoiser
    model.add_adapter(adapters, adapter_name=_ADAPTER)


def lora_parameters(denoiser: nn.Module) -> dict[str, nn.Parameter]:
    """The adapters' own parameters by name."""
    return {name: p for name, p in denoiser.named_parameters() if ".lora_A." in name or ".lora_B." in name}


@torch.no_grad()
def merged_state(denoiser: nn.Module) -> dict[str, Tensor]:
    """The denoiser's weights with all adapters added in, by the plain model's names. The denoiser stays as it
    is.
    """
    adapted: dict[str, Any] = {
        name: m for name, m in denoiser.named_modules() if isinstance(m, BaseTunerLayer)
    }
    extra = lora_parameters(denoiser).keys()
    merged = {}
    for name, value in denoiser.state_dict().items():
        if name in extra:
            continue
        layer, found, leaf = name.rpartition(".base_layer.")
        if found and leaf == "weight":
            value = (value.float() + adapted[layer].get_delta_weight(_ADAPTER).float()).to(value.dtype)
        merged[f"{layer}.{leaf}" if found else name] = value
    return merged


@torch.no_grad()
def adapter_state(denoiser: nn.Module) -> dict[str, Tensor]:
    """The adapters by their layers' names, `LAYER.lora_A.weight` and `LAYER.lora_B.weight`, with the scale
    alpha / rank in B, so that W + B A is the whole rule. Empty if there are none.
    """
    state = {}
    for name, module in denoiser.named_modules():
        layer: Any = module
        if isinstance(module, BaseTunerLayer) and _ADAPTER in layer.lora_A:
            down, up = layer.lora_A[_ADAPTER].weight, layer.lora_B[_ADAPTER].weight
            state[f"{name}.lora_A.weight"] = down.detach().cpu().clone()
            state[f"{name}.lora_B.weight"] = (up.detach() * layer.scaling[_ADAPTER]).cpu()
    return state


def table(trained: Mapping[str, nn.Parameter], denoiser: nn.Module) -> str:
    """What is trained, as text: groups of alike layers with their numbers of values and of tensors."""
    groups: dict[str, list[int]] = defaultdict(list)
    for name, parameter in trained.items():
        parts = [part for part in name.split(".") if not part.isdigit() and part != _ADAPTER]
        groups[".".join(parts)].append(parameter.numel())
    total = sum(sum(sizes) for sizes in groups.values())
    rows = [f"{sum(sizes):>14,}  {len(sizes):>4} x {name}" for name, sizes in groups.items()]
    everything = sum(parameter.numel() for parameter in denoiser.parameters())
    return "\n".join([f"Trained: {total:,} values; the denoiser has {everything:,} in all", *rows])
