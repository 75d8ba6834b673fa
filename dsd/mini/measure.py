"""What geometry and colour say of a small-world panel, without any network: scene, light, shape, ears,
pattern, colours.

Every answer is found by comparing the picture with what the renderer draws: the borders with the
six scenes, the silhouette with a table of bodies and ears, the marks on the body with the three patterns. So
identity is judged by something that a student cannot fool in the way in which it might fool a network.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product

import numpy as np
from jaxtyping import Bool, Float, Int
from PIL import Image
from scipy import ndimage

from dsd.mini import render
from dsd.mini.world import EARS, PATTERNS, SCENES, SHAPES, Character, Context

SAME = 0.8
"""Two panels show one character when their `identity` reaches this (see docs/mini.md for how it was
chosen)."""
_BORDER = np.r_[0:5, 59:64]
_HORIZONS = np.arange(38.0, 51.0)
_CELLS = 32
_TEMPERATURE = 0.02
"""How much overlap makes one body or one kind of ears likelier than another by a factor of e."""
_WEIGHTS = {
    "shape": 0.25,
    "ears": 0.15,
    "colour": 0.25,
    "pattern": 0.15,
    "pattern_colour": 0.15,
    "proportions": 0.05,
}

Panel = Float[np.ndarray, "64 64 3"]


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What was read off one panel.

    `shapes` and `ear_kinds` say how likely each of `SHAPES` and `EARS` is, and `shape` and `ears` are the
    likeliest: a blurred outline fits several. `colour` and `pattern_colour` are RGB in [0, 1] with the light
    taken out; `pattern_colour` is None on a plain body. `fit` is the overlap (intersection over union) of the
    silhouette and the best body in the table; a picture without any character has the shape "none" and a fit
    of 0.
    """

    scene: str
    light: float
    shape: str
    ears: str
    pattern: str
    colour: tuple[float, float, float]
    pattern_colour: tuple[float, float, float] | None
    proportions: float
    fit: float
    shapes: tuple[float, ...]
    ear_kinds: tuple[float, ...]


def as_panel(image: Image.Image) -> Panel:
    """A picture as RGB in [0, 1].

    Raises:
        ValueError: when it is not 64 x 64 px.
    """
    if image.size != (render.PANEL_PX, render.PANEL_PX):
        raise ValueError(
            f"Got a picture of {image.width} x {image.height} px; the small world's panels are 64 x 64 px. "
            "Split or resize it."
        )
    return np.asarray(image.convert("RGB"), dtype=np.float32) / 255


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
    error = np.minimum(np.abs(light[..., None] * borders - seen), 0.25).mean(-1)
    scene, horizon = np.unravel_index(int(error.argmin()), error.shape)
    return SCENES[scene], float(light[scene, horizon]), light[scene, horizon] * templates[scene, horizon]


def silhouette(panel: Panel, empty: Panel) -> Bool[np.ndarray, "64 64"]:
    """The character: the largest piece that is neither the empty scene nor the scene in shadow, with the
    fainter pixels (pale horns) that hang together with it.
    """
    labels, count = ndimage.label(_unlike_scene(panel, empty, 0.11, shadow_tolerance=0.06))
    if not count:
        return np.zeros(labels.shape, dtype=bool)
    largest = labels == 1 + int(ndimage.sum_labels(labels > 0, labels, range(1, count + 1)).argmax())
    labels, _ = ndimage.label(largest | _unlike_scene(panel, empty, 0.08, shadow_tolerance=0.08))
    filled: Bool[np.ndarray, "64 64"] = ndimage.binary_fill_holes(labels == labels[largest][0])
    return filled


def _unlike_scene(
    panel: Panel, empty: Panel, threshold: float, shadow_tolerance: float
) -> Bool[np.ndarray, "64 64"]:
    differs = np.abs(panel - empty).max(-1) > threshold
    ratio = (panel * empty).sum(-1) / np.maximum((empty**2).sum(-1), 1e-4)
    shaded = np.abs(panel - ratio[..., None] * empty).max(-1) < shadow_tolerance
    shadow = shaded & (ratio > 0.62) & (ratio < 1.0)
    found: Bool[np.ndarray, "64 64"] = ndimage.binary_opening(differs & ~shadow, np.ones((2, 2)))
    return found


@dataclass(frozen=True, kw_only=True)
class _Template:
    shape: str
    ears: str
    width: float
    height: float
    ear_size: float
    tilt: float
    centre: tuple[float, float]
    """The body's centre, in shares of the bounding box's long side from its left upper corner."""
    radius: float
    """The body's radius in the same shares."""


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


