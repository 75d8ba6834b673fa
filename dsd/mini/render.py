"""Draws the small world: anti-aliased 64 px panels from characters and contexts, many at a time, with numpy
alone.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from dsd.mini.world import SCENES, SHAPES, Character, Context, rgb

PANEL_PX = 64
RADIUS_PX = 15.5
"""Radius of a body of size, width and height 1."""
CENTRE_PX = (32.0, 36.0)
"""Where a body without an offset is centred."""
CREAM = (0.96, 0.93, 0.80)
"""Colour of all horns."""
_STARS = ((9, 8), (22, 17), (36, 7), (47, 22), (29, 30), (8, 28))
_BUILDINGS = ((2, 14, 16), (16, 27, 26), (33, 45, 12), (47, 60, 22))
_SKY = {
    "meadow": (0.62, 0.83, 0.96), "sea": (0.80, 0.93, 0.99), "snow": (0.76, 0.81, 0.89),
    "desert": (1.00, 0.91, 0.66), "city": (0.72, 0.70, 0.74), "night": (0.07, 0.07, 0.22),
}  # fmt: skip
_GROUND = {
    "meadow": (0.40, 0.70, 0.30), "sea": (0.16, 0.44, 0.77), "snow": (0.97, 0.98, 1.00),
    "desert": (0.87, 0.68, 0.36), "city": (0.29, 0.29, 0.32), "night": (0.14, 0.17, 0.31),
}  # fmt: skip

Plane = Float[np.ndarray, "n h w"]


def _grid() -> tuple[Float[np.ndarray, "1 1 w"], Float[np.ndarray, "1 h 1"]]:
    axis = np.arange(PANEL_PX, dtype=np.float32) + 0.5
    return axis[None, None, :], axis[None, :, None]


def _column(values: Sequence[float]) -> Float[np.ndarray, "n 1 1"]:
    return np.asarray(values, dtype=np.float32)[:, None, None]


def _cover(distance_px: Float[np.ndarray, "*any"]) -> Float[np.ndarray, "*any"]:
    """Coverage of a shape from the signed distance to its edge (negative inside), one pixel wide at the
    edge.
    """
    return np.clip(0.5 - distance_px, 0.0, 1.0)


def body_distance(shape: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """How far a point lies outside a body of radius 1 (negative inside), nearly Euclidean near the edge; y
    points down.
    """
    if shape == "round":
        return np.sqrt(x * x + y * y) - 1.0
    if shape == "square":
        return (x**6 + y**6) ** (1 / 6) - 0.88
    if shape == "triangular":
        sides = np.stack([y, 0.8 * x - 0.6 * y, -0.8 * x - 0.6 * y])
        return np.log(np.exp(9 * sides).sum(0)) / 9 - 0.75
    if shape == "pear-shaped":
        return (np.sqrt((x / (0.80 + 0.32 * np.clip(y, -1, 1))) ** 2 + y * y) - 1.0) * 0.85
    if shape == "star-shaped":
        return (np.sqrt(x * x + y * y) - 0.94 - 0.17 * np.cos(5 * np.arctan2(x, -y))) * 0.8
    if shape == "diamond-shaped":
        corner = np.sqrt(x * x + 0.03) + np.sqrt(y * y + 0.03)
        return (corner - 1.38) * 0.75
    raise ValueError(f"No body shape is named {shape!r}. Known: {', '.join(SHAPES)}.")


def _paint(image: np.ndarray, cover: Plane, colour: np.ndarray) -> None:
    image += cover[:, None] * (colour - image)


def _colours(colours: Sequence[tuple[float, float, float]]) -> Float[np.ndarray, "n 3 1 1"]:
    return np.asarray(colours, dtype=np.float32)[:, :, None, None]


def draw_scene(contexts: Sequence[Context]) -> Float[np.ndarray, "n 3 h w"]:
    """The empty scenes before light, in [0, 1]."""
    px, py = _grid()
    horizon = _column([c.horizon for c in contexts])
    image = np.broadcast_to(
        _colours([_SKY[c.scene] for c in contexts]), (len(contexts), 3, PANEL_PX, PANEL_PX)
    ).copy()
    for scene in SCENES:
        rows = np.array([i for i, c in enumerate(contexts) if c.scene == scene], dtype=int)
        if not len(rows):
            continue
        part = image[rows]
        if scene == "city":
            for left, right, top in _BUILDINGS:
                walls = np.maximum(np.maximum(left - px, px - right), top - py)
                _paint(part, _cover(walls), _colours([(0.50, 0.50, 0.56)]))
        if scene == "night":
            _paint(part, _cover(np.hypot(px - 52, py - 11) - 5.5), _colours([(0.95, 0.93, 0.78)]))
            for x, y in _STARS:
                _paint(part, _cover(np.hypot(px - x, py - y) - 1.1), _colours([(0.9, 0.9, 0.95)]))
        if scene == "meadow":
            _paint(part, _cover(np.hypot(px - 10, py - 10) - 5.5), _colours([(1.0, 0.93, 0.45)]))
        _paint(part, _cover(horizon[rows] - py + 0 * px), _colours([_GROUND[scene]]))
        image[rows] = part
    return image


def _ears(kind: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Distance to an ear whose root is at the origin and that points to -y; in body radii."""
    if kind == "pointed":
        return np.maximum(y - 0.25, (np.abs(x) * 1.9 - y - 0.62) / 2.15)
    if kind == "round":
        return np.hypot(x, y + 0.22) - 0.38
    if kind == "long":
        return (np.hypot(x / 0.21, (y + 0.42) / 0.62) - 1.0) * 0.21
    bend = 0.35 * y * y
    return np.maximum(np.abs(x - bend) - np.clip(0.20 + 0.24 * y, 0.02, 0.2), np.abs(y + 0.25) - 0.55)


