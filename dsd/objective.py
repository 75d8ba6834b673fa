"""What a student learns: the flow-matching loss of a batch, and all choices of its randomness."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dsd import flow
from dsd.backbones.base import Backbone, Batch, Text
from dsd.conditioning.base import Conditioning
from dsd.randomness import Generators, draw

Guidance = float | tuple[float, float]


class Objective:
    """Times, noise, dropout, guidance and weights of the loss; see the arguments of `Student`.

    Raises:
        ValueError: for a choice that does not exist or a number out of its range.
        TypeError: for an argument that a law does not have.
    """

    def __init__(
        self,
        backbone: Backbone,
        conditioning: Conditioning,
        *,
        time_sampling: str | Mapping[str, Any] = "logit_normal",
        loss_weighting: str | Mapping[str, Any] = "none",
        guidance: Guidance = 1.0,
        text_dropout: float = 0.0,
        reference_dropout: float = 0.0,
        frame_weights: tuple[float, float] = (1.0, 1.0),
    ) -> None:
        self.backbone, self.conditioning = backbone, conditioning
        self.time_sampling = _law(time_sampling)
        self.loss_weighting = _law(loss_weighting)
        self.guidance = _range(guidance)
        self.text_dropout = _share("text_dropout", text_dropout)
        self.reference_dropout = _share("reference_dropout", reference_dropout)
        weights = dict(zip(("reference", "target"), frame_weights, strict=True))
        self.frame_weights = [float(weights.get(name, 1.0)) for name in conditioning.frames]
        if min(self.frame_weights) < 0 or sum(self.frame_weights) == 0:
            raise ValueError(
                f"frame_weights {frame_weights} leave no loss on the frames {conditioning.frames}. "
                "Give weights of at least 0 that are not all 0."
            )
        # An unknown law or argument shows now.
        flow.loss_weights(self.sample_times(1, 256, torch.Generator()), **self.loss_weighting)

    def sample_times(self, count: int, num_tokens: int, generators: Generators) -> Float[Tensor, " b"]:
        """Training times of canvases of that many image tokens."""
        arguments = dict(self.time_sampling)
        shift = arguments.pop("shift", 1.0)
        shift = self.backbone.time_shift(num_tokens) if shift == "schedule" else float(shift)
        times = draw(
            generators,
            count,
            lambda part, g: flow.sample_times(
                part.stop - part.start, **arguments, generator=g, device=g.device
            ),
        )
        return flow.shift_times(times, shift)

    def sample_guidance(self, count: int, generators: Generators) -> float | Float[Tensor, " b"]:
        """What the denoiser is told: the constant, or a number of the range for each element."""
        low, high = self.guidance
        if low == high:
            return low
        drawn = draw(
            generators,
            count,
            lambda part, g: torch.rand(part.stop - part.start, generator=g, device=g.device),
        )
        return low + (high - low) * drawn

    def loss(
        self, batch: Batch, generators: Generators, empty: Callable[[torch.device], Text] | None
    ) -> tuple[Float[Tensor, ""], Float[Tensor, " frames"]]:
        """The loss of a batch, and the plain error of each frame of the canvas: in float32, or in float64 if
        the denoiser's weights are. What is drawn is the same in both.

        Args:
            batch: encoded pairs.
            generators: where times, noise, dropout and guidance come from; on the batch's device.
            empty: the encoded empty caption, on a device; None for no dropout.
        """
        batch = batch.to(dtype=_wide(self.backbone.denoiser))
        reference, text, count = batch.reference, batch.text, len(batch)
        x_0 = self.conditioning.canvas(reference, batch.target)
        side = self.backbone.pixels_per_token // self.backbone.pixels_per_latent
        t = self.sample_times(count, x_0[0, 0].numel() // side**2, generators).to(x_0)
        if empty is not None:
            chance = draw(
                generators,
                count,
                lambda part, g: torch.rand(2, part.stop - part.start, generator=g, device=x_0.device),
                dim=1,
            )
            if self.reference_dropout > 0:
                reference = reference.masked(chance[0] >= self.reference_dropout)
            if self.text_dropout > 0:
                text = text.where(chance[1] >= self.text_dropout, empty(x_0.device))
        noise = draw(generators, count, lambda part, g: self.conditioning.noise(x_0[part], g)).to(x_0)
        guidance = self.sample_guidance(count, generators)
        x_t = flow.interpolate(x_0, noise, t)
        predicted = self.conditioning.velocity(self.backbone, x_t, t, reference, text, guidance)
        plain = self.loss_weighting["law"] == "none"
        weights = None if plain else flow.loss_weights(t, **self.loss_weighting)
        split = self.conditioning.split
        truth = flow.velocity(x_0, noise)
        return flow.loss([*split(predicted).values()], [*split(truth).values()], self.frame_weights, weights)


def _wide(denoiser: nn.Module | None) -> torch.dtype:
    """What a loss is computed in: half precision is autocast's affair, and weights may lie in fewer bits."""
    assert denoiser is not None, "load the denoiser first"
    weight = next(denoiser.parameters(), None)
    return torch.float64 if weight is not None and weight.dtype == torch.float64 else torch.float32


def _law(spec: str | Mapping[str, Any]) -> dict[str, Any]:
    return {"law": spec} if isinstance(spec, str) else dict(spec)


def _range(guidance: Any) -> tuple[float, float]:
    """Lowest and highest value; the same for a constant."""
    low, high = (guidance, guidance) if isinstance(guidance, int | float) else tuple(guidance)
    if not 0 <= low <= high:
        raise ValueError(
            f"guidance is a number of at least 0, or a range (low, high) to draw from; got {guidance}."
        )
    return float(low), float(high)


def _share(name: str, value: float) -> float:
    if not 0 <= value <= 1:
        raise ValueError(f"{name} is a share of the batch, from 0 to 1; got {value}.")
    return value
