"""Two frames denoised together: the method of the paper, in the form of its public release."""

from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from dsd.backbones.base import Backbone, Latents, Pixels, Reference, Text
from dsd.backbones.packing import grid_ids, pack
from dsd.conditioning.base import Canvas, Conditioning, Inputs, Times

BLACK = -1.0


class Parallel(Conditioning):
    """The canvas is [reference | target]; both frames are noised, and every token is told the clean
    [reference | black].

    The left frame learns to repeat the reference and the right one to draw the target, and full attention
    between them carries the identity over. The clean latents enter as further input channels: `x_embedder`
    grows from c to 2 c columns, the new ones zero. The release adds the output of a second layer,
    `c_embedder`, instead, which is the same function: W = [W_x | W_c], b = b_x + b_c. So a student is a stock
    `FluxTransformer2DModel(in_channels=2c, out_channels=c)` under stock `FluxControlPipeline`.

    References:
        Cai et al., *Diffusion Self-Distillation for Zero-Shot Customized Image Generation*, 2024,
        https://arxiv.org/abs/2411.18616.
    """

    frames: ClassVar[tuple[str, ...]] = ("reference", "target")
    stock_pipeline: ClassVar[str] = "FluxControlPipeline"

    def install(self, denoiser: nn.Module) -> None:
        """Widen the input layer by zero columns.

        Raises:
            ValueError: if the denoiser has further input channels already.
        """
        flux: Any = denoiser
        channels, out_channels = _channels(flux)
        if channels != out_channels:
            raise ValueError(
                f"The base has {channels} input and {out_channels} output channels: it is no text-to-image "
                "model, or a conditioning is installed already. Give a base with as many of both."
            )
        old = flux.x_embedder
        new = nn.Linear(2 * channels, old.out_features, bias=old.bias is not None, device="meta")
        new.to_empty(device=old.weight.device).to(old.weight.dtype)
        with torch.no_grad():
            new.weight.zero_()
            new.weight[:, :channels] = old.weight
            if old.bias is not None:
                new.bias.copy_(old.bias)
        flux.x_embedder = new
        flux.register_to_config(in_channels=2 * channels, out_channels=channels)
        flux.out_channels = channels

    def restore(self, denoiser: nn.Module, folder: Path) -> None:
        """Check that the saved denoiser has the widened input.

        Raises:
            ValueError: if it has not.
        """
        channels, out_channels = _channels(denoiser)
        if channels != 2 * out_channels:
            raise ValueError(
                f"The denoiser in {str(folder)!r} has {channels} input and {out_channels} output channels; a "
                f"student of `parallel` or a converted release has {2 * out_channels} and {out_channels}."
            )

    def trained(self, denoiser: nn.Module) -> dict[str, nn.Parameter]:
        """The whole input layer."""
        flux: Any = denoiser
        return {f"x_embedder.{name}": parameter for name, parameter in flux.x_embedder.named_parameters()}

    def encode(self, backbone: Backbone, reference: Pixels) -> Reference:
        """Latents of the canvas [reference | black], encoded as one picture."""
        return Reference(
            latents=backbone.encode_image(torch.cat([reference, torch.full_like(reference, BLACK)], -1))
        )

    def encode_target(self, backbone: Backbone, reference: Pixels, target: Pixels) -> Latents:
        """The right half of the latents of [reference | target], since the canvas is decoded as one picture
        too.
        """
        return self.crop(backbone.encode_image(torch.cat([reference, target], dim=-1)))

    def canvas(self, reference: Reference, target: Latents) -> Canvas:
        """[reference | target]; the reference's own latents are the left half of its encoded canvas."""
        assert reference.latents is not None
        return torch.cat([self.split(reference.latents)["reference"], target], dim=-1)

    def inputs(
        self, x_t: Canvas, t: Times, reference: Reference, text: Text, guidance: float | Times = 1.0
    ) -> Inputs:
        """Noisy and clean tokens joined by channel."""
        assert reference.latents is not None
        tokens = torch.cat([pack(x_t), pack(reference.latents.to(x_t.dtype))], dim=-1)
        return Inputs(tokens=tokens, ids=grid_ids(x_t.shape[-2], x_t.shape[-1], x_t.device))


def _channels(denoiser: Any) -> tuple[int, int]:
    config = denoiser.config
    return config.in_channels, config.out_channels or config.in_channels
