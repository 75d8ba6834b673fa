"""Linear layers whose frozen weight is stored in fewer bits, as shapes: what they keep and what they make.

The layouts are those of the usual kernels. All multiply in the layer's compute type, with a weight that is
unpacked for each product, forward and backward, and thrown away.

- nf4: two weights in a byte, a float32 scale for each 64 of them (bitsandbytes, without double quantisation);
- int8, fp8: a byte a weight, a float32 scale for each output (weight-only, as torchao has them).
"""

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

Quantize = Literal["nf4", "int8", "fp8"]
QUANTIZED = ("nf4", "int8", "fp8")
_NF4_BLOCK = 64


class QuantizedLinear(nn.Module):
    """Stands for a frozen linear layer; its values mean nothing, its shapes and types do.

    Args:
        layer: the layer; its bias is kept.
        how: the layout.
        compute: type of the products.
    """

    def __init__(self, layer: nn.Linear, how: Quantize, compute: torch.dtype) -> None:
        super().__init__()
        self.in_features, self.out_features, self.compute = layer.in_features, layer.out_features, compute
        weight = layer.weight
        if how == "nf4":
            packed = weight.new_empty(-(-weight.numel() // 2), dtype=torch.uint8)
            scales = -(-weight.numel() // _NF4_BLOCK)
        else:
            kind = torch.int8 if how == "int8" else torch.float8_e4m3fn
            packed, scales = weight.new_empty(weight.shape, dtype=kind), layer.out_features
        self.weight = nn.Parameter(packed, requires_grad=False)
        self.scale = nn.Parameter(weight.new_empty(scales, dtype=torch.float32), requires_grad=False)
        self.bias = layer.bias

    def forward(self, x: Tensor) -> Tensor:
        """The product, in the compute type."""
        product: Tensor = _Product.apply(x.to(self.compute), self.weight, self)
        return product if self.bias is None else product + self.bias.to(self.compute)


class _Product(torch.autograd.Function):
    """x W^T without keeping the unpacked W for the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, packed: Tensor, layer: QuantizedLinear) -> Tensor:
        ctx.save_for_backward(packed)
        ctx.layer = layer
        return functional.linear(x, _unpacked(packed, layer))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (packed,) = ctx.saved_tensors
        return gradients[0] @ _unpacked(packed, ctx.layer), None, None


def _unpacked(packed: Tensor, layer: QuantizedLinear) -> Tensor:
    return packed.new_empty((layer.out_features, layer.in_features), dtype=layer.compute)


def quantize_frozen(model: nn.Module, how: Quantize, compute: torch.dtype) -> int:
    """Put quantised layers in place of all linear ones that are not trained; returns how many.

    Args:
        model: with layers of any device, the meta device too.
        how: the layout.
        compute: type of the products.
    """
    found = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if isinstance(child, nn.Linear) and not any(p.requires_grad for p in child.parameters())
    ]
    for parent, name, child in found:
        setattr(parent, name, QuantizedLinear(child, how, compute))
    return len(found)
