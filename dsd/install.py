"""What of a student is trained: layers that a conditioning adds, adapters, or the whole denoiser."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from dsd.backbones.base import Backbone
from dsd.backbones.lora import add_lora, lora_parameters
from dsd.conditioning.base import Conditioning


def install(
    backbone: Backbone, conditioning: Conditioning, lora: Mapping[str, Any] | None, train: str
) -> list[nn.Parameter]:
    """Add a conditioning, and adapters if asked for, to a backbone's denoiser.

    Args:
        backbone: with its denoiser.
        conditioning: not installed yet.
        lora: arguments of `add_lora`; None for no adapters.
        train: without `lora`: "full" or "added"; see `Student`.

    Returns:
        the parameters that are to be trained.

    Raises:
        ValueError: if there is no such `train`, there is nothing to train, or it cannot be trained.
    """
    if train not in ("full", "added"):
        raise ValueError(f"Unknown train={train!r}. Allowed: 'full', 'added'; or give `lora`.")
    if lora is None and train == "full" and backbone.quantization is not None:
        raise ValueError("A quantised base cannot be trained in full. Give `lora`, or train='added'.")
    denoiser = backbone.denoiser
    assert denoiser is not None
    conditioning.install(denoiser)
    if lora is not None:
        add_lora(denoiser, dict(backbone.lora_targets), **lora)
    chosen = list(conditioning.trained(denoiser).values())
    if lora is not None:
        chosen += lora_parameters(denoiser).values()
    elif train == "full":
        chosen += denoiser.parameters()
    if not chosen:
        raise ValueError("The conditioning adds no weights to train. Give `lora`, or train='full'.")
    return chosen
