"""Exports for other programs, read back: adapters for a base, or a transformer in one file."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import FluxTransformer2DModel
from torch import Tensor, nn

from dsd.conditioning.widen import widen
from dsd.convert.adapters import LORA_FILE, read_adapters
from dsd.convert.checkpoint import Stored, read_config, read_header
from dsd.convert.layouts import meta_model
from dsd.convert.names import Original, originals

COMFYUI_FILE = "comfyui_lora.safetensors"
COMFYUI_PREFIX = "diffusion_model."
SINGLE_FILE = "diffusion_model.safetensors"

ExportForm = Literal["lora", "comfyui", "single_file"]
_FILES: Mapping[ExportForm, str] = {"lora": LORA_FILE, "comfyui": COMFYUI_FILE, "single_file": SINGLE_FILE}
_INPUT = "x_embedder"


@dataclass(frozen=True, kw_only=True)
class LowRank:
    """W + up down, b + bias on one linear layer, which may get further input columns.

    Attributes:
        down: (rank, in).
        up: (out, rank).
        bias: (out,); None where the bias stays.
    """

    down: Tensor
    up: Tensor
    bias: Tensor | None = None


def export_form(folder: Path) -> ExportForm | None:
    """Which export a folder is; None if it is none of those that need another program or a base."""
    return next((form for form, name in _FILES.items() if (folder / name).is_file()), None)


def read_single_file(folder: Path, dtype: torch.dtype) -> FluxTransformer2DModel:
    """The transformer of a "single_file" export.

    Unlike diffusers' `from_single_file`, which knows FLUX.1's width alone, this reads all sizes.

    Args:
        folder: with the file, and `transformer/config.json` beside it.
        dtype: of the weights.

    Raises:
        FileNotFoundError: if the configuration is missing.
        ValueError: if the file is damaged, or is not of that configuration.
    """
    file = folder / SINGLE_FILE
    stored, _ = read_header(file)
    model = meta_model(folder / "transformer", read_config(folder / "transformer"))
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    wanted = originals(dict.fromkeys(name.rpartition(".")[0] for name in shapes))
    weights: dict[str, Tensor] = {}
    for original in wanted:
        for leaf in ("weight", "bias"):
            parts = {f"{part}.{leaf}": shapes[f"{part}.{leaf}"] for part in original.parts
                     if f"{part}.{leaf}" in shapes}  # fmt: skip
            if parts:
                name = f"{original.name}.{'scale' if original.scale else leaf}"
                weights |= _split(file, name, stored.pop(name, None), parts, original.swapped, dtype)
    if stored:
        raise ValueError(
            f"{file} holds {next(iter(stored))!r}, which a transformer of {folder / 'transformer'}"
            "/config.json does not have. Files of two exports may be mixed."
        )
    model.load_state_dict(weights, strict=True, assign=True)
    return model.requires_grad_(False).eval()


@torch.no_grad()
def merge_export(denoiser: nn.Module, folder: Path, form: Literal["lora", "comfyui"]) -> None:
    """Add an export's adapters to the weights of its base, in float32.

    Args:
        denoiser: of the base; its input layer grows if the adapters are for a wider one.
        folder: with the file.
        form: of the file.

    Raises:
        ValueError: if the file is damaged or of another base.
    """
    file = folder / _FILES[form]
    layers = (_peft_layers if form == "lora" else _comfyui_layers)(file, denoiser)
    for name, layer in layers.items():
        linear: Any = denoiser.get_submodule(name)
        weight = torch.addmm(linear.weight.float(), layer.up.float(), layer.down.float())
        linear.weight.copy_(weight)
        if layer.bias is not None:
            linear.bias.copy_(linear.bias.float() + layer.bias.float())


def swapped(rows: Tensor) -> Tensor:
    """The second half of the rows before the first."""
    first, second = rows.chunk(2, dim=0)
    return torch.cat([second, first])


def _split(
    file: Path,
    name: str,
    stored: Stored | None,
    parts: Mapping[str, tuple[int, ...]],
    swap: bool,
    dtype: torch.dtype,
) -> dict[str, Tensor]:
    """The layers of diffusers that one original tensor holds."""
    rows = [shape[0] for shape in parts.values()]
    shape = (sum(rows), *next(iter(parts.values()))[1:])
    if stored is None or stored.shape != shape:
        found = "is missing" if stored is None else f"has the shape {stored.shape}"
        raise ValueError(
            f"{name!r} of {file} {found}, and by transformer/config.json it has {shape}. Files of two "
            "exports may be mixed, or the file is of another model."
        )
    values = stored.load().to(dtype)
    split = (swapped(values) if swap else values).split(rows)
    return {part: rows.clone() for part, rows in zip(parts, split, strict=True)}


def _peft_layers(file: Path, denoiser: nn.Module) -> dict[str, LowRank]:
    first = read_header(file)[0].get(f"transformer.{_INPUT}.lora_A.weight")
    if first is not None and len(first.shape) == 2:
        _grow(denoiser, first.shape[1])
    adapters = read_adapters(file, _shapes(denoiser), biases=True)
    return {
        name: LowRank(
            down=adapter.down.load(),
            up=adapter.up.load().float() * adapter.scale,
            bias=None if adapter.bias is None else adapter.bias.load().float() * adapter.scale,
        )
        for name, adapter in adapters.items()
    }


def _comfyui_layers(file: Path, denoiser: nn.Module) -> dict[str, LowRank]:
    stored, _ = read_header(file, integers=True)
    left = {name: x for name, x in stored.items()}
    names = [name.removesuffix(".weight") for name in _shapes(denoiser) if name.endswith(".weight")]
    layers: dict[str, LowRank] = {}
    for original in originals(names):
        prefix = f"{COMFYUI_PREFIX}{original.name}"
        down, up = (left.pop(f"{prefix}.lora_{x}.weight", None) for x in "AB")
        bias, shape = (left.pop(f"{prefix}.{x}", None) for x in ("diff_b", "reshape_weight"))
        if (down is None) != (up is None):
            raise ValueError(f"{file} has one half of the adapter of {prefix!r}. Download it again.")
        if down is None or up is None:
            continue
        if shape is not None and original.parts == (_INPUT,):
            _grow(denoiser, int(shape.load()[-1]))
        layers |= _parts(file, original, down, up, bias, _shapes(denoiser))
    if left or not layers:
        raise ValueError(
            f"{file} holds {next(iter(left), 'no adapters')!r}, which belongs to no layer of the base. Give "
            "the base that the student was trained from."
        )
    return layers


def _parts(
    file: Path,
    original: Original,
    down: Stored,
    up: Stored,
    bias: Stored | None,
    shapes: Mapping[str, tuple[int, ...]],
) -> dict[str, LowRank]:
    """The adapter of an original layer as those of the layers of diffusers that it holds."""
    rows = [shapes[f"{part}.weight"][0] for part in original.parts]
    columns = shapes[f"{original.parts[0]}.weight"][-1]
    if up.shape != (sum(rows), down.shape[0]) or down.shape[1:] != (columns,):
        raise ValueError(
            f"{file} adapts {original.name!r} by {up.shape} x {down.shape}, but its weight is "
            f"{(sum(rows), columns)}. Give the base that the student was trained from."
        )
    factor, ups, biases = down.load(), _unswapped(original, up).split(rows), [None] * len(rows)
    if bias is not None:
        biases = list(_unswapped(original, bias).split(rows))
    return {
        part: LowRank(down=factor, up=rows_, bias=bias_)
        for part, rows_, bias_ in zip(original.parts, ups, biases, strict=True)
    }


def _unswapped(original: Original, stored: Stored) -> Tensor:
    values = stored.load()
    return swapped(values) if original.swapped else values


def _grow(denoiser: nn.Module, columns: int) -> None:
    """Widen the input layer if the adapters are for one of twice the columns."""
    if columns == 2 * _shapes(denoiser)[f"{_INPUT}.weight"][1]:
        widen(denoiser)


def _shapes(denoiser: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in denoiser.state_dict().items()}
