"""Labelled pairs of the small world whose truth is known because they were drawn so, by its renderer.

In a teacher's grids characters drift, and whether two panels still show one is a matter of degree, which a
measurement has to decide. Here nothing has to be decided.
"""

import random
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace

from PIL import Image

from dsd.mini.render import render_image
from dsd.mini.world import EARS, PATTERNS, SCENES, SHAPES, Character, sample_character, sample_context
from dsd.studies.curators_pairs import Label, LabelledPairs
from dsd.types import Pair

SAME, RELATIVE, OTHER = "same character", "relative", "other character"

_HUE_TURN = 0.17  # between the hues of two colour words


def of_renderer(count: int = 60, seed: int = 0) -> LabelledPairs:
    """Pairs of characters that nothing was trained on, in different scenes; four for each character.

    Two are of itself, one is of it and a relative that differs in one thing (ears, shape, pattern or hue, in
    turn), and one of it and the next character. The relatives are the hard negatives.

    Args:
        count: how many characters.
        seed: of the characters and their contexts.

    Raises:
        ValueError: if `count` is below 2.
    """
    if count < 2:
        raise ValueError(f"`count` must be at least 2; got {count}.")
    characters = [
        sample_character(random.Random(f"curators:{seed}:{i}"), held_out=True) for i in range(count)
    ]
    pairs: dict[str, Pair] = {}
    labels: list[Label] = []
    for i, character in enumerate(characters):
        rng = random.Random(f"curators' contexts:{seed}:{i}")
        following = (i + 1) % count
        relative = _CHANGES[i % len(_CHANGES)](character, rng)
        for other, group, shown in (
            (character, SAME, (i,)),
            (character, SAME, (i,)),
            (relative, RELATIVE, (i,)),
            (characters[following], OTHER, (i, following)),
        ):
            reference, target = _drawn(character, other, rng)
            pair = Pair(reference=reference, target=target, source="renderer")
            subjects = tuple(f"character {number}" for number in shown)
            pairs[pair.id] = pair
            labels.append(Label(pair_id=pair.id, same=group == SAME, group=group, subjects=subjects))

    def load(ids: Collection[str]) -> Iterator[tuple[str, Pair]]:
        wanted = set(ids)
        yield from ((pair_id, pair) for pair_id, pair in pairs.items() if pair_id in wanted)

    return LabelledPairs(
        source="the small world's renderer",
        truth="Labels are known: each picture was drawn of a character that was chosen.",
        labels=tuple(labels),
        load=load,
        hard=RELATIVE,
        units="characters",
    )


def _drawn(one: Character, other: Character, rng: random.Random) -> tuple[Image.Image, Image.Image]:
    first, second = rng.sample(SCENES, 2)
    return render_image(one, sample_context(rng, first)), render_image(other, sample_context(rng, second))


def _other_ears(one: Character, rng: random.Random) -> Character:
    return replace(one, ears=rng.choice([x for x in EARS if x != one.ears]))


def _other_shape(one: Character, rng: random.Random) -> Character:
    return replace(one, shape=rng.choice([x for x in SHAPES if x != one.shape]))


def _other_pattern(one: Character, rng: random.Random) -> Character:
    return replace(one, pattern=rng.choice([x for x in PATTERNS if x != one.pattern]))


def _other_hue(one: Character, rng: random.Random) -> Character:
    hue = (one.colour[0] + rng.choice((-1, 1)) * _HUE_TURN) % 1.0
    return replace(one, colour=(hue, *one.colour[1:]))


_CHANGES: tuple[Callable[[Character, random.Random], Character], ...] = (
    _other_ears,
    _other_shape,
    _other_pattern,
    _other_hue,
)