@cache
def _templates() -> tuple[Float[np.ndarray, "templates cells"], tuple[_Template, ...]]:
    masks, templates = [], []
    proportions = ((0.8, 1.15), (0.9, 1.1), (1.0, 1.0), (1.1, 0.9), (1.15, 0.8))
    for shape, ears, (width, height), ear_size, tilt in product(
        SHAPES, EARS, proportions, (0.85, 1.0, 1.15), (-16.0, -8.0, 0.0, 8.0, 16.0)
    ):
        character = Character(
            shape=shape, pattern="plain", ears=ears, colour=(0.0, 1.0, 1.0), pattern_colour=(0.0, 0.0, 0.0),
            width=width, height=height, eye_size=0.2, ear_size=ear_size,
        )  # fmt: skip
        context = Context(scene="snow", x=0.0, y=0.0, size=1.0, tilt=tilt, gaze=0.0, light=1.0, horizon=44.0)
        mask = render.silhouette(character, context) > 0.5
        cells, (top, left, side) = _crop(mask)
        masks.append(cells.reshape(-1))
        templates.append(
            _Template(
                shape=shape, ears=ears, width=width, height=height, ear_size=ear_size, tilt=tilt,
                centre=((render.CENTRE_PX[0] - left) / side, (render.CENTRE_PX[1] - top) / side),
                radius=render.RADIUS_PX / side,
            )
        )  # fmt: skip
    return np.stack(masks), tuple(templates)


def _two_colours(pixels: Float[np.ndarray, "n 3"]) -> tuple[np.ndarray, np.ndarray]:
    """Labels (0 or 1) and the two centres, by k-means from the two pixels that lie farthest from the mean and
    from it.
    """
    first = pixels[np.abs(pixels - np.median(pixels, 0)).sum(1).argmin()]
    second = pixels[
        np.quantile(np.abs(pixels - first).sum(1), 0.97, method="nearest") == np.abs(pixels - first).sum(1)
    ][0]
    centres = np.stack([first, second])
    for _ in range(6):
        labels = np.abs(pixels[:, None] - centres).sum(-1).argmin(1)
        centres = np.stack(
            [pixels[labels == k].mean(0) if (labels == k).any() else centres[k] for k in (0, 1)]
        )
    return labels, centres


def _marks(
    lit: Panel, body: np.ndarray, x_px: np.ndarray, y_px: np.ndarray
) -> tuple[str, np.ndarray, np.ndarray | None]:
    """Pattern, body colour and pattern colour, from the pixels of the body that are not eyes."""
    pixels = lit[body]
    labels, centres = _two_colours(pixels)
    if np.abs(centres[0] - centres[1]).max() < 0.16 or min(labels.mean(), 1 - labels.mean()) < 0.12:
        return "plain", np.median(pixels, 0), None
    best, score, cover = "plain", 0.3, np.zeros(len(pixels))
    for kind in PATTERNS[1:]:
        expected = render.pattern_cover(kind, x_px[body], y_px[body])
        if expected.std() < 1e-3 or labels.std() < 1e-3:
            continue
        agreement = float(np.corrcoef(expected, labels)[0, 1])
        if abs(agreement) > score:
            best, score, cover = kind, abs(agreement), expected
    if best == "plain":
        return "unclear", np.median(pixels, 0), None
    return best, np.median(pixels[cover < 0.3], 0), np.median(pixels[cover > 0.7], 0)


