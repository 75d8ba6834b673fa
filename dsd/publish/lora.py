"""What a student learned as low-rank layers on its base, under the names of diffusers or of ComfyUI."""

import logging
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from dsd.convert.checkpoint import Stored
from dsd.convert.exports import COMFYUI_PREFIX, LowRank, swapped
from dsd.convert.names import originals
from dsd.publish.saved import Saved

logger = logging.getLogger(__name__)

_ROUNDING = 2.0**-6  # of half-precision weights that adapters were merged into, relative to the largest


def low_rank(saved: Saved, base: Mapping[str, Stored], rank: int | None = None) -> dict[str, LowRank]:
    """Everything in which a student's denoiser differs from its base's, by layer.

    Adapters are taken as they were trained. Layers that were trained in full, such as a widened input layer,
    become exact products; with `rank`, all but the input layer are cut to their best approximation of it.

    Args:
        saved: the student.
        base: the transformer's tensors of its base.
        rank: for a student without adapters.

    Raises:
        ValueError: if the base is not the student's, nothing differs, or what differs is not low-rank and no
            `rank` was given.
    """
    _check_fit(saved, base)
    layers = {
        name: LowRank(down=adapter.down.load().float(), up=adapter.up.load().float() * adapter.scale)
        for name, adapter in saved.adapters.items()
    }
    lost, kept_of = 0.0, 0.0
    changed: dict[str, dict[str, Tensor]] = {}
    for name, stored in saved.tensors.items():
        layer, _, leaf = name.rpartition(".")
        # A base in float32 was rounded when it was loaded for training in half precision.
        old = _padded(base[name].load().to(stored.dtype).float(), stored.shape)
        new = saved.load(name).float()
        if layer in layers and leaf == "weight":
            _check_adapter(layer, layers[layer], old, new)
        elif not torch.equal(old, new) or (layer == "x_embedder" and old.shape != base[name].shape):
            changed.setdefault(layer, {})[leaf] = new - old
    others = [layer for layer in changed if layer != "x_embedder"]
    if others and rank is None:
        raise ValueError(
            f"{saved.folder} was trained in full: {len(others)} layers differ from the base without being "
            f"adapters, such as {others[0]!r}. Export it as 'diffusers' or 'single_file', or give `rank` for "
            "adapters that come near it."
        )
    for layer, parts in changed.items():
        weight, bias = parts.get("weight"), parts.get("bias")
        total = sum(float(part.square().sum()) for part in parts.values())
        kept_of += total
        if weight is not None and weight.ndim != 2:
            lost += total  # a norm: no low-rank layer can change it
            continue
        if weight is None:
            shape = saved.tensors[f"{layer}.weight"].shape
            found = LowRank(down=torch.zeros(1, shape[1]), up=torch.zeros(shape[0], 1), bias=bias)
        elif layer == "x_embedder" or rank is None or rank >= min(weight.shape):
            found = _exact(weight, bias)
        else:
            u, s, vt = torch.linalg.svd(weight, full_matrices=False)
            lost += float(s[rank:].square().sum())
            found = LowRank(down=vt[:rank].contiguous(), up=u[:, :rank] * s[:rank], bias=bias)
        layers[layer] = found
    if not layers:
        raise ValueError(
            f"The denoiser of {saved.folder} is that of its base: there is nothing to write as a LoRA. What "
            f"was trained lies beside it ({', '.join(map(str, saved.beside())) or 'nothing'}); export it as "
            "'diffusers'."
        )
    if lost:
        share = (lost / kept_of) ** 0.5
        logger.warning("Adapters of rank %s miss %.2g of what was trained (Frobenius norm).", rank, share)
    return layers


