"""The one interface through which a reference reaches the denoiser, in training and in inference."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from dsd.backbones.base import Backbone, Latents, Pixels, Reference, Text
from dsd.backbones.packing import unpack
from dsd.registry import Recorded

Times = Float[Tensor, " b"]
Canvas = Float[Tensor, "b c h canvas_w"]


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What one call of the denoiser gets from the conditioning.

    Attributes:
        tokens: everything that is packed into tokens, noisy or not.
        ids: the tokens' positions.
        arguments: further arguments of the denoiser's `forward`.
    """

    tokens: Float[Tensor, "b n d"]
    ids: Float[Tensor, "n 3"]
    arguments: Mapping[str, Any] = field(default_factory=dict)


class Conditioning(Recorded, nn.Module, ABC):
    """How the reference reaches the denoiser.

    A *canvas* is the latents that are noised and denoised together: the target frame, for some conditionings
    with others beside it. Modules that a conditioning adds outside the denoiser are its own submodules.

    Attributes:
        frames: names of the canvas' frames, side by side from left to right and of one size; one of them is
            "target".
        stock_pipeline: the diffusers class that runs a saved student without dsd.
    """

    frames: ClassVar[tuple[str, ...]] = ("target",)
    stock_pipeline: ClassVar[str] = "FluxPipeline"

    @abstractmethod
    def install(self, denoiser: nn.Module) -> None:
        """Add what is needed to a text-to-image denoiser, so that its output stays, bit for bit."""

    def restore(self, denoiser: nn.Module, folder: Path) -> None:
        """Attach to the denoiser of a saved student; `folder` holds what `save` wrote. By default there is
        nothing to do.
        """

    def save(self, folder: Path) -> None:
        """Write what lies outside the denoiser beside a saved student. By default there is nothing."""

    def trained(self, denoiser: nn.Module) -> dict[str, nn.Parameter]:
        """The parameters that are trained in full, whatever else of the denoiser is: by default this module's
        own.
        """
        return dict(self.named_parameters())

    def components(self) -> dict[str, Any]:
        """Components that the stock pipeline needs beside the backbone's."""
        return {}

    @abstractmethod
    def encode(self, backbone: Backbone, reference: Pixels) -> Reference:
        """The reference as `canvas` and `inputs` want it; this is what is cached.

        Args:
            backbone: whose autoencoder to use.
            reference: pixels in [-1, 1].
        """

    def encode_target(self, backbone: Backbone, reference: Pixels, target: Pixels) -> Latents:
        """Latents of the target frame.

        Args:
            backbone: whose autoencoder to use.
            reference: pixels in [-1, 1], for conditionings that encode both frames at once.
            target: pixels in [-1, 1].
        """
        return backbone.encode_image(target)

    def canvas(self, reference: Reference, target: Latents) -> Canvas:
        """The clean canvas x_0. Its shape alone tells the pipeline how much noise to draw."""
        return target

    @abstractmethod
    def inputs(
        self, x_t: Canvas, t: Times, reference: Reference, text: Text, guidance: float | Times = 1.0
    ) -> Inputs:
        """Tokens, positions and further arguments for one call of the denoiser.

        Args:
            x_t: the noisy canvas.
            t: its time, in [0, 1].
            reference: as `encode` returned it; all zeros means that there is none.
            text: the encoded caption, for networks beside the denoiser.
            guidance: what a guidance-distilled network beside the denoiser is told.
        """

    def select(self, output: Float[Tensor, "b n k"], x_t: Canvas) -> Canvas:
        """The canvas' velocity out of all output tokens: by default all of them, unpacked."""
        return unpack(output, x_t.shape[-2], x_t.shape[-1])

    def split(self, canvas: Float[Tensor, "b c h w"]) -> dict[str, Float[Tensor, "b c h v"]]:
        """The frames of a canvas, of latents or of pixels, by name."""
        return dict(zip(self.frames, canvas.chunk(len(self.frames), dim=-1), strict=True))

    def crop(self, canvas: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h v"]:
        """The target frame of a canvas, of latents or of pixels."""
        return self.split(canvas)["target"]

    def velocity(
        self,
        backbone: Backbone,
        x_t: Canvas,
        t: Times,
        reference: Reference,
        text: Text,
        guidance: float | Times = 1.0,
    ) -> Canvas:
        """The canvas' predicted velocity: `inputs`, the denoiser, `select`. Training and inference both call
        this.
        """
        inputs = self.inputs(x_t, t, reference, text, guidance)
        output = backbone.call(inputs.tokens, t, text, inputs.ids, guidance, **inputs.arguments)
        return self.select(output, x_t)
