"""Cheap checks that need no network: is each panel a proper picture, and are the two not copies of each
other?

They say nothing of identity. Run them first, and spend a model's time on what they leave.
"""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float
from PIL import Image

from dsd.curators.base import Curator
from dsd.types import Pair, Verdict

_WORKING_PX = 128  # longer side at which panels are measured, so that limits do not depend on their size
_COMPARED_PX = 32  # side at which two panels are compared
_STEP = 0.06  # how much neighbouring columns must differ in some colour to count as different
_SEAM_SHARE = 0.9  # of the rows must differ for a seam; the sides of houses and poles reach 0.65
_GUTTER_STEP = 0.2  # how much a line of one colour must differ from both its sides to be a gutter
_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)

Pixels = Float[np.ndarray, "h w 3"]


class HeuristicCurator(Curator):
    """Drops pairs with a panel that is small, dark, flat, blurred or cut through, and pairs of near copies.

    The score is the share of the checks that the pair passes; the reason names those that it fails. Grey
    levels and colours go from 0 to 1.

    Args:
        min_side_px: shortest side of a panel.
        min_brightness: mean grey level of a panel.
        min_contrast: standard deviation of a panel's grey levels; an even area has 0.
        min_sharpness: steepest step between neighbours, as a share of the panel's range, at 128 px: about 0.5
            in a crisp picture, 0.1 in one blurred over a twentieth of its width.
        min_difference: root mean square difference of the two panels' colours at 32 px; copies have 0, a copy
            moved by one pixel in 64 has 0.06.
        allow_seams: do not look for the straight upright edges and the gutters that cross a panel where a
            teacher drew a grid of another layout than it was asked for.
    """

    free = True

    def __init__(
        self,
        min_side_px: int = 32,
        min_brightness: float = 0.06,
        min_contrast: float = 0.03,
        min_sharpness: float = 0.1,
        min_difference: float = 0.03,
        allow_seams: bool = False,
    ) -> None:
        self.min_side_px = min_side_px
        self.min_brightness = min_brightness
        self.min_contrast = min_contrast
        self.min_sharpness = min_sharpness
        self.min_difference = min_difference
        self.allow_seams = allow_seams

    def judge(self, pair: Pair) -> Verdict:
        """Run all checks on both panels and on the two together."""
        checks = [
            *(("reference " + text, passed) for text, passed in self._panel_checks(pair.reference)),
            *(("target " + text, passed) for text, passed in self._panel_checks(pair.target)),
            *self._pair_checks(pair),
        ]
        faults = [text for text, passed in checks if not passed]
        reason = "; ".join(faults) if faults else f"passed all {len(checks)} checks"
        return Verdict(keep=not faults, score=1 - len(faults) / len(checks), reason=reason)

    def _panel_checks(self, panel: Image.Image) -> Iterator[tuple[str, bool]]:
        """What is wrong with a panel if the check fails, and whether it passes."""
        side = min(panel.size)
        yield f"is small: {side} px, at least {self.min_side_px}", side >= self.min_side_px
        pixels = _pixels(panel, _WORKING_PX)
        grey = pixels @ _LUMA
        brightness, contrast, sharpness = float(grey.mean()), float(grey.std()), _sharpness(grey)
        yield f"is dark: {brightness:.3f}, at least {self.min_brightness}", brightness >= self.min_brightness
        yield f"is flat: {contrast:.3f}, at least {self.min_contrast}", contrast >= self.min_contrast
        yield f"is blurred: {sharpness:.3f}, at least {self.min_sharpness}", sharpness >= self.min_sharpness
        if not self.allow_seams:
            yield "is crossed by a seam", not _has_seam(pixels)

    def _pair_checks(self, pair: Pair) -> Iterator[tuple[str, bool]]:
        sizes = [f"{panel.width} x {panel.height} px" for panel in (pair.reference, pair.target)]
        yield f"sizes differ: {sizes[0]} and {sizes[1]}", sizes[0] == sizes[1]
        differ = difference(pair)
        yield (
            f"panels are near copies: they differ by {differ:.3f}, at least {self.min_difference}",
            differ >= self.min_difference,
        )


def difference(pair: Pair) -> float:
    """Root mean square difference of the two pictures' colours, from 0 to 1, at 32 px; copies have 0."""
    small = [_resized(panel, (_COMPARED_PX, _COMPARED_PX)) for panel in (pair.reference, pair.target)]
    return float(np.sqrt(np.mean((small[0] - small[1]) ** 2)))


def _pixels(panel: Image.Image, longest_px: int) -> Pixels:
    """Colours in [0, 1], made smaller where the panel is larger than `longest_px`."""
    scale = min(1.0, longest_px / max(panel.size))
    return _resized(panel, (max(1, round(panel.width * scale)), max(1, round(panel.height * scale))))


def _resized(panel: Image.Image, size: tuple[int, int]) -> Pixels:
    return np.asarray(panel.convert("RGB").resize(size, Image.Resampling.BOX), dtype=np.float32) / 255


def _sharpness(grey: Float[np.ndarray, "h w"]) -> float:
    """The steepest half percent of steps between neighbours, as a share of the range of grey levels."""
    steps = np.abs(np.concatenate([np.diff(grey, axis=0).ravel(), np.diff(grey, axis=1).ravel()]))
    low, high = np.percentile(grey, [1, 99])
    return float(np.percentile(steps, 99.5) / max(high - low, 1e-3)) if steps.size else 0.0


def _has_seam(pixels: Pixels) -> bool:
    """Whether a straight line crosses the inner three quarters of the panel.

    An upright edge from top to bottom is a seam if it stands out: in noise all columns do. One from side to
    side may be a horizon, so that there only a gutter counts: a line of one colour unlike both its sides.
    """
    margin = pixels.shape[1] // 8
    edges = (np.abs(np.diff(pixels, axis=1)).max(axis=-1) > _STEP).mean(axis=0)
    inner = edges[margin : len(edges) - margin]
    stands_out = inner.size > 0 and np.median(inner) < _SEAM_SHARE / 2 and inner.max() >= _SEAM_SHARE
    return bool(stands_out) or _has_gutter(pixels) or _has_gutter(pixels.swapaxes(0, 1))


def _has_gutter(pixels: Pixels) -> bool:
    """Whether an upright line of one colour, at most a sixteenth of the width, crosses the inner panel."""
    width = pixels.shape[1]
    reach, margin = max(2, width // 16), width // 8
    columns = slice(max(reach, margin), width - max(reach, margin))
    even = pixels.std(axis=0).max(axis=-1)[columns] < _STEP / 2
    left = np.abs(pixels - np.roll(pixels, reach, axis=1)).mean(axis=(0, 2))[columns]
    right = np.abs(pixels - np.roll(pixels, -reach, axis=1)).mean(axis=(0, 2))[columns]
    return bool((even & (np.minimum(left, right) > _GUTTER_STEP)).any())