def _surface(shape: str, angle: float) -> float:
    """Radius at which the ray at `angle` (radians from straight up) leaves the body."""
    radii = np.linspace(0.4, 1.4, 200)
    inside = body_distance(shape, np.sin(angle) * radii, -np.cos(angle) * radii) < 0
    return float(radii[inside].max())


_EAR_ANGLE = {
    shape: 0.36 if shape in ("triangular", "diamond-shaped", "pear-shaped") else 0.66 for shape in SHAPES
}
_EAR_RADIUS = {shape: _surface(shape, angle) for shape, angle in _EAR_ANGLE.items()}


def pattern_cover(kind: str, x_px: np.ndarray, y_px: np.ndarray) -> np.ndarray:
    """Coverage of the pattern at points given in pixels of a body of size 1."""
    if kind == "stripes":
        return np.clip(0.5 + np.sin(y_px * (2 * np.pi / 18.0) - 0.9) * 2.6, 0, 1)
    if kind == "spots":
        rows = np.round((y_px - 7.5) / 13.5)
        x_cell = x_px / 17.0 + 0.5 * ((rows + 1) % 2)  # two side by side on the belly
        return _cover(np.hypot((x_cell - np.round(x_cell)) * 17.0, y_px - 7.5 - rows * 13.5) - 5.6)
    if kind == "patch":
        return _cover((np.hypot(x_px / 9.0, (y_px - 9.0) / 7.0) - 1) * 8.0)
    return np.zeros_like(x_px)


def _body_axes(context: Context) -> tuple[np.ndarray, np.ndarray, float]:
    """Coordinates of all pixels in body radii, turned upright, and the radius in pixels."""
    px, py = _grid()
    cos, sin = np.cos(np.deg2rad(context.tilt)), np.sin(np.deg2rad(context.tilt))
    dx, dy = px - (CENTRE_PX[0] + context.x), py - (CENTRE_PX[1] + context.y)
    scale = RADIUS_PX * context.size
    return (cos * dx + sin * dy) / scale, (-sin * dx + cos * dy) / scale, scale


def _ear_covers(character: Character, x: np.ndarray, y: np.ndarray, scale: float) -> list[Plane]:
    radius, angle, lean = _EAR_RADIUS[character.shape], _EAR_ANGLE[character.shape], 0.30
    covers = []
    for side in (-1, 1):
        ear_x = side * x - np.sin(angle) * radius * character.width
        ear_y = y + np.cos(angle) * radius * character.height
        across, along = (
            np.cos(lean) * ear_x + np.sin(lean) * ear_y,
            -np.sin(lean) * ear_x + np.cos(lean) * ear_y,
        )
        distance = _ears(character.ears, across / character.ear_size, along / character.ear_size)
        covers.append(_cover(distance * scale * character.ear_size))
    return covers


