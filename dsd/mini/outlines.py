"""Where in a small-world panel the character is, and which body and ears fit its outline.

The borders are compared with the six scenes, what differs from the scene that fits is the character, and its
silhouette is compared with a table of bodies and ears.
"""

from dataclasses import dataclass
from functools import cache
from itertools import product

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage

from dsd.mini import render
from dsd.mini.world import EARS, SCENES, SHAPES, Character, Context

EARLESS = "none"
EAR_KINDS = (*EARS, EARLESS)
_BORDER = np.r_[0:5, 59:64]
_HORIZONS = np.arange(38.0, 51.0)
_CELLS = 32
_PIECE_PX, _APART_PX = 12, 8
"""Size of a piece of a character at least, and how far from the largest it is at most."""

Panel = Float[np.ndarray, "64 64 3"]
Plane = Float[np.ndarray, "64 64"]


@cache
def _scenes() -> Float[np.ndarray, "scenes horizons 64 64 3"]:
    contexts = [
        Context(scene=s, x=0.0, y=0.0, size=1.0, tilt=0.0, gaze=0.0, light=1.0, horizon=float(h))
        for s in SCENES
        for h in _HORIZONS
    ]
    panels = render.draw_scene(contexts).transpose(0, 2, 3, 1)
    return panels.reshape(len(SCENES), len(_HORIZONS), *panels.shape[1:])


def measure_scene(panel: Panel) -> tuple[str, float, Panel]:
    """The scene whose borders fit best, the light, and the empty scene under that light."""
    templates = _scenes()
    borders = templates[:, :, :, _BORDER].reshape(len(SCENES), len(_HORIZONS), -1)
    seen = panel[:, _BORDER].reshape(-1)
    light = np.clip((borders @ seen) / (borders**2).sum(-1), 0.7, 1.15)
    for _ in range(2):  # a character at the border changes neither the light nor the horizon
        scenery = np.abs(light[..., None] * borders - seen) < 0.1
        light = np.clip((scenery * borders) @ seen / ((scenery * borders**2).sum(-1) + 1e-6), 0.7, 1.15)
    error = np.minimum(np.abs(light[..., None] * borders - seen), 0.25).mean(-1)
    scene, horizon = np.unravel_index(int(error.argmin()), error.shape)
    return SCENES[scene], float(light[scene, horizon]), light[scene, horizon] * templates[scene, horizon]


def silhouette(panel: Panel, empty: Panel) -> Bool[np.ndarray, "64 64"]:
    """The character: the largest piece that is neither the empty scene nor the scene in shadow, with the
    fainter pixels (pale horns) that hang together with it and the pieces around it, which a part of the
    scene's own colour cuts off; all up to where they are half covered, so that blur moves no outline.
    """
    off = np.abs(panel - empty).max(-1)
    labels, count = ndimage.label(_unlike_scene(panel, empty, off, 0.11, shadow_tolerance=0.06))
    if not count:
        return np.zeros(labels.shape, dtype=bool)
    largest = labels == 1 + int(ndimage.sum_labels(labels > 0, labels, range(1, count + 1)).argmax())
    around = ndimage.distance_transform_edt(~largest) < _APART_PX
    labels, _ = ndimage.label(largest | _unlike_scene(panel, empty, off, 0.08, shadow_tolerance=0.08))
    large = np.flatnonzero(np.bincount(labels.ravel()) >= _PIECE_PX)
    pieces = np.intersect1d(labels[around & (labels > 0)], large)
    whole = ndimage.binary_fill_holes(largest | np.isin(labels, pieces))
    difference = np.where(whole, off, 0)
    half = difference > 0.5 * ndimage.maximum_filter(difference, 3)
    inner = ndimage.binary_erosion(whole, np.ones((3, 3)), iterations=2)
    filled: Bool[np.ndarray, "64 64"] = ndimage.binary_fill_holes((half & whole) | inner)
    return filled


def _unlike_scene(
    panel: Panel, empty: Panel, off: np.ndarray, threshold: float, shadow_tolerance: float
) -> Bool[np.ndarray, "64 64"]:
    ratio = (panel * empty).sum(-1) / np.maximum((empty**2).sum(-1), 1e-4)
    shaded = np.abs(panel - ratio[..., None] * empty).max(-1) < shadow_tolerance
    shadow = shaded & (ratio > 0.62) & (ratio < 1.0)
    # a blurred horizon, or one that lies off, leaves a flat strip
    unlike = ndimage.binary_opening((off > threshold) & ~shadow, np.ones((3, 1)))
    found: Bool[np.ndarray, "64 64"] = ndimage.binary_opening(unlike, np.ones((1, 2)))
    return found


