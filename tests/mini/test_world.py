import random
from dataclasses import replace

import pytest

from dsd.mini import world


def test_the_split_keeps_combinations_apart() -> None:
    rng = random.Random(0)
    training = {world.sample_character(rng).combination for _ in range(3000)}
    held_out = {world.sample_character(rng, held_out=True).combination for _ in range(500)}
    assert not training & held_out
    share = sum(world.is_held_out(world._any_character(rng)) for _ in range(4000)) / 4000
    assert abs(share - world.HELD_OUT_SHARE) < 0.04


def test_the_split_does_not_depend_on_what_has_no_name() -> None:
    character = world.sample_character(random.Random(3), held_out=True)
    other = replace(character, width=1.0, eye_size=0.2, pattern_colour=(0.1, 0.5, 0.5))
    assert world.is_held_out(other)


def test_a_seed_gives_the_same_prompt() -> None:
    first, second = (world.write_grid_prompt(random.Random("a")) for _ in range(2))
    assert first == second != world.write_grid_prompt(random.Random("b"))


@pytest.mark.parametrize("layout", ["2x2", "1x2", "1x1"])
def test_panels_have_different_scenes_that_the_prompt_names(layout: str) -> None:
    rows, columns = map(int, layout.split("x"))
    for seed in range(50):
        prompt = world.write_grid_prompt(random.Random(seed), layout)
        scenes = [world.scene_of(panel) for panel in prompt["panels"]]
        assert len(scenes) == len(set(scenes)) == rows * columns
        assert all(panel.rpartition(", ")[2] in prompt["text"] for panel in prompt["panels"])
        assert prompt["subject"] in prompt["text"]


def test_captions_never_name_what_only_a_picture_can_tell() -> None:
    """Two characters that differ in shade, pattern colour, eyes and proportions alone are described alike."""
    character = world.sample_character(random.Random(1))
    hue, saturation, value = character.colour
    other = replace(
        character,
        colour=(hue, saturation * 0.9, value * 0.9),
        pattern_colour=(0.5, 0.5, 0.5),
        width=0.9,
        eye_size=0.2,
    )
    assert world.describe(character, random.Random(5), 1.0) == world.describe(other, random.Random(5), 1.0)


@pytest.mark.parametrize("scene", world.SCENES)
def test_every_phrase_of_a_scene_is_read_back(scene: str) -> None:
    for words in world.SCENE_WORDS[scene]:
        assert world.scene_of(world.caption("a round red creature", words)) == scene


def test_colour_words_go_to_the_nearest_hue() -> None:
    character = world.sample_character(random.Random(0))
    for hue, word in zip(world.HUES, world.COLOURS, strict=True):
        assert replace(character, colour=((hue + 0.01) % 1, 0.9, 0.9)).colour_word == word
    assert replace(character, colour=(0.99, 0.9, 0.9)).colour_word == "red"  # across the end of the circle


def test_errors_say_what_is_allowed() -> None:
    with pytest.raises(ValueError, match=r"3x3.*2x2, 1x2, 1x1"):
        world.write_grid_prompt(random.Random(0), "3x3")
    with pytest.raises(ValueError, match="names 0 scenes"):
        world.scene_of("a round red creature, in a kitchen")
