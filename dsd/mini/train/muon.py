"""Muon for convolutions too: `torch.optim.Muon` takes matrices alone."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn


def orthogonalise(matrix: Tensor, steps: int = 5) -> Tensor:
    """Nearly the closest semi-orthogonal matrix, by the quintic Newton-Schulz iteration of Jordan et al.
    (2024), in bfloat16 as theirs: the singular values need not be exactly 1.
    """
    x = (matrix / (matrix.norm() + 1e-7)).bfloat16()
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    for _ in range(steps):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=-4.7750, alpha=2.0315), x, beta=3.4445)
    return (x.T if tall else x).to(matrix.dtype)


class Muon(torch.optim.Optimizer):
    """Momentum whose steps are orthogonalised, scaled to the size of AdamW's (Liu et al., 2025, arXiv
    2502.16982).

    A convolution's weight (out, in, kh, kw) counts as a matrix of `out` rows.
    """

    def __init__(
        self, params: Iterable[Tensor], lr: float, momentum: float = 0.95, weight_decay: float = 0.01
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        assert closure is None, "Muon takes no closure"
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state["momentum"] = torch.zeros_like(p)
                momentum = state["momentum"].lerp_(p.grad, 1 - group["momentum"])
                ahead = p.grad.lerp(momentum, group["momentum"]).flatten(1)
                size = 0.2 * max(ahead.shape) ** 0.5
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(orthogonalise(ahead).view_as(p), alpha=-size * group["lr"])


def split_parameters(module: nn.Module, inner: Callable[[str], bool]) -> tuple[list[Tensor], list[Tensor]]:
    """Weights of two or more axes whose name `inner` accepts, for Muon, and all others, for AdamW."""
    named = list(module.named_parameters())
    matrices: list[Tensor] = [p for name, p in named if p.ndim >= 2 and inner(name)]
    chosen = {id(p) for p in matrices}
    return matrices, [p for _, p in named if id(p) not in chosen]