@dataclass(frozen=True, kw_only=True)
class Outline:
    """The body and ears of the table that fit a silhouette best.

    Attributes:
        shape: of `SHAPES`.
        ears: of `EAR_KINDS`.
        width: of the body, in shares of the usual one.
        height: the same.
        fit: overlap with the silhouette (intersection over union), in [0, 1].
        shape_fits: the best overlap of each of `SHAPES`.
        ear_fits: the best overlap of each of `EAR_KINDS` on a body of that shape.
        x: coordinate of each pixel to the body's right, in body radii from its centre.
        y: the same, downwards.
    """

    shape: str
    ears: str
    width: float
    height: float
    fit: float
    shape_fits: Float[np.ndarray, " shapes"]
    ear_fits: Float[np.ndarray, " ears"]
    x: Plane
    y: Plane


def fit_outline(mask: Bool[np.ndarray, "64 64"]) -> Outline:
    """What of the table fits a silhouette, which must not be empty, when it fills the same bounding box."""
    cells, (top, left, side) = _crop(mask)
    masks, table = _templates()
    shared = masks @ cells.reshape(-1)
    overlap = shared / (masks.sum(1) + cells.sum() - shared)
    best = table[int(overlap.argmax())]
    shapes, ears = _kinds()
    x, y = _place(best, left, top, side)
    return Outline(
        shape=best.shape, ears=best.ears, width=best.width, height=best.height, fit=float(overlap.max()),
        shape_fits=np.array([overlap[shapes == kind].max() for kind in SHAPES]),
        ear_fits=np.array([overlap[(shapes == best.shape) & (ears == kind)].max() for kind in EAR_KINDS]),
        x=x, y=y,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class _Template:
    shape: str
    ears: str
    width: float
    height: float
    tilt: float
    centre: tuple[float, float]
    """The body's centre, in shares of the bounding box's long side from its left upper corner."""
    radius: float
    """The body's radius in the same shares."""


@cache
def _templates() -> tuple[Float[np.ndarray, "templates cells"], tuple[_Template, ...]]:
    masks, templates = [], []
    proportions = ((0.8, 1.15), (0.9, 1.1), (1.0, 1.0), (1.1, 0.9), (1.15, 0.8))
    ears_and_sizes = [*product(EARS, (0.85, 1.0, 1.15)), (EARLESS, 1.0)]
    tilts = (-16.0, -8.0, 0.0, 8.0, 16.0)
    for shape, (ears, ear_size), (width, height), tilt in product(SHAPES, ears_and_sizes, proportions, tilts):
        character = Character(
            shape=shape, pattern="plain", ears=EARS[0] if ears == EARLESS else ears, colour=(0.0, 1.0, 1.0),
            pattern_colour=(0.0, 0.0, 0.0), width=width, height=height, eye_size=0.2, ear_size=ear_size,
        )  # fmt: skip
        context = Context(scene="snow", x=0.0, y=0.0, size=1.0, tilt=tilt, gaze=0.0, light=1.0, horizon=44.0)
        mask = render.silhouette(character, context, ears=ears != EARLESS) > 0.5
        cells, (top, left, side) = _crop(mask)
        masks.append(cells.reshape(-1))
        templates.append(
            _Template(
                shape=shape, ears=ears, width=width, height=height, tilt=tilt,
                centre=((render.CENTRE_PX[0] - left) / side, (render.CENTRE_PX[1] - top) / side),
                radius=render.RADIUS_PX / side,
            )
        )  # fmt: skip
    return np.stack(masks), tuple(templates)


@cache
def _kinds() -> tuple[np.ndarray, np.ndarray]:
    """The shape and the ears of each template."""
    _, table = _templates()
    return np.array([template.shape for template in table]), np.array([template.ears for template in table])


def _crop(
    mask: Bool[np.ndarray, "h w"],
) -> tuple[Float[np.ndarray, "cells cells"], tuple[float, float, float]]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    top, left = float(rows[0]), float(columns[0])
    side = float(max(rows[-1] - top, columns[-1] - left) + 1)
    y = np.clip(top + (np.arange(_CELLS) + 0.5) * side / _CELLS, 0, mask.shape[0] - 1).astype(int)
    x = np.clip(left + (np.arange(_CELLS) + 0.5) * side / _CELLS, 0, mask.shape[1] - 1).astype(int)
    inside_y = top + (np.arange(_CELLS) + 0.5) * side / _CELLS < mask.shape[0]
    inside_x = left + (np.arange(_CELLS) + 0.5) * side / _CELLS < mask.shape[1]
    cells = mask[np.ix_(y, x)] & inside_y[:, None] & inside_x[None, :]
    return cells.astype(np.float32), (top, left, side)


def _place(template: _Template, left: float, top: float, side: float) -> tuple[Plane, Plane]:
    """Coordinates of all pixels in body radii, upright, when the template fills the bounding box."""
    scale = template.radius * side
    axis = np.arange(render.PANEL_PX, dtype=np.float32) + 0.5
    dx = axis[None, :] - (left + template.centre[0] * side)
    dy = axis[:, None] - (top + template.centre[1] * side)
    cos, sin = np.cos(np.deg2rad(template.tilt)), np.sin(np.deg2rad(template.tilt))
    return (cos * dx + sin * dy) / scale, (-sin * dx + cos * dy) / scale
