import io
import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFilter

from dsd.mini import measure, outlines, render, world


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


@pytest.mark.parametrize("spoil", ["blur", "noise", "jpeg"])
def test_a_spoilt_picture_is_still_of_its_character(spoil: str) -> None:
    """Of 40 held-out characters, one picture as rendered beside another that is spoilt."""
    rng, noise = random.Random(5), np.random.default_rng(5)
    sharp, spoilt, characters = [], [], []
    for _ in range(40):
        character = world.sample_character(rng, held_out=True)
        first, second = (
            render.render_image(character, world.sample_context(rng, scene))
            for scene in rng.sample(world.SCENES, 2)
        )
        if spoil == "blur":
            second = second.filter(ImageFilter.GaussianBlur(0.8))
        elif spoil == "noise":
            noisy = np.asarray(second) + noise.normal(0, 10, (64, 64, 3))
            second = Image.fromarray(noisy.clip(0, 255).astype(np.uint8))
        else:
            file = io.BytesIO()
            second.save(file, "JPEG", quality=90, subsampling=0)
            second = Image.open(file)
        sharp.append(measure.measure(first))
        spoilt.append(measure.measure(second))
        characters.append(character)
    for name in ("shape", "ears", "pattern"):
        right = [getattr(m, name) == getattr(c, name) for m, c in zip(spoilt, characters, strict=True)]
        assert np.mean(right) >= 0.9, name
    same = [measure.identity(a, b) for a, b in zip(sharp, spoilt, strict=True)]
    other = [measure.identity(a, b) for i, a in enumerate(sharp) for j, b in enumerate(spoilt) if i != j]
    assert np.mean(same) > 0.94
    assert np.mean(np.array(same) >= measure.SAME) >= 0.95
    assert np.mean(other) < 0.35
    assert np.mean(np.array(other) >= measure.SAME) < 0.01


def _character(**attributes: Any) -> world.Character:
    plain: dict[str, Any] = {
        "shape": "round", "pattern": "plain", "ears": "round", "colour": (0.6, 0.9, 0.9),
        "pattern_colour": (0.1, 0.9, 0.9), "width": 1.0, "height": 1.0, "eye_size": 0.2, "ear_size": 1.0,
    }  # fmt: skip
    return world.Character(**plain | attributes)


def _at(scene: str = "snow", **place: float) -> world.Context:
    middle = {"x": 0.0, "y": 0.0, "size": 1.0, "tilt": 0.0, "gaze": 0.0, "light": 1.0, "horizon": 44.0}
    return world.Context(scene=scene, **middle | place)


def test_stripes_between_the_eyes_are_seen() -> None:
    """Most of a square body's own colour is where eyes may be; only what is as grey as an eye is left out."""
    character = _character(shape="square", pattern="stripes", width=0.97, height=0.97)
    found = measure.measure(render.render_image(character, _at(x=-7.0, y=4.0, size=1.07, tilt=4.0)))
    assert found.pattern == "stripes"
    for read, drawn in ((found.colour, character.colour), (found.pattern_colour, character.pattern_colour)):
        assert np.linalg.norm(np.subtract(read, world.rgb(drawn))) < 0.05


def test_a_horizon_behind_the_character_does_not_cut_it() -> None:
    """Between the colours of sky and sea, at the horizon, lies a body that is as blue."""
    character = _character(colour=(0.58, 0.75, 0.6))
    found = measure.measure(render.render_image(character, _at("sea", horizon=38.5)))
    assert (found.shape, found.ears) == ("round", "round")
    assert found.fit > 0.85


def test_a_character_at_the_border_moves_no_horizon() -> None:
    """It covers a fifth of what the scene is told by."""
    character, place = _character(shape="square", colour=(0.8, 1.0, 0.9)), _at("night", x=-14.0)
    picture = render.render_image(character, place)
    _, light, empty = outlines.measure_scene(measure.as_panel(picture))
    assert abs(light - 1) < 0.01
    assert np.abs(empty[:, -10:] - measure.as_panel(picture)[:, -10:]).mean() < 0.01
    assert measure.measure(picture).shape == "square"


def test_marks_in_the_colour_of_the_scene_cut_nothing_off() -> None:
    """A meadow shows below the eyes, where a stripe is as green; the feet are still the character's."""
    character = _character(
        shape="star-shaped", ears="pointed", pattern="stripes", pattern_colour=(0.3, 0.63, 0.51)
    )
    whole = render.silhouette(character, _at("meadow")) > 0.5
    panel = measure.as_panel(render.render_image(character, _at("meadow")).filter(ImageFilter.BoxBlur(1)))
    _, _, empty = outlines.measure_scene(panel)
    found = outlines.silhouette(panel, empty)
    assert abs(np.flatnonzero(found.any(1)).max() - np.flatnonzero(whole.any(1)).max()) <= 1


def test_a_patch_in_the_colour_of_the_night_is_a_patch() -> None:
    """It opens the silhouette from below, and belongs to the body all the same."""
    character = _character(shape="triangular", pattern="patch", pattern_colour=(0.6, 0.45, 0.2))
    assert measure.measure(render.render_image(character, _at("night"))).pattern == "patch"


@pytest.mark.parametrize("pattern", ["stripes", "spots"])
def test_marks_may_lie_off_by_a_pixel(pattern: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their colours are read where they are."""
    character = _character(pattern=pattern)
    cover = render.pattern_cover
    monkeypatch.setattr(render, "pattern_cover", lambda kind, x, y: cover(kind, x - 1.5, y + 1.5))
    picture = render.render_image(character, _at()).filter(ImageFilter.GaussianBlur(0.8))
    monkeypatch.undo()
    found = measure.measure(picture)
    assert found.pattern == pattern
    for read, drawn in ((found.colour, character.colour), (found.pattern_colour, character.pattern_colour)):
        assert np.linalg.norm(np.subtract(read, world.rgb(drawn))) < 0.025


def test_a_body_without_ears_has_none() -> None:
    """Pale horns vanish before a pale sky; what is left is a body, not another one with other ears."""
    character, place = _character(shape="pear-shaped", ears="horns"), _at("desert")
    cover = render.silhouette(character, place) - render.silhouette(character, place, ears=False)
    assert cover.max() > 0.9
    picture = np.array(render.render_image(character, place))
    picture[cover > 0] = picture[0, 0]
    found = measure.measure(Image.fromarray(picture))
    assert (found.shape, found.ears) == ("pear-shaped", "none")
    complete = measure.measure(render.render_image(character, place))
    assert complete.ears == "horns"
    assert 0.8 < measure.identity(found, complete) < 0.9  # all but the ears


def test_identity_is_symmetric_and_one_with_itself(cases: list) -> None:
    for _, _, seen in cases:
        assert measure.identity(seen[0], seen[0]) == pytest.approx(1.0)
        assert measure.identity(seen[0], seen[1]) == pytest.approx(measure.identity(seen[1], seen[0]))


@pytest.mark.parametrize(
    "change", [{"shape": "star-shaped"}, {"colour": (0.0, 0.9, 0.9)}, {"pattern": "spots"}, {"ears": "long"}]
)
def test_one_changed_attribute_lowers_identity(change: dict) -> None:
    character = _character(pattern="stripes")
    rng = random.Random(0)
    places = [world.sample_context(rng, "snow"), world.sample_context(rng, "meadow")]
    panels = render.render([character, replace(character, **change)], places)
    a, b = (measure.measure(Image.fromarray(panel)) for panel in panels)
    assert 0.3 < measure.identity(a, b) < 0.9


def test_an_empty_scene_shows_nobody() -> None:
    place = _at("city", light=0.9, horizon=43.0)
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
