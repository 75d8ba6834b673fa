"""The release's second file: low-rank adapters of the transformer's layers."""

import json
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft.utils.other import get_pattern_key
from torch import Tensor

from dsd.convert.checkpoint import Stored, read_header

LORA_FILE = "pytorch_lora_weights.safetensors"
_KEY = re.compile(r"transformer\.(?P<module>.+?)\.(?P<part>lora_A\.weight|lora_B\.weight|lora_B\.bias|alpha)")
_METADATA = "lora_adapter_metadata"  # where diffusers from 0.35 on keeps the adapters' configuration


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """W + scale B A on one linear layer.

    Attributes:
        down: A, (rank, in).
        up: B, (out, rank).
        scale: alpha / rank; 1 where the file has no alpha.
        bias: what is added to the layer's bias, (out,); None for nothing.
    """

    down: Stored
    up: Stored
    scale: float
    bias: Stored | None = None

    def merged(self, weight: Tensor) -> Tensor:
        """The layer's weight with the adapter added in float32, in the weight's dtype."""
        up, down = self.up.load().float(), self.down.load().float()
        return torch.addmm(weight.float(), up, down, alpha=self.scale).to(weight.dtype)


def read_adapters(
    file: Path, shapes: Mapping[str, tuple[int, ...]], biases: bool = False
) -> dict[str, Adapter]:
    """The adapters by the names of their layers.

    Args:
        file: with keys `transformer.LAYER.lora_A.weight`, `.lora_B.weight` and perhaps `.alpha`.
        shapes: of the transformer's parameters by name.
        biases: whether there may be `.lora_B.bias` too.

    Raises:
        ValueError: if the file is damaged, holds anything else, or does not fit the transformer.
    """
    tensors, metadata = read_header(file)
    parts: dict[str, dict[str, Stored]] = defaultdict(dict)
    for key, stored in tensors.items():
        match = _KEY.fullmatch(key)
        if match is None or (match["part"] == "lora_B.bias" and not biases):
            raise ValueError(
                f"{file} holds {key!r}. Only `transformer.LAYER.lora_A.weight`, `.lora_B.weight` and "
                "`.alpha` can be converted: give the LoRA file of the release, in the format of diffusers."
            )
        parts[match["module"]][match["part"]] = stored
    if not parts:
        raise ValueError(f"{file} holds no adapters. Download it again.")
    if 0 < sum("alpha" in found for found in parts.values()) < len(parts):
        raise ValueError(f"{file} has an alpha for some layers only, so their scale is unclear.")
    config = _configuration(file, metadata)
    return {module: _adapter(file, module, found, shapes, config) for module, found in parts.items()}


def _adapter(
    file: Path,
    module: str,
    parts: Mapping[str, Stored],
    shapes: Mapping[str, tuple[int, ...]],
    config: Mapping[str, Any],
) -> Adapter:
    down, up = parts.get("lora_A.weight"), parts.get("lora_B.weight")
    if down is None or up is None:
        raise ValueError(
            f"{file} has lora_{'B' if down is None else 'A'} of {module!r} without its other half. "
            "Download it again."
        )
    weight = shapes.get(f"{module}.weight", ())
    if len(weight) != 2:
        raise ValueError(
            f"{file} adapts {module!r}, a layer that this transformer does not have. It belongs to another "
            "model: give the file that was published with the transformer."
        )
    if len(down.shape) != 2 or len(up.shape) != 2 or (up.shape[0], down.shape[1]) != weight:
        raise ValueError(
            f"{file} adapts {module!r} by {up.shape} x {down.shape}, but its weight is {weight}. It belongs "
            "to another model: give the file that was published with the transformer."
        )
    rank = down.shape[0]
    if rank != up.shape[1] or rank == 0:
        raise ValueError(f"{file} has no one rank for {module!r}: {up.shape} x {down.shape}.")
    bias = parts.get("lora_B.bias")
    if bias is not None and (bias.shape != up.shape[:1] or f"{module}.bias" not in shapes):
        raise ValueError(
            f"{file} adds a bias of {bias.shape} to {module!r}, whose bias is "
            f"{shapes.get(f'{module}.bias', 'none')}. It belongs to another model."
        )
    alpha = float(parts["alpha"].load()) if "alpha" in parts else _alpha(module, rank, config)
    scale = alpha / (rank**0.5 if config.get("use_rslora") else rank)
    return Adapter(down=down, up=up, scale=scale, bias=bias)


def _configuration(file: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    """The arguments of peft's `LoraConfig` that the file's header gives, if any."""
    try:
        given = json.loads(metadata.get(_METADATA, "{}"))
        config = {key.removeprefix("transformer."): value for key, value in given.items()}
    except (ValueError, AttributeError) as error:
        raise ValueError(f"The header of {file} has a {_METADATA!r} that is no JSON object.") from error
    if config.get("use_dora"):
        raise ValueError(f"The adapters in {file} are DoRA, which is not W + B A and cannot be converted.")
    return config


def _alpha(module: str, rank: int, config: Mapping[str, Any]) -> float:
    patterns = config.get("alpha_pattern") or {}
    given = patterns.get(get_pattern_key(list(patterns), module), config.get("lora_alpha"))
    return float(rank if given is None else given)
