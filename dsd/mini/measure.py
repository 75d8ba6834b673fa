"""What geometry and colour say of a small-world panel, without any network: scene, light, shape, ears,
pattern, colours.

Every answer is found by comparing the picture with what the renderer draws: the borders with the
six scenes, the silhouette with a table of bodies and ears, the marks on the body with the three patterns. So
identity is judged by something that a student cannot fool in the way in which it might fool a network.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from jaxtyping import Float
from PIL import Image
from scipy import ndimage

from dsd.mini import render
from dsd.mini.outlines import EAR_KINDS, Panel, fit_outline, measure_scene, silhouette
from dsd.mini.world import EARS, PATTERNS

SAME = 0.8
"""Two panels show one character when their `identity` reaches this (see docs/mini.md for how it was
chosen)."""
_TEMPERATURE = 0.02
"""How much overlap makes one body or one kind of ears likelier than another by a factor of e."""
_GREY = 0.2
"""How far apart red, green and blue are in an eye at most."""
_WEIGHTS = {
    "shape": 0.25,
    "ears": 0.15,
    "colour": 0.25,
    "pattern": 0.15,
    "pattern_colour": 0.15,
    "proportions": 0.05,
}


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What was read off one panel.

    `shapes` and `ear_kinds` say how likely each of `SHAPES` and `EAR_KINDS` is, and `shape` and `ears` are
    the likeliest: a blurred outline fits several. `colour` and `pattern_colour` are RGB in [0, 1] with the
    light taken out; `pattern_colour` is None on a plain body. `fit` is the overlap (intersection over union)
    of the silhouette and the best body in the table; a picture without any character has the shape "none" and
    a fit of 0.
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


_SHIFTS = tuple(product((0.0, -1.5, 1.5), (0.0, -1.5, 1.5)))
"""How far in px marks may lie off: bodies are found to about a pixel."""


def _marks(
    lit: Panel, body: np.ndarray, x_px: np.ndarray, y_px: np.ndarray
) -> tuple[str, np.ndarray, np.ndarray | None]:
    """Pattern, body colour and pattern colour, from the pixels of the body that are not eyes."""
    pixels, x, y = lit[body], x_px[body], y_px[body]
    labels, centres = _two_colours(pixels)
    if np.abs(centres[0] - centres[1]).max() < 0.16 or min(labels.mean(), 1 - labels.mean()) < 0.12:
        return "plain", np.median(pixels, 0), None
    axis = centres[1] - centres[0]
    second = np.clip((pixels - centres[0]) @ axis / (axis @ axis), 0, 1)
    best, score, place = "plain", 0.3, (0.0, 0.0)
    for kind, (dx, dy) in product(PATTERNS[1:], _SHIFTS):
        expected = render.pattern_cover(kind, x - dx, y - dy)
        if expected.std() < 1e-3:
            continue
        agreement = abs(float(np.corrcoef(expected, second)[0, 1]))
        if agreement > score:
            best, score, place = kind, agreement, (dx, dy)
    if best == "plain":
        return "unclear", np.median(pixels, 0), None
    near = np.stack([
        render.pattern_cover(best, x - place[0] - dx, y - place[1] - dy) for dx, dy in _SHIFTS
    ])  # fmt: skip
    return best, _colour(pixels, 1 - near), _colour(pixels, near)


def _colour(pixels: Float[np.ndarray, "n 3"], covers: Float[np.ndarray, "shifts n"]) -> np.ndarray:
    """Of the part that is covered: of its inside, where edges are blurred, if it has any."""
    inner = covers.min(0) > 0.7
    return np.median(pixels[inner if inner.sum() >= 5 else covers[0] > 0.7], 0)


def _likely(overlaps: Float[np.ndarray, " kinds"]) -> Float[np.ndarray, " kinds"]:
    raised = np.exp((overlaps.astype(np.float64) - overlaps.max()) / _TEMPERATURE)
    return raised / raised.sum()


def _ears(pixels: np.ndarray, colour: np.ndarray, overlaps: Float[np.ndarray, "5"]) -> Float[np.ndarray, "5"]:
    """How likely each kind of ears is: horns by their colour, all others by their silhouette."""
    horns = np.arange(len(EAR_KINDS)) == EARS.index("horns")
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
    outline = fit_outline(mask)
    x, y = outline.x / outline.width, outline.y / outline.height
    distance = render.body_distance(outline.shape, x, y)
    lit = np.clip(panel / light, 0, 1)
    eyes = render.eye_region(outline.shape, x, y) & (np.ptp(lit, axis=-1) < _GREY)
    body = (distance < -0.14) & ~ndimage.binary_dilation(eyes, np.ones((3, 3)))
    if body.sum() < 20:
        body = mask
    radius = render.RADIUS_PX
    pattern, colour, marks = _marks(lit, body, outline.x * radius, outline.y * radius)
    ears = _ears(lit[mask & (distance > 0.15)], colour, outline.ear_fits)
    return Measurement(
        scene=scene, light=light, shape=outline.shape, ears=EAR_KINDS[int(ears.argmax())], pattern=pattern,
        colour=(float(colour[0]), float(colour[1]), float(colour[2])),
        pattern_colour=None if marks is None else (float(marks[0]), float(marks[1]), float(marks[2])),
        proportions=outline.width / outline.height, fit=outline.fit,
        shapes=tuple(map(float, _likely(outline.shape_fits))), ear_kinds=tuple(map(float, ears)),
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
