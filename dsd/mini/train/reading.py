"""Says which scene stands in which panel, from T5 tokens: what teaches the T5 encoder to read early."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dsd.mini.train import text
from dsd.mini.train.examples import LAYOUTS, Examples
from dsd.mini.world import SCENES


class Reader(nn.Module):
    """Reads the scene of each panel from T5 tokens, by one attention query a panel. It is not shipped."""

    def __init__(self) -> None:
        super().__init__()
        self.queries = nn.ParameterDict(
            {name: torch.randn(rows * columns, text.WIDTH) for name, (rows, columns) in LAYOUTS.items()}
        )
        self.scene = nn.Linear(text.WIDTH, len(SCENES))

    def forward(self, tokens: Float[Tensor, "n length width"], batch: Examples) -> Tensor:
        """Cross-entropy of the scenes."""
        attention = (tokens @ self.queries[batch.layout].T / text.WIDTH**0.5).softmax(1)
        found = self.scene(torch.einsum("nlp,nlw->npw", attention, tokens))
        return nn.functional.cross_entropy(found.flatten(0, 1), batch.scenes.flatten(), ignore_index=-100)
