"""Batches of one layout each, where pairs differ in size or aspect."""

import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence

import numpy as np

Size = tuple[int, int]
"""Height and width in pixels."""


def aspect_buckets(area_px: int, unit_px: int = 64, max_aspect: float = 2.0) -> list[Size]:
    """Sizes of about one area and many aspects, from tall to wide.

    Args:
        area_px: of the square among them, such as 512 * 512; no size has more.
        unit_px: heights and widths are multiples of it.
        max_aspect: the longer side over the shorter one, at most.

    Raises:
        ValueError: if a number is out of range.

    Example:
        >>> aspect_buckets(256 * 256, max_aspect=2.0)
        [(320, 192), (256, 256), (192, 320)]
    """
    if unit_px < 16 or unit_px % 16 or area_px < unit_px**2 or max_aspect < 1:
        raise ValueError(
            "Buckets need a unit that is a multiple of 16 px, an area of at least one unit squared and an "
            f"aspect of at least 1; got unit_px={unit_px}, area_px={area_px}, max_aspect={max_aspect}."
        )
    sizes: dict[Size, None] = {}
    for height in range(unit_px, math.isqrt(area_px * math.ceil(max_aspect)) + unit_px, unit_px):
        width = area_px // height // unit_px * unit_px
        if width and max(height, width) <= max_aspect * min(height, width):
            sizes[height, width] = None
            sizes[width, height] = None
    best: dict[int, int] = {}  # of one width, the tallest
    for height, width in sizes:
        best[width] = max(height, best.get(width, 0))
    kept = {(height, width) for width, height in best.items()}
    return sorted(kept | {(width, height) for height, width in kept}, key=lambda s: s[1] / s[0])


def nearest(size: Size, buckets: Sequence[Size]) -> Size:
    """The bucket that a picture loses least in: the nearest aspect, then the nearest area."""
    height, width = size

    def distance(bucket: Size) -> tuple[float, float]:
        aspect = abs(math.log(bucket[1] / bucket[0] * height / width))
        return round(aspect, 9), abs(math.log(bucket[0] * bucket[1] / (height * width)))

    return min(buckets, key=distance)


def num_batches(layouts: Sequence[Hashable], size: int, ragged: bool) -> int:
    """How many batches `group` makes."""
    return sum(-(-count // size) if ragged else count // size for count in Counter(layouts).values())


def group(order: Sequence[int], layouts: Sequence[Hashable], size: int, ragged: bool) -> list[list[int]]:
    """Batches of one layout each, in the order in which they fill.

    Args:
        order: positions of pairs.
        layouts: of each pair, by position.
        size: pairs a batch.
        ragged: also make batches of what is left of each layout.
    """
    waiting: dict[Hashable, list[int]] = defaultdict(list)
    done = []
    for position in order:
        batch = waiting[layouts[position]]
        batch.append(int(position))
        if len(batch) == size:
            done.append(waiting.pop(layouts[position]))
    return done + [batch for batch in waiting.values() if ragged]


def share(batch: Sequence[int], rank: int, world_size: int) -> list[int]:
    """One process' part of a batch; all parts are as long, by repetition from the beginning."""
    filled = np.resize(np.asarray(batch), -(-len(batch) // world_size) * world_size)
    part: list[int] = filled[rank::world_size].tolist()
    return part
