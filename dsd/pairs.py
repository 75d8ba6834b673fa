"""Panels of a grid to pairs of a reference and a target."""

import itertools
import random
from collections.abc import Sequence

from PIL import Image

from dsd.types import Grid, Pair


def from_panels(
    grid: Grid, panels: Sequence[Image.Image], *, max_pairs: int | None = None, seed: int = 0
) -> list[Pair]:
    """Pair the panels of one grid with each other, in both directions.

    Four panels give twelve pairs. The caption of a pair is that of its target panel.

    Args:
        grid: where the panels come from.
        panels: its panels row by row, as `dsd.grids.split` returns them.
        max_pairs: keep at most so many pairs of this grid, chosen at random; all by default.
        seed: of that choice, which depends on the seed and the grid alone, not on the grids before it.

    Returns:
        the pairs in order of reference panel, then target panel.

    Raises:
        ValueError: if there are fewer than two panels, their number is not that of the prompt's panel
            captions, or `max_pairs` is below 1.
    """
    captions = grid.prompt.panels
    if len(panels) < 2:
        raise ValueError(f"A pair needs at least 2 panels; a {grid.prompt.layout} grid has {len(panels)}.")
    if captions and len(captions) != len(panels):
        raise ValueError(
            f"The prompt describes {len(captions)} panels, but its grid has {len(panels)}. "
            f"Write one caption a panel, or none: {grid.prompt.text!r}."
        )
    if max_pairs is not None and max_pairs < 1:
        raise ValueError(f"`max_pairs` must be at least 1, or None for all pairs; got {max_pairs}.")
    order = list(itertools.permutations(range(len(panels)), 2))
    if max_pairs is not None and max_pairs < len(order):
        order = sorted(random.Random(f"{seed}:{grid.id}").sample(order, max_pairs))
    return [
        Pair(
            reference=panels[reference],
            target=panels[target],
            caption=captions[target] if captions else "",
            subject=grid.prompt.subject,
            kind=grid.prompt.kind,
            grid_id=grid.id,
            reference_panel=reference,
            target_panel=target,
            source=grid.teacher,
        )
        for reference, target in order
    ]
