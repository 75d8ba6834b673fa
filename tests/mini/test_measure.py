import random
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from dsd.mini import measure, render, world


@pytest.fixture(scope="module")
def cases() -> list[tuple[world.Character, list[world.Context], list[measure.Measurement]]]:
    """Twenty held-out characters in three contexts each, and what was read off them."""
    rng, found = random.Random(7), []
    for _ in range(20):
        character = world.sample_character(rng, held_out=True)
        places = [world.sample_context(rng) for _ in range(3)]
        panels = [Image.fromarray(panel) for panel in render.render([character] * 3, places)]
        found.append((character, places, [measure.measure(panel) for panel in panels]))
    return found


def test_what_was_drawn_is_read_back(cases: list) -> None:
    right = {name: [] for name in ("scene", "shape", "ears", "pattern", "colour", "light")}
    for character, places, seen in cases:
        for place, found in zip(places, seen, strict=True):
            right["scene"].append(found.scene == place.scene)
            right["light"].append(abs(found.light - place.light) < 0.02)
            for name in ("shape", "ears", "pattern"):
                right[name].append(getattr(found, name) == getattr(character, name))
            right["colour"].append(
                np.linalg.norm(np.subtract(found.colour, world.rgb(character.colour))) < 0.1
            )
    shares = {name: np.mean(values) for name, values in right.items()}
    assert shares["scene"] == 1
    assert shares["light"] >= 0.95, shares
    assert min(shares["shape"], shares["ears"], shares["pattern"]) >= 0.9, shares
    assert shares["colour"] >= 0.95, shares


def test_identity_tells_characters_apart(cases: list) -> None:
    same = [measure.identity(seen[0], seen[1]) for _, _, seen in cases]
    other = [measure.identity(a[2][0], b[2][1]) for a in cases for b in cases if a is not b]
    assert np.mean(same) > 0.9
    assert np.mean(other) < 0.35
    assert np.mean(np.array(other) >= measure.SAME) < 0.02


def test_identity_is_symmetric_and_one_with_itself(cases: list) -> None:
    for _, _, seen in cases:
        assert measure.identity(seen[0], seen[0]) == pytest.approx(1.0)
        assert measure.identity(seen[0], seen[1]) == pytest.approx(measure.identity(seen[1], seen[0]))


@pytest.mark.parametrize(
    "change", [{"shape": "star-shaped"}, {"colour": (0.0, 0.9, 0.9)}, {"pattern": "spots"}, {"ears": "long"}]
)
def test_one_changed_attribute_lowers_identity(change: dict) -> None:
    character = world.Character(
        shape="round",
        pattern="stripes",
        ears="round",
        colour=(0.6, 0.9, 0.9),
        pattern_colour=(0.1, 0.9, 0.9),
        width=1.0,
        height=1.0,
        eye_size=0.2,
        ear_size=1.0,
    )
    rng = random.Random(0)
    places = [world.sample_context(rng, "snow"), world.sample_context(rng, "meadow")]
    panels = render.render([character, replace(character, **change)], places)
    a, b = (measure.measure(Image.fromarray(panel)) for panel in panels)
    assert 0.3 < measure.identity(a, b) < 0.9


def test_an_empty_scene_shows_nobody() -> None:
    place = world.Context(scene="city", x=0.0, y=0.0, size=1.0, tilt=0.0, gaze=0.0, light=0.9, horizon=43.0)
    empty = Image.fromarray(render.finish(render.draw_scene([place]), [place])[0])
    found = measure.measure(empty)
    assert (found.scene, found.shape, found.fit) == ("city", "none", 0.0)
    assert measure.identity(found, found) == 0


def test_a_grid_with_a_stranger_is_not_consistent() -> None:
    rng = random.Random(11)
    consistent = stranger = 0
    for _ in range(8):
        first, second = world.sample_character(rng), world.sample_character(rng)
        places = [world.sample_context(rng) for _ in range(4)]
        panels = [Image.fromarray(panel) for panel in render.render([first] * 3 + [second], places)]
        stranger += measure.consistent(panels)
        consistent += measure.consistent(panels[:3])
    assert consistent >= 6
    assert stranger == 0


def test_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match=r"128 x 64 px.*64 x 64"):
        measure.measure(Image.new("RGB", (128, 64)))