def _body_cover(character: Character, x: np.ndarray, y: np.ndarray, scale: float) -> Plane:
    body = body_distance(character.shape, x / character.width, y / character.height) * scale
    return _cover(body * min(character.width, character.height))


def silhouette(character: Character, context: Context, *, ears: bool = True) -> Float[np.ndarray, "h w"]:
    """Coverage of the body and, unless `ears` is False, the ears together, in [0, 1]."""
    x, y, scale = _body_axes(context)
    covers = [*(_ear_covers(character, x, y, scale) if ears else ()), _body_cover(character, x, y, scale)]
    return np.maximum.reduce(covers)[0]


def _eye_place(shape: str) -> tuple[float, float]:
    """Offsets of an eye from the body's centre, to the side and down, in half widths and half heights of the
    body.
    """
    return (0.30 if shape in ("triangular", "diamond-shaped") else 0.36), (
        0.05 if shape == "triangular" else -0.18
    )


def eye_region(shape: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Whether points, in half widths and half heights of the body, may belong to an eye of any size."""
    spread, high = _eye_place(shape)
    return np.minimum(np.hypot(x - spread, y - high), np.hypot(x + spread, y - high)) < 0.36


def _draw_character(image: np.ndarray, character: Character, context: Context) -> None:
    """Paint one character into one picture (1, 3, h, w), in place."""
    px, py = _grid()
    x, y, scale = _body_axes(context)
    dx, dy = px - (CENTRE_PX[0] + context.x), py - (CENTRE_PX[1] + context.y)
    shade = _colours([rgb(character.colour)])

    shadow = _cover(
        (np.hypot(dx, (dy - scale * character.height) / 0.28) - scale * character.width * 0.85) * 0.28
    )
    _paint(image, 0.28 * shadow, np.zeros((1, 3, 1, 1), dtype=np.float32))
    for ear in _ear_covers(character, x, y, scale):
        _paint(image, ear, _colours([CREAM]) if character.ears == "horns" else shade * 0.88)
    cover = _body_cover(character, x, y, scale)
    _paint(image, cover, shade)
    marks = pattern_cover(character.pattern, x * RADIUS_PX, y * RADIUS_PX)
    _paint(image, cover * marks, _colours([rgb(character.pattern_colour)]))

    eye = character.eye_size
    spread, high = _eye_place(character.shape)
    gaze_x, gaze_y = (
        np.cos(2 * np.pi * context.gaze) * eye * 0.38,
        np.sin(2 * np.pi * context.gaze) * eye * 0.38,
    )
    for side in (-1, 1):
        eye_x, eye_y = x - side * spread * character.width, y - high * character.height
        _paint(image, _cover((np.hypot(eye_x, eye_y) - eye) * scale), _colours([(1.0, 1.0, 1.0)]))
        pupil = np.hypot(eye_x - gaze_x, eye_y - gaze_y) - eye * 0.52
        _paint(image, _cover(pupil * scale), _colours([(0.06, 0.06, 0.09)]))


def render(characters: Sequence[Character], contexts: Sequence[Context]) -> UInt8[np.ndarray, "n 64 64 3"]:
    """Draw one panel for each pair of a character and a context.

    Returns:
        uint8 pictures, RGB in the last axis.

    Raises:
        ValueError: when the two sequences differ in length.
    """
    if len(characters) != len(contexts):
        raise ValueError(
            f"Got {len(characters)} characters and {len(contexts)} contexts; give one context a character."
        )
    image = draw_scene(contexts)
    for i, (character, context) in enumerate(zip(characters, contexts, strict=True)):
        _draw_character(image[i : i + 1], character, context)
    return finish(image, contexts)


def finish(
    image: Float[np.ndarray, "n 3 h w"], contexts: Sequence[Context]
) -> UInt8[np.ndarray, "n 64 64 3"]:
    """Apply the light and round to bytes."""
    lit = np.clip(image * _column([c.light for c in contexts])[:, None], 0, 1)
    return np.round(lit.transpose(0, 2, 3, 1) * 255).astype(np.uint8)


def render_image(character: Character, context: Context) -> Image.Image:
    """One panel as a 64 x 64 px RGB picture."""
    return Image.fromarray(render([character], [context])[0])
