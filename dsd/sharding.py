"""Weights spread over processes by PyTorch's FSDP2, and put together again to be saved or drawn with."""

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

from dsd.recomputing import blocks


def shard(model: nn.Module, mesh: DeviceMesh) -> None:
    """Spread a model's weights over a mesh of processes, block by block, so that one block at a time is
    whole.

    Args:
        model: a denoiser, or another network that is called as a whole.
        mesh: of one dimension.
    """
    for block in blocks(model):
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)


def is_sharded(module: nn.Module) -> bool:
    """Whether any part's weights are spread over processes."""
    return any(isinstance(part, FSDPModule) for part in module.modules())


def whole(x: Tensor) -> Tensor:
    """All of a tensor that is spread over processes, every one of which must ask; others as they are."""
    return x.full_tensor() if isinstance(x, DTensor) else x


def keep_apart(module: nn.Module, prefix: str) -> None:
    """Let DistributedDataParallel leave the buffers under `prefix` alone: every process computes the same
    ones, and sending them along with every step would cost as much as the gradients.
    """
    names = [name for name, _ in module.named_buffers() if name.startswith(f"{prefix}.")]
    torch.nn.parallel.DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(module, names)