def peft_state(layers: Mapping[str, LowRank]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors by the names that `load_lora_weights` wants after `transformer.`, and peft's configuration."""
    ranks = {name: layer.down.shape[0] for name, layer in layers.items()}
    common = max(set(ranks.values()), key=list(ranks.values()).count)
    pattern = {f"^{re.escape(name)}": rank for name, rank in ranks.items() if rank != common}
    biased = any(layer.bias is not None for layer in layers.values())
    state: dict[str, Tensor] = {}
    for name, layer in layers.items():
        state[f"{name}.lora_A.weight"] = layer.down.contiguous()
        state[f"{name}.lora_B.weight"] = layer.up.contiguous()
        if biased:  # peft has biases on all adapters or on none
            bias = torch.zeros(layer.up.shape[0]) if layer.bias is None else layer.bias
            state[f"{name}.lora_B.bias"] = bias
    config = {
        "r": common,
        "lora_alpha": common,
        "rank_pattern": pattern,
        "alpha_pattern": dict(pattern),
        # Of whole names: as a list of suffixes, the last layer `proj_out` would be that of all blocks too.
        "target_modules": "|".join(re.escape(name) for name in layers),
        "lora_bias": biased,
    }
    return state, config


def comfyui_state(layers: Mapping[str, LowRank], saved: Saved) -> dict[str, Tensor]:
    """Tensors by ComfyUI's names.

    Layers that are one in the original get one adapter, whose rank is the sum of theirs. A widened input
    layer needs `reshape_weight`, its new shape; a changed bias is `diff_b`.
    """
    state: dict[str, Tensor] = {}
    for original in originals(
        name.removesuffix(".weight") for name in saved.tensors if name.endswith(".weight")
    ):
        touched = [layers[part] for part in original.parts if part in layers]
        if not touched:
            continue
        name = f"{COMFYUI_PREFIX}{original.name}"
        rows = [saved.tensors[f"{part}.weight"].shape[0] for part in original.parts]
        up = torch.zeros(sum(rows), sum(layer.down.shape[0] for layer in touched))
        bias = torch.zeros(sum(rows))
        row = column = 0
        for part, count in zip(original.parts, rows, strict=True):
            if part in layers:
                layer = layers[part]
                up[row : row + count, column : column + layer.up.shape[1]] = layer.up
                column += layer.up.shape[1]
                if layer.bias is not None:
                    bias[row : row + count] = layer.bias
            row += count
        state[f"{name}.lora_A.weight"] = torch.cat([layer.down for layer in touched])
        state[f"{name}.lora_B.weight"] = swapped(up) if original.swapped else up
        if any(layer.bias is not None for layer in touched):
            state[f"{name}.diff_b"] = swapped(bias) if original.swapped else bias
        if original.parts == ("x_embedder",):
            state[f"{name}.reshape_weight"] = torch.tensor([up.shape[0], touched[0].down.shape[1]])
    return state


def _exact(weight: Tensor, bias: Tensor | None) -> LowRank:
    """A product that is the weight itself: one factor is the identity."""
    out, inputs = weight.shape
    if inputs <= out:
        return LowRank(down=torch.eye(inputs), up=weight, bias=bias)
    return LowRank(down=weight, up=torch.eye(out), bias=bias)


def _padded(value: Tensor, shape: tuple[int, ...]) -> Tensor:
    """A base's weight with the further columns of a widened layer, which are zero."""
    if value.ndim != 2 or tuple(value.shape) == tuple(shape):
        return value
    return torch.nn.functional.pad(value, (0, shape[1] - value.shape[1]))


def _check_fit(saved: Saved, base: Mapping[str, Stored]) -> None:
    wrong = sorted(saved.tensors.keys() ^ base.keys())
    wrong += [
        name
        for name, stored in saved.tensors.items()
        if name in base
        and (len(stored.shape) != len(base[name].shape) or stored.shape[0] != base[name].shape[0])
    ]
    wrong += [
        name
        for name, stored in saved.tensors.items()
        if name in base and name != "x_embedder.weight" and stored.shape[1:] != base[name].shape[1:]
    ]
    if wrong:
        raise ValueError(
            f"The base does not fit {saved.folder}: they differ in {wrong[0]!r}. Give the base that the "
            "student was trained from."
        )


def _check_adapter(layer: str, adapter: LowRank, old: Tensor, new: Tensor) -> None:
    """Refuse a base, or adapters, of another student."""
    error = float((torch.addmm(old, adapter.up, adapter.down) - new).abs().max())
    if error > _ROUNDING * float(new.abs().max()):
        raise ValueError(
            f"{layer!r} of the student is not that of the base with the adapter added: they are {error:.2g} "
            "apart. Give the base that the student was trained from."
        )
