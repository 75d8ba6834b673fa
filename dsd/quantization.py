"""Frozen bases in fewer bits, by the packages that diffusers knows: bitsandbytes and torchao."""

import importlib.util
from collections.abc import Callable, Mapping
from typing import Any

import torch

Spec = str | Mapping[str, Any]

FULL_PRECISION = ("x_embedder", "context_embedder", "time_text_embed", "norm_out", "proj_out")
"""Layers at a denoiser's ends: few weights, much effect; conditionings widen the first."""


def _nf4(dtype: torch.dtype, keep: list[str], **arguments: Any) -> Any:
    from diffusers import BitsAndBytesConfig

    options = {"bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": dtype, "llm_int8_skip_modules": keep}
    return BitsAndBytesConfig(load_in_4bit=True, **{**options, **arguments})


def _int8(dtype: torch.dtype, keep: list[str], **arguments: Any) -> Any:
    from diffusers import BitsAndBytesConfig

    return BitsAndBytesConfig(load_in_8bit=True, **{"llm_int8_skip_modules": keep, **arguments})


def _torchao(kind: str) -> Callable[..., Any]:
    def config(dtype: torch.dtype, keep: list[str], **arguments: Any) -> Any:
        import torchao.quantization
        from diffusers import TorchAoConfig

        weights = getattr(torchao.quantization, kind)(**arguments)
        return TorchAoConfig(weights, modules_to_not_convert=keep)

    return config


_SCHEMES: Mapping[str, tuple[str, Callable[..., Any]]] = {
    "nf4": ("bitsandbytes", _nf4),
    "int8": ("bitsandbytes", _int8),
    "fp8_torchao": ("torchao", _torchao("Float8WeightOnlyConfig")),
    "int8_torchao": ("torchao", _torchao("Int8WeightOnlyConfig")),
}
SCHEMES = tuple(_SCHEMES)
"""What a frozen base may be stored in: 4 or 8 bits by bitsandbytes, 8 bits (fp8 or integers) by torchao."""


def check(spec: Spec) -> str:
    """The scheme's name, if it is known and its package is there.

    Raises:
        ValueError: if there is no such scheme.
        ModuleNotFoundError: if the package is not installed.
    """
    name = spec if isinstance(spec, str) else str(spec.get("name"))
    if name not in _SCHEMES:
        raise ValueError(f"Unknown quantization {name!r}. Allowed: {', '.join(_SCHEMES)}, or None.")
    package = _SCHEMES[name][0]
    if importlib.util.find_spec(package) is None:
        raise ModuleNotFoundError(
            f"quantization={name!r} needs {package}, which is not installed: "
            f"pip install 'diffusion-self-distillation[{package}]'.",
            name=package,
        )
    return name


def config(spec: Spec, dtype: torch.dtype) -> Any:
    """The `quantization_config` of diffusers' `from_pretrained`.

    Args:
        spec: a name of `SCHEMES`, or `{"name": ..., **arguments of the package's own configuration}`.
        dtype: what is computed in.

    Raises:
        ValueError: if there is no such scheme.
        ModuleNotFoundError: if the package is not installed.
    """
    name = check(spec)
    arguments = {} if isinstance(spec, str) else {key: v for key, v in spec.items() if key != "name"}
    return _SCHEMES[name][1](dtype, list(FULL_PRECISION), **arguments)
