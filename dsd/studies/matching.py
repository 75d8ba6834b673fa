"""What is trained of each backend, so that all train about as many parameters."""

import re
from typing import Any

from torch import nn

from dsd import conditioning as conditionings
from dsd.backbones.base import Backbone

NEAR = 0.15
"""Within this share of the budget a plain choice, all or only what is added, is taken instead of adapters."""
_TARGETS = "blocks"
_MAX_RANK = 4096


def matched(backbone: Backbone, conditioning: Any, budget: int | None = None) -> tuple[dict[str, Any], str]:
    """Arguments of `Student` that train about as many parameters as a budget allows.

    In order: the whole denoiser with what the conditioning adds; only what it adds; adapters on all linear
    layers of the blocks, of the rank that comes nearest, with what it adds. The first two count if they are
    within `NEAR` of the budget, the nearer one of them. Where nothing is, because the conditioning adds more
    than the budget, the nearest of all is taken; the report states how many it is.

    Args:
        backbone: with a denoiser that nothing is installed in; the conditioning is installed in it.
        conditioning: a name or a spec.
        budget: parameters to train; None for as many as the base's denoiser has.

    Returns:
        the arguments, and the choice in words.

    Raises:
        ValueError: if the budget is below 1.
    """
    denoiser = backbone.denoiser
    assert denoiser is not None
    budget = sum(p.numel() for p in denoiser.parameters()) if budget is None else budget
    if budget < 1:
        raise ValueError(f"`parameters` must be at least 1; got {budget}.")
    a_rank = _a_rank(denoiser, backbone.lora_targets[_TARGETS])  # as they are before anything is installed
    method = conditionings.create(conditioning)
    method.install(denoiser)
    own = list(method.trained(denoiser).values())
    added = sum(p.numel() for p in own)
    full = sum({id(p): p.numel() for p in (*own, *denoiser.parameters())}.values())

    plain: list[tuple[int, dict[str, Any], str]] = [(full, {"train": "full"}, "whole denoiser")]
    if added:
        plain.append((added, {"train": "added"}, "what is added"))
    rank = min(max(1, round((budget - added) / a_rank)), _MAX_RANK)
    adapters: dict[str, Any] = {"lora": {"rank": rank, "targets": _TARGETS}}
    near = [choice for choice in plain if abs(choice[0] / budget - 1) <= NEAR]
    found = near or [*plain, (added + rank * a_rank, adapters, f"LoRA of rank {rank}")]
    _, arguments, words = min(found, key=lambda choice: abs(choice[0] / budget - 1))
    return arguments, words


def _a_rank(denoiser: nn.Module, pattern: str) -> int:
    """Parameters of adapters of rank 1 on all layers that the pattern names."""
    return sum(
        module.in_features + module.out_features
        for name, module in denoiser.named_modules()
        if isinstance(module, nn.Linear) and re.fullmatch(pattern, name)
    )
