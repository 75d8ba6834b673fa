import math
import random
from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from dsd.mini import render, world

PLAIN = world.Character(
    shape="round", pattern="plain", ears="round", colour=(0.6, 0.9, 0.9), pattern_colour=(0.1, 0.9, 0.9),
    width=1.0, height=1.0, eye_size=0.2, ear_size=1.0,
)  # fmt: skip
PLACE = world.Context(scene="snow", x=0.0, y=0.0, size=1.0, tilt=0.0, gaze=0.0, light=1.0, horizon=44.0)


def test_the_round_body_has_the_area_of_a_circle() -> None:
    x, y, scale = render._body_axes(PLACE)
    area = render._body_cover(PLAIN, x, y, scale).sum()
    assert area == pytest.approx(math.pi * render.RADIUS_PX**2, rel=0.01)


@pytest.mark.parametrize("shape", world.SHAPES)
def test_bodies_are_closed_and_inside_the_panel(shape: str) -> None:
    x, y, scale = render._body_axes(PLACE)
    cover = render._body_cover(replace(PLAIN, shape=shape), x, y, scale)[0]
    assert cover.max() == 1
    assert cover[[0, -1]].max() == cover[:, [0, -1]].max() == 0
    partial = (cover > 0) & (cover < 1)
    assert partial.any(), "edges are not anti-aliased"


def test_moving_by_whole_pixels_moves_the_silhouette() -> None:
    moved = render.silhouette(PLAIN, replace(PLACE, x=5.0, y=-3.0))
    assert np.allclose(moved, np.roll(render.silhouette(PLAIN, PLACE), (-3, 5), (0, 1)), atol=1e-4)


def test_tilt_turns_clockwise_about_the_body() -> None:
    character = replace(PLAIN, shape="triangular", ears="long")
    cos, sin = math.cos(math.radians(16)), math.sin(math.radians(16))
    turn, centre = np.array([[cos, -sin], [sin, cos]]), np.array([35.5, 31.5])  # rows first, pixel centres
    upright = render.silhouette(character, PLACE)
    expected = ndimage.affine_transform(upright, turn, offset=centre - turn @ centre, order=1)
    assert np.abs(render.silhouette(character, replace(PLACE, tilt=16.0)) - expected).mean() < 0.01
    assert np.abs(upright - expected).mean() > 0.02


def test_light_scales_every_pixel() -> None:
    bright, dim = render.render([PLAIN] * 2, [PLACE, replace(PLACE, light=0.8)])
    unclipped = bright < 255
    assert np.abs(dim[unclipped].astype(float) - 0.8 * bright[unclipped]).max() <= 1


@pytest.mark.parametrize(
    "field", ["shape", "pattern", "ears", "colour", "width", "height", "eye_size", "ear_size"]
)
def test_every_part_of_an_identity_shows(field: str) -> None:
    other = {
        "shape": "square", "pattern": "spots", "ears": "long", "colour": (0.62, 0.9, 0.9),
        "width": 1.1, "height": 1.1, "eye_size": 0.25, "ear_size": 1.2,
    }[field]  # fmt: skip
    pictures = render.render([PLAIN, replace(PLAIN, **{field: other})], [PLACE] * 2).astype(int)
    assert np.abs(pictures[0] - pictures[1]).max() > 4


def test_a_panel_does_not_depend_on_its_neighbours() -> None:
    rng = random.Random(0)
    characters = [world.sample_character(rng) for _ in range(6)]
    places = [world.sample_context(rng) for _ in range(6)]
    together = render.render(characters, places)
    for i in range(6):
        assert np.array_equal(together[i], render.render([characters[i]], [places[i]])[0])


def test_errors_say_what_is_allowed() -> None:
    with pytest.raises(ValueError, match="2 characters and 1 contexts"):
        render.render([PLAIN] * 2, [PLACE])
    with pytest.raises(ValueError, match=r"hexagonal.*round, square"):
        render.body_distance("hexagonal", np.zeros(1), np.zeros(1))
