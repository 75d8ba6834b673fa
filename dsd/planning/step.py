"""One training step of a student without weights, followed tensor by tensor.

The student is the real one on fake tensors: they have shapes, types and lifetimes, and no memory. Autocast,
autograd, gradient checkpointing and the optimiser run as they do in training; only the kernels do not.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional

from dsd.backbones.base import Backbone, Batch, Text
from dsd.counting import BLOCKS, blank_batch, blank_text, meta_student
from dsd.memory import OTHER, PeakMemory
from dsd.planning.quantized import Quantize, quantize_frozen
from dsd.student import Student

PARTS = ("weights", "trained", "gradients", "optimiser", OTHER)
FORWARD, BACKWARD, OPTIMISER = "forward", "backward", "optimiser"


@dataclass(frozen=True, kw_only=True)
class TrackedStep:
    """What a step held at every moment.

    Attributes:
        moments: phase and bytes of each of `PARTS`, after each operation that changed something.
        num_trained: values that are trained.
        block_bytes: parameters of the largest transformer block.
        block_trained: those of them that are trained, in values.
        rest_bytes: parameters outside all blocks.
    """

    moments: tuple[tuple[str, tuple[int, ...]], ...]
    num_trained: int
    block_bytes: int
    block_trained: int
    rest_bytes: int


def track(
    student: Student,
    batch: Batch,
    *,
    autocast: bool,
    kernels: str = "cuda",
    quantize: Quantize | None = None,
    half_trained: bool = False,
) -> TrackedStep:
    """Follow the memory of a step in the midst of a training: the optimiser has its state, and the last
    step's gradients are there until the backward pass begins, as Lightning has it.

    Args:
        student: on the meta device; it cannot be used afterwards.
        batch: real and small, as `blank_batch` returns it.
        autocast: whether in bfloat16 mixed precision.
        kernels: "cuda" or "cpu": whose rules of mixed precision and whose optimiser.
        quantize: how the frozen linear layers are stored.
        half_trained: whether what is trained is there in bfloat16 only, as sharded training gathers it.
    """
    if quantize is not None:
        quantize_frozen(student, quantize, torch.bfloat16 if autocast else torch.float32)
    if kernels == "cuda":
        _float32_norms(student)
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    _materialise(student, mode, half_trained)
    trained = [p for p in student.parameters() if p.requires_grad]
    ids = {id(p) for p in trained}
    rest = [x for x in (*student.parameters(), *student.buffers()) if id(x) not in ids]
    optimizer = _optimizer(student, kernels)
    for parameter in trained:
        parameter.grad = torch.empty_like(parameter)
    optimizer.step()
    state = [x for values in optimizer.state.values() for x in values.values() if isinstance(x, Tensor)]
    there = {
        "weights": rest,
        "trained": trained,
        "gradients": [p.grad for p in trained if p.grad is not None],
        "optimiser": state,
        OTHER: _tensors(batch),
    }
    memory = PeakMemory(there, PARTS)
    del there, state  # or the gradients would live on
    hooks = [
        p.register_post_accumulate_grad_hook(lambda p: memory.move([p.grad], "gradients")) for p in trained
    ]
    with memory:
        memory.phase = FORWARD
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            loss, _ = student.losses(batch, torch.Generator().manual_seed(0))
        memory.phase = BACKWARD
        optimizer.zero_grad()
        loss.backward()
        del loss
        memory.phase = OPTIMISER
        optimizer.step()
    for hook in hooks:
        hook.remove()
    return TrackedStep(moments=tuple(memory.moments), **_blocks(student))


def fake_student(
    backbone: Backbone,
    conditioning: str | Mapping[str, Any],
    precision: str,
    **student: Any,
) -> Student:
    """A student on the meta device in the types of training, whose empty caption needs no text encoder.

    Args:
        backbone: as `skeleton` returns it.
        conditioning: as the student takes it.
        precision: "bf16" or "fp32": of the frozen weights.
        student: further arguments of `Student`.
    """
    if precision == "bf16":
        backbone.to(torch.bfloat16)
    built = meta_student(backbone, conditioning, reference_dropout=0.0, **student)

    def encode_text(captions: list[str]) -> Text:
        return blank_text(built, len(captions), text_tokens=512)

    built.backbone.encode_text = encode_text  # type: ignore[assignment,method-assign]
    return built


def encoded_batch(student: Student, precision: str, height: int, width: int, **arguments: Any) -> Batch:
    """A batch as the cache of encodings gives it, in the type of training.

    Args:
        student: of `fake_student`.
        precision: "bf16" or "fp32".
        height: of a frame, in pixels.
        width: of a frame, in pixels.
        arguments: further ones of `blank_batch`.
    """
    batch = blank_batch(student, height, width, **arguments)
    return batch.to(dtype=torch.bfloat16) if precision == "bf16" else batch


def _float32_norms(model: nn.Module) -> None:
    """Let norms compute in float32 under autocast, as CUDA's does and the CPU's does not."""
    for module in model.modules():
        if isinstance(module, nn.LayerNorm | nn.RMSNorm):
            # An attribute of the instance: gradient checkpointing calls it again in the backward pass.
            module.forward = functools.partial(_norm, module, module.forward)  # type: ignore[method-assign]


def _norm(module: Any, plain: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    if not torch.is_autocast_enabled("cpu"):
        return plain(x)
    weight = None if module.weight is None else module.weight.float()
    if isinstance(module, nn.RMSNorm):
        return functional.rms_norm(x.float(), list(module.normalized_shape), weight, module.eps)
    bias = None if module.bias is None else module.bias.float()
    return functional.layer_norm(x.float(), list(module.normalized_shape), weight, bias, module.eps)


def _materialise(student: Student, mode: FakeTensorMode, half_trained: bool) -> None:
    """Fake tensors of the CPU instead of the meta device's: autocast and the optimiser ask for a device."""
    made: dict[int, Tensor] = {}

    def fake(x: Tensor) -> Tensor:
        if id(x) not in made:
            dtype = torch.bfloat16 if half_trained and x.requires_grad else x.dtype
            with mode:
                new = torch.empty(x.shape, dtype=dtype, device="cpu")
            if isinstance(x, nn.Parameter):
                new = nn.Parameter(new, requires_grad=x.requires_grad)
            made[id(x)] = new
        return made[id(x)]

    kept = list(student.parameters())  # so that no id is given twice
    for module in student.modules():
        for tensors in (module._parameters, module._buffers):
            for name, x in tensors.items():
                if x is not None:
                    tensors[name] = fake(x)
    del kept
    student.refresh_trained()


def _optimizer(student: Student, kernels: str) -> torch.optim.Optimizer:
    """The student's own; on a GPU PyTorch takes the one that goes over all tensors at once."""
    found = student.configure_optimizers()
    optimizer: torch.optim.Optimizer = found["optimizer"] if isinstance(found, dict) else found
    if kernels == "cuda":
        for group in optimizer.param_groups:
            group["fused"], group["foreach"] = None, True
    return optimizer


def _tensors(batch: Batch) -> list[Tensor]:
    found: list[Tensor] = []
    batch.map(lambda x: found.append(x) or x)  # type: ignore[func-returns-value]
    return found


def _blocks(student: Student) -> dict[str, int]:
    blocks = [block for block in student.modules() if isinstance(block, BLOCKS)]
    sizes = [sum(p.numel() * p.element_size() for p in block.parameters()) for block in blocks]
    everything = sum(p.numel() * p.element_size() for p in student.parameters())
    trained = [sum(p.numel() for p in block.parameters() if p.requires_grad) for block in blocks]
    return {
        "num_trained": sum(p.numel() for p in student.parameters() if p.requires_grad),
        "block_bytes": max(sizes),
        "block_trained": max(trained),
        "rest_bytes": everything - sum(sizes),
    }
