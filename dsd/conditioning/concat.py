"""The reference as further input channels of one frame: the paper's "conditional" baseline."""

from pathlib import Path

from torch import nn

from dsd import pixels
from dsd.backbones.base import Backbone, Pixels, Reference, ReferencePixels, Text
from dsd.conditioning import widen
from dsd.conditioning.base import Canvas, Conditioning, Inputs, Times, one_of


class Concat(Conditioning):
    """The canvas is the target; every noisy token is told the clean reference token of the same place.

    The layout of Flux-Control: a student runs under stock `FluxControlPipeline` with the reference as its
    control image. What is at one place in the reference helps to draw that place in the target, so it suits
    targets that are aligned with their references, such as relighting; a subject that has moved is far from
    its own tokens. It costs almost nothing: no tokens are added.

    Args:
        fit: how a reference of another shape comes into the target's frame: "cover" cuts it around its
            centre, "contain" shows all of it between black bars.

    Raises:
        ValueError: for a choice that does not exist.

    References:
        Black Forest Labs, *FLUX.1 Tools*, 2024, https://bfl.ai/flux-1-tools (Canny and Depth).
    """

    stock_pipeline = widen.STOCK_PIPELINE

    def __init__(self, fit: pixels.Fit = "cover") -> None:
        super().__init__()
        self.fit = one_of("fit", fit, list(pixels.FITS))

    def install(self, denoiser: nn.Module) -> None:
        """Widen the input layer by zero columns.

        Raises:
            ValueError: if the denoiser has further input channels already.
        """
        widen.widen(denoiser)

    def restore(self, denoiser: nn.Module, folder: Path) -> None:
        """Check that the saved denoiser has the widened input.

        Raises:
            ValueError: if it has not.
        """
        widen.check_wide(denoiser, folder, "concat")

    def trained(self, denoiser: nn.Module) -> dict[str, nn.Parameter]:
        """The whole input layer."""
        return widen.input_layer(denoiser)

    def fitted(self, reference: Pixels, height: int, width: int) -> pixels.FramePixels:
        """In a frame of the target's size."""
        return pixels.FITS[self.fit](reference, height, width)

    def encode(self, backbone: Backbone, reference: ReferencePixels) -> Reference:
        """Its latents."""
        return Reference(latents=backbone.encode_image(reference))

    def inputs(
        self, x_t: Canvas, t: Times, reference: Reference, text: Text, guidance: float | Times = 1.0
    ) -> Inputs:
        """Noisy and clean tokens joined by channel.

        Raises:
            ValueError: if the reference is not of the target's size.
        """
        return widen.joined(x_t, reference)
