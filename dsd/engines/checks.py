"""What plug-ins return, checked before it becomes rows."""

from dsd import grids, opening, pairs
from dsd.data.manifest import without_secrets
from dsd.data.rows import Failure
from dsd.types import Grid, Pair, Verdict

_FLAT = 4  # a picture whose channels all span fewer grey levels shows nothing


def checked_grid(grid: Grid, prompt_id: str) -> list[Grid] | Failure:
    """The grid, if it is a picture that can be cut into panels and shows something.

    Raises:
        ValueError: if it is the grid of another prompt: then the teacher is wrong, not the picture.
    """
    if grid.prompt.id != prompt_id:
        raise ValueError(
            f"The teacher returned a grid of prompt {grid.prompt.id} where that of {prompt_id} was due."
        )
    image = grid.image
    if image.mode != "RGB":
        return Failure(source=prompt_id, reason=f"The picture has mode {image.mode}, not RGB.")
    try:
        opening.check_size(image)
        grids.split(image, grid.prompt.layout)
    except ValueError as error:
        return failure(prompt_id, error)
    if all(high - low < _FLAT for low, high in image.getextrema()):  # type: ignore[misc]
        color = image.getpixel((0, 0))
        return Failure(
            source=prompt_id,
            reason=f"The picture is one colour, {color}: the model gave no numbers (try another dtype), or a "
            "filter struck.",
        )
    return [grid]


def pairs_of(grid_id: str, grid: Grid, max_pairs: int | None, seed: int) -> list[Pair] | Failure:
    """The pairs of a grid; see `dsd.pairs.from_panels`."""
    try:
        return pairs.from_panels(
            grid, grids.split(grid.image, grid.prompt.layout), max_pairs=max_pairs, seed=seed
        )
    except ValueError as error:
        return failure(grid_id, error)


def failure(source: str, error: Exception) -> Failure:
    """An error as a row, without the keys that its message may repeat."""
    return Failure(source=source, reason=without_secrets(f"{type(error).__name__}: {error}"))


def told(verdict: Verdict) -> Verdict:
    """The verdict without keys that an error message may have repeated."""
    if verdict.status in ("accepted", "rejected"):
        return verdict
    return Verdict(
        status=verdict.status,
        score=verdict.score,
        reason=without_secrets(verdict.reason),
        cost_usd=verdict.cost_usd,
        raw=without_secrets(verdict.raw),
    )
