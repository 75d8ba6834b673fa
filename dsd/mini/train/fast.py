"""What makes a training step of the teacher about twice as fast on processors that multiply in bfloat16."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.nn import functional

_fused = functional.scaled_dot_product_attention


def attention(query: Tensor, key: Tensor, value: Tensor, attn_mask: Any = None, **options: Any) -> Tensor:
    """`scaled_dot_product_attention` by two multiplications."""
    scale = options.get("scale")
    scores = (query * (query.shape[-1] ** -0.5 if scale is None else scale)) @ key.transpose(-1, -2)
    if options.get("is_causal"):
        future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
        scores = scores.masked_fill(future, -torch.inf)
    if attn_mask is not None:
        scores = (
            scores.masked_fill(~attn_mask, -torch.inf)
            if attn_mask.dtype == torch.bool
            else scores + attn_mask
        )
    return scores.softmax(-1).to(value.dtype) @ value


@contextmanager
def fast() -> Iterator[None]:
    """Everything inside runs in bfloat16 where that is exact enough, attention taken apart: the backward pass
    of torch's fused one for CPUs took 43 % of a step with heads of 32.
    """
    with (
        mock.patch.object(functional, "scaled_dot_product_attention", attention),
        torch.autocast("cpu", torch.bfloat16),
    ):
        yield
