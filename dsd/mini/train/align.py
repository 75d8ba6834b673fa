"""An auxiliary task that makes the teacher notice early who is in a panel, and what else.

It is representation alignment (REPA: Yu et al., 2024, arXiv 2410.06940), with the known facts of the small
world in the place of a vision model's features. Nothing of it is shipped.
"""

import math
from dataclasses import dataclass

import torch
from diffusers import FluxTransformer2DModel
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from dsd.mini.world import EARS, PATTERNS, SCENES, SHAPES, Character, Context, rgb

PANEL_TOKENS = 4
"""Tokens along a panel's side."""
CLASSES = (len(SHAPES), len(PATTERNS), len(EARS), len(SCENES))
NUM_NUMBERS = 18
NUM_COLOURS = 6
"""The first of the numbers are the colours of body and marks."""
COLOURS = 4.0
"""Weight of the colours' absolute error beside the squared one of the other numbers: a squared one is almost
nothing for the small differences between two shades of one colour word."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What is true of each panel: classes as indices, and numbers of about unit size."""

    classes: Int[Tensor, "n panels 4"]
    numbers: Float[Tensor, "n panels 18"]


def facts_of(character: Character, context: Context) -> tuple[list[int], list[float]]:
    """Classes and numbers of one panel."""
    colour = rgb(character.colour)
    marks = colour if character.pattern == "plain" else rgb(character.pattern_colour)
    turn = 2 * math.pi * context.gaze
    classes = [
        SHAPES.index(character.shape),
        PATTERNS.index(character.pattern),
        EARS.index(character.ears),
        SCENES.index(context.scene),
    ]
    numbers = [
        *(3 * (x - 0.5) for x in (*colour, *marks)),
        10 * (character.width - 1.02),
        10 * (character.height - 1.02),
        25 * (character.eye_size - 0.22),
        6 * (character.ear_size - 1.02),
        context.x / 5,
        context.y / 5,
        6 * (context.size - 1),
        context.tilt / 8,
        math.sin(turn),
        math.cos(turn),
        8 * (context.light - 1),
        (context.horizon - 44) / 4,
    ]
    return classes, numbers


class Aligner(nn.Module):
    """Reads the facts of each panel from the transformer's image tokens half-way through."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.hidden = nn.Linear(width, 256)
        self.out = nn.Linear(256, sum(CLASSES) + NUM_NUMBERS)
        self._tokens: Tensor | None = None

    def watch(self, transformer: FluxTransformer2DModel) -> None:
        """Keep the image tokens of the middle of the single blocks of each forward pass."""
        block = transformer.single_transformer_blocks[len(transformer.single_transformer_blocks) // 2 - 1]
        block.register_forward_hook(self._keep)

    def _keep(self, block: nn.Module, inputs: object, outputs: tuple[Tensor, Tensor]) -> None:
        self._tokens = outputs[1]

    def forward(self, rows: int, columns: int, facts: Facts) -> Tensor:
        """Loss over all panels of the last forward pass, on a canvas of so many tokens."""
        tokens, self._tokens = self._tokens, None
        assert tokens is not None, "the transformer was not run since"
        inner = functional.silu(self.hidden(self.norm(tokens)))
        side = PANEL_TOKENS
        panels = inner.reshape(len(inner), rows // side, side, columns // side, side, -1).mean((2, 4))
        found = self.out(panels.flatten(1, 2))
        *logits, numbers = found.split([*CLASSES, NUM_NUMBERS], dim=-1)
        wrong = [
            functional.cross_entropy(x.flatten(0, 1), facts.classes[..., i].flatten())
            for i, x in enumerate(logits)
        ]
        off = numbers - facts.numbers
        colours = off[..., :NUM_COLOURS].abs().mean()
        return torch.stack(wrong).mean() + off[..., NUM_COLOURS:].square().mean() + COLOURS * colours
