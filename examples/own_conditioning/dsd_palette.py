"""A conditioning for dsd in a package of its own."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional

from dsd.backbones.base import Backbone, Reference, ReferencePixels, Text
from dsd.backbones.packing import grid_ids, pack
from dsd.conditioning.base import Canvas, Conditioning, Inputs, Times

FILE = "palette.safetensors"


class Palette(Conditioning):
    """The reference's latents, averaged over a few cells, are added to the caption's pooled embedding by a
    linear layer.

    The pooled embedding scales and shifts every layer of FLUX, so colours, light and rough layout come
    through at no cost in tokens; details do not. The layer starts at zero and has no bias, so that no
    reference means the base model.

    Args:
        cells: the reference is cut into so many rows and columns.
    """

    def __init__(self, cells: int = 4) -> None:
        super().__init__()
        if cells < 1:
            raise ValueError(f"`cells` must be at least 1; got {cells}.")
        self.cells = cells
        self.projection: nn.Linear | None = None

    def install(self, denoiser: nn.Module) -> None:
        """Make the layer; the denoiser stays as it is."""
        config: Any = denoiser.config
        features = config.in_channels // 4 * self.cells**2  # a token is 2 x 2 latents
        self._attach(denoiser, torch.zeros(config.pooled_projection_dim, features))

    def save(self, folder: Path) -> None:
        """Write the layer beside the denoiser."""
        assert self.projection is not None, "call `install` first"
        save_file({"weight": self.projection.weight.detach().cpu().contiguous()}, folder / FILE)

    def restore(self, denoiser: nn.Module, folder: Path) -> None:
        """Read the layer again."""
        self._attach(denoiser, load_file(folder / FILE)["weight"])

    def encode(self, backbone: Backbone, reference: ReferencePixels) -> Reference:
        """The mean latents of each cell: all that is cached of a reference."""
        return Reference(latents=functional.adaptive_avg_pool2d(backbone.encode_image(reference), self.cells))

    def inputs(
        self, x_t: Canvas, t: Times, reference: Reference, text: Text, guidance: float | Times = 1.0
    ) -> Inputs:
        """The noisy tokens alone."""
        return Inputs(tokens=pack(x_t), ids=grid_ids(x_t.shape[-2], x_t.shape[-1], x_t.device))

    def velocity(
        self,
        backbone: Backbone,
        x_t: Canvas,
        t: Times,
        reference: Reference,
        text: Text,
        guidance: float | Times = 1.0,
    ) -> Canvas:
        """As always, but with the palette in the caption."""
        assert self.projection is not None, "call `install` or `restore` first"
        assert reference.latents is not None
        palette = self.projection(reference.latents.flatten(1).to(self.projection.weight.dtype))
        told = Text(tokens=text.tokens, pooled=text.pooled + palette.to(text.pooled.dtype))
        return super().velocity(backbone, x_t, t, reference, told, guidance)

    def _attach(self, denoiser: nn.Module, weight: torch.Tensor) -> None:
        """Hold the layer, where the denoiser is and in its precision."""
        like = next(denoiser.parameters())
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
        layer.weight = nn.Parameter(weight.to(like.device, like.dtype))
        self.projection = layer