def _place(template: _Template, left: float, top: float, side: float) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates of all pixels in body radii, upright, when the template fills the bounding box."""
    scale = template.radius * side
    axis = np.arange(render.PANEL_PX, dtype=np.float32) + 0.5
    dx = axis[None, :] - (left + template.centre[0] * side)
    dy = axis[:, None] - (top + template.centre[1] * side)
    cos, sin = np.cos(np.deg2rad(template.tilt)), np.sin(np.deg2rad(template.tilt))
    return (cos * dx + sin * dy) / scale, (-sin * dx + cos * dy) / scale


@cache
def _kinds() -> tuple[Int[np.ndarray, " templates"], Int[np.ndarray, " templates"]]:
    _, templates = _templates()
    return (
        np.array([SHAPES.index(template.shape) for template in templates]),
        np.array([EARS.index(template.ears) for template in templates]),
    )


def _likely(overlaps: Float[np.ndarray, " kinds"]) -> Float[np.ndarray, " kinds"]:
    raised = np.exp((overlaps.astype(np.float64) - overlaps.max()) / _TEMPERATURE)
    return raised / raised.sum()


def _ears(pixels: np.ndarray, colour: np.ndarray, overlaps: Float[np.ndarray, "4"]) -> Float[np.ndarray, "4"]:
    """How likely each kind of ears is: horns by their colour, all others by their silhouette."""
    horns = np.arange(len(EARS)) == EARS.index("horns")
    if len(pixels) < 5:
        return _likely(overlaps)
    seen, flap = np.median(pixels, 0), 0.88 * colour
    pale = render.CREAM - flap
    if (seen - flap) @ pale > 0.33 * (pale**2).sum():  # a third: thin horns are blurred with what is behind
        return horns.astype(float)
    return _likely(np.where(horns, -1.0, overlaps))


def measure(image: Image.Image) -> Measurement:
    """Read one 64 x 64 px panel.

    Raises:
        ValueError: when the picture has another size.
    """
    panel = as_panel(image)
    scene, light, empty = measure_scene(panel)
    mask = silhouette(panel, empty)
    if mask.sum() < 60:
        return Measurement(
            scene=scene, light=light, shape="none", ears="none", pattern="none", colour=(0.0, 0.0, 0.0),
            pattern_colour=None, proportions=0.0, fit=0.0, shapes=(), ear_kinds=(),
        )  # fmt: skip
    cells, (top, left, side) = _crop(mask)
    masks, templates = _templates()
    shared = masks @ cells.reshape(-1)
    overlap = shared / (masks.sum(1) + cells.sum() - shared)
    best = templates[int(overlap.argmax())]
    x, y = _place(best, left, top, side)
    distance = render.body_distance(best.shape, x / best.width, y / best.height)
    body = (distance < -0.14) & mask & ~render.eye_region(best.shape, x / best.width, y / best.height)
    lit = np.clip(panel / light, 0, 1)
    if body.sum() < 20:
        body = mask
    pattern, colour, marks = _marks(lit, body, x * render.RADIUS_PX, y * render.RADIUS_PX)
    of_shape, of_ears = _kinds()
    shapes = _likely(np.array([overlap[of_shape == k].max() for k in range(len(SHAPES))]))
    this = overlap * (of_shape == SHAPES.index(best.shape))
    kinds = np.array([this[of_ears == k].max() for k in range(len(EARS))])
    ears = _ears(lit[mask & (distance > 0.15)], colour, kinds)
    return Measurement(
        scene=scene, light=light, shape=best.shape, ears=EARS[int(ears.argmax())], pattern=pattern,
        colour=(float(colour[0]), float(colour[1]), float(colour[2])),
        pattern_colour=None if marks is None else (float(marks[0]), float(marks[1]), float(marks[2])),
        proportions=best.width / best.height, fit=float(overlap.max()),
        shapes=tuple(map(float, shapes)), ear_kinds=tuple(map(float, ears)),
    )  # fmt: skip


def _near(a: Sequence[float] | None, b: Sequence[float] | None) -> float:
    """Likeness of two colours: 1 for the same, 0 from a distance of 0.5 on; two missing ones are alike."""
    if a is None or b is None:
        return float(a is None and b is None)
    return max(0.0, 1.0 - float(np.linalg.norm(np.subtract(a, b))) / 0.5)


def _shared(p: Sequence[float], q: Sequence[float]) -> float:
    """Bhattacharyya's coefficient of two distributions: 1 for the same, 0 for disjoint ones."""
    return float(np.sqrt(np.multiply(p, q)).sum())


def _colours_alike(a: Measurement, b: Measurement) -> tuple[float, float]:
    straight = _near(a.colour, b.colour), _near(a.pattern_colour, b.pattern_colour)
    if a.pattern != "stripes" or b.pattern != "stripes":
        return straight
    # which stripes are the body and which the pattern depends on where the first one falls
    swapped = _near(a.colour, b.pattern_colour), _near(a.pattern_colour, b.colour)
    return max(straight, swapped, key=sum)


def identity(a: Measurement, b: Measurement) -> float:
    """How alike two measured characters are, in [0, 1]: a weighted mean over what was measured, contexts left
    out.

    Shape .25, body colour .25, ears .15, pattern .15, pattern colour .15, proportions .05. Symmetric; 0 when
    either panel shows no character.
    """
    if a.fit == 0 or b.fit == 0:
        return 0.0
    colour, pattern_colour = _colours_alike(a, b)
    parts = {
        "shape": _shared(a.shapes, b.shapes),
        "ears": _shared(a.ear_kinds, b.ear_kinds),
        "pattern": float(a.pattern == b.pattern),
        "colour": colour,
        "pattern_colour": pattern_colour,
        "proportions": max(0.0, 1 - abs(np.log(a.proportions / b.proportions)) / np.log(1.7)),
    }
    total = sum(_WEIGHTS[name] * value for name, value in parts.items())
    return round(float(total), 9)  # exactly 1 for a copy


def consistent(panels: Sequence[Image.Image]) -> bool:
    """Whether all panels show one character: every two of them reach `SAME`."""
    seen = [measure(panel) for panel in panels]
    return all(identity(a, b) >= SAME for i, a in enumerate(seen) for b in seen[i + 1 :])
