"""Flow matching on straight paths, as FLUX.1 and diffusers have it: pure functions.

Everywhere in dsd, time t is in [0, 1]; t = 0 is data and t = 1 is noise; the velocity is noise - data. (Liu
et al. and Meta's `flow_matching` count the other way round.)
"""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

Sample = Float[Tensor, "batch *shape"]
Times = Float[Tensor, " batch"]
TimeLaw = Literal["logit_normal", "uniform", "mode"]
Weighting = Literal["none", "min_snr", "sigma_sqrt", "cosmap"]

_LEAST_TIME = 1e-3


def interpolate(x_0: Sample, noise: Sample, t: Times) -> Sample:
    r"""Point at time `t` on the straight path from data to noise, $x_t = (1 - t) x_0 + t \epsilon$.

    Args:
        x_0: clean latents, shifted and scaled as the denoiser expects them.
        noise: standard normal sample.
        t: one time for each element of the batch, in [0, 1].

    References:
        Liu et al., *Flow Straight and Fast*, 2022, https://arxiv.org/abs/2209.03003 (there t = 1 is data).
    """
    return torch.lerp(x_0, noise, t.reshape(-1, *[1] * (x_0.ndim - 1)))


def velocity(x_0: Sample, noise: Sample) -> Sample:
    """What the denoiser learns: the path's direction, noise - data, the same at every time."""
    return noise - x_0


def sample_times(
    count: int,
    law: TimeLaw | str = "logit_normal",
    *,
    mean: float = 0.0,
    std: float = 1.0,
    scale: float = 1.29,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
) -> Times:
    """Draw training times.

    Args:
        count: how many.
        law: "logit_normal" (the sigmoid of a normal variable: most in the middle, where learning is hardest;
            Esser et al. 2024, https://arxiv.org/abs/2403.03206), "uniform" on [0, 1), or "mode" (of the same
            paper: the middle is favoured, and both ends stay in reach).
        mean: of the normal variable; above 0 favours noise. Without effect on the other laws.
        std: of the normal variable. Without effect on the other laws.
        scale: of "mode": 0 is uniform, above 0 favours the middle, below 0 the ends; from -1 to 2 / (pi - 2).
            Without effect on the other laws.
        generator: where the randomness comes from; on the same device.
        device: where the times are wanted.

    Raises:
        ValueError: if the law is unknown, or `scale` is out of its range.
    """
    if not -1 <= scale <= 2 / (math.pi - 2):
        raise ValueError(f"`scale` must be from -1 to {2 / (math.pi - 2):.4f}; got {scale}.")
    if law == "logit_normal":
        return torch.sigmoid(mean + std * torch.randn(count, generator=generator, device=device))
    if law == "uniform":
        return torch.rand(count, generator=generator, device=device)
    if law == "mode":
        u = torch.rand(count, generator=generator, device=device)
        return 1 - u - scale * (torch.cos(math.pi / 2 * u) ** 2 - 1 + u)
    raise ValueError(f"Unknown time law {law!r}. Allowed: {', '.join(get_args(TimeLaw))}.")


def shift_times(t: Float[Tensor, "*any"], shift: float) -> Float[Tensor, "*any"]:
    r"""Move times towards noise, $t' = s t / (1 + (s - 1) t)$; 0 and 1 stay.

    Larger images need more noise to lose the same share of their content. FLUX.1 takes $s = e^\mu$ with
    `mu_for`; Stable Diffusion 3 takes s = 3.

    Args:
        t: times in [0, 1].
        shift: s, above 0; 1 changes nothing.
    """
    return shift * t / (1 + (shift - 1) * t)


def mu_for(
    num_tokens: int,
    *,
    base_tokens: int = 256,
    max_tokens: int = 4096,
    base_shift: float = 0.5,
    max_shift: float = 1.15,
) -> float:
    """FLUX.1's logarithm of the time shift: linear in the number of image tokens, through two points."""
    slope = (max_shift - base_shift) / (max_tokens - base_tokens)
    return base_shift + slope * (num_tokens - base_tokens)


def loss_weights(t: Times, law: Weighting | str = "none", *, gamma: float = 5.0) -> Times:
    r"""How much the squared error of the velocity counts at a time.

    Args:
        t: one time for each element of the batch, in [0, 1]; below 0.001, the first time of diffusers'
            schedule, it counts as 0.001.
        law: "none" (1 everywhere); "min_snr", the error of the clean picture times
            $\min(\mathrm{SNR}, \gamma)$, which for the velocity is $\min((1 - t)^2, \gamma t^2)$ (Hang et al.
            2023, https://arxiv.org/abs/2303.09556); Stable Diffusion 3's "sigma_sqrt", $t^{-2}$, and
            "cosmap", $2 / (\pi (1 - 2 t + 2 t^2))$ (Esser et al. 2024, https://arxiv.org/abs/2403.03206).
        gamma: of "min_snr". Without effect on the other laws.

    Raises:
        ValueError: if the law is unknown, or gamma is not above 0.
    """
    t = t.clamp(min=_LEAST_TIME)
    if gamma <= 0:
        raise ValueError(f"`gamma` must be above 0; got {gamma}. Usual: 5.")
    if law == "none":
        return torch.ones_like(t)
    if law == "min_snr":
        return torch.minimum((1 - t) ** 2, gamma * t**2)
    if law == "sigma_sqrt":
        return t**-2
    if law == "cosmap":
        return 2 / (math.pi * (1 - 2 * t + 2 * t**2))
    raise ValueError(f"Unknown loss weighting {law!r}. Allowed: {', '.join(get_args(Weighting))}.")


def loss(
    predicted: Sequence[Sample],
    truth: Sequence[Sample],
    weights: Sequence[float],
    element_weights: Times | None = None,
) -> tuple[Float[Tensor, ""], Float[Tensor, " frames"]]:
    """Mean squared error of the velocity, with a weight for each frame of the canvas.

    Equal weights give the plain mean over the whole canvas, if its frames are of one size.

    Args:
        predicted: the predicted velocity, frame by frame.
        truth: the true velocity, frame by frame.
        weights: one a frame; not all zero.
        element_weights: by which each element's error is multiplied before the mean, as `loss_weights`.

    Returns:
        The weighted mean, and the plain error of each frame by itself (detached).
    """
    wide = torch.float32  # at least
    for x in (*predicted, *truth):
        wide = torch.promote_types(wide, x.dtype)
    pairs = [(p.to(wide), v.to(wide)) for p, v in zip(predicted, truth, strict=True)]
    if element_weights is None:
        errors = torch.stack([functional.mse_loss(p, v) for p, v in pairs])
        weighted = errors
    else:
        each = torch.stack([(p - v).square().flatten(1).mean(1) for p, v in pairs])
        errors, weighted = each.mean(1), (each * element_weights.to(each)).mean(1)
    share = errors.new_tensor([weight / sum(weights) for weight in weights])
    return (weighted * share).sum(), errors.detach()


def euler(
    velocity: Callable[[Sample, Times], Sample], noise: Sample, times: Float[Tensor, " num_times"]
) -> Sample:
    """Follow a velocity field from noise to data by Euler's method.

    Args:
        velocity: of a batch of points, each with its time.
        noise: where to start.
        times: falling, from 1 to 0; one more than there are steps.
    """
    x = noise
    for t, t_next in itertools.pairwise(times):
        x = x + (t_next - t) * velocity(x, t.expand(len(x)))
    return x
