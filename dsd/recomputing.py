"""Gradient checkpointing: what the forward pass keeps for the backward pass, and what is computed again."""

import functools
from collections.abc import Callable
from typing import Any

from torch import nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

Checkpointing = bool | int | str

_MATMULS = ("mm", "addmm", "bmm", "baddbmm")
_ATTENTION = "_scaled_dot_product_"  # flash, efficient, cudnn, flash for CPU: all of PyTorch's kernels


def enable(model: nn.Module, what: Checkpointing) -> None:
    """Let a diffusers model keep less in training and compute it again in the backward pass. Gradients stay.

    Args:
        model: with `enable_gradient_checkpointing`, such as a transformer or a ControlNet of diffusers.
        what: True or "all": every block keeps its inputs alone. A number n: only every n-th block does.
            "selective": all blocks do, but keep the results of attention and of every second matrix product,
            which are the dear ones. False: nothing changes.

    Raises:
        ValueError: for anything else.
    """
    if what is False:
        return
    stock: Any = model
    if what is True or what == "all" or what == 1:
        stock.enable_gradient_checkpointing()
    elif what == "selective":
        stock.enable_gradient_checkpointing(_selective)
    elif isinstance(what, int) and what > 1:
        stock.enable_gradient_checkpointing(_every(blocks(model), what))
    else:
        raise ValueError(
            f"Unknown gradient_checkpointing={what!r}. Allowed: False, True, a number n of at least 1 for "
            "every n-th block, 'all', 'selective'."
        )


def blocks(model: nn.Module) -> list[nn.Module]:
    """The blocks in order: what lies in lists of modules at the model's top."""
    lists = [child for child in model.children() if isinstance(child, nn.ModuleList)]
    return [block for several in lists for block in several]


def _every(among: list[nn.Module], n: int) -> Callable[..., Any]:
    chosen = {id(block) for block in among[::n]}

    def run(block: nn.Module, *args: Any) -> Any:
        if id(block) not in chosen:
            return block(*args)
        return checkpoint(block.__call__, *args, use_reentrant=False)

    return run


def _selective(block: nn.Module, *args: Any) -> Any:
    return checkpoint(block.__call__, *args, use_reentrant=False, context_fn=_contexts)


def _contexts() -> Any:
    """A context for the forward pass, and one for the second; each counts its matrix products."""
    counts = {False: 0, True: 0}
    return create_selective_checkpoint_contexts(functools.partial(_policy, counts))


def _policy(counts: dict[bool, int], context: Any, operation: Any, *args: Any, **kwargs: Any) -> Any:
    name = str(getattr(operation, "overloadpacket", operation)).rpartition(".")[2]
    if name.startswith(_ATTENTION):
        return CheckpointPolicy.MUST_SAVE
    if name in _MATMULS:
        counts[context.is_recompute] += 1
        if counts[context.is_recompute] % 2:
            return CheckpointPolicy.MUST_SAVE
    return CheckpointPolicy.PREFER_RECOMPUTE
