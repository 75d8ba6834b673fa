"""The small world in words and numbers: characters, contexts, captions and the split. Pure Python.

A `Character` is an identity. Its colour word and body shape are always named in a caption, its ears and
pattern sometimes; the exact shade, the pattern's colour, the eyes and the proportions never are, so that text
alone cannot reproduce a character. A `Context` is everything else about a picture.
"""

import colorsys
import hashlib
import random
from dataclasses import dataclass
from typing import Any

SHAPES = ("round", "square", "triangular", "pear-shaped", "star-shaped", "diamond-shaped")
PATTERNS = ("plain", "stripes", "spots", "patch")
EARS = ("pointed", "round", "long", "horns")
SCENES = ("meadow", "sea", "snow", "desert", "city", "night")
COLOURS = ("red", "orange", "yellow", "green", "teal", "blue", "purple", "pink")
HUES = (0.0, 0.075, 0.15, 0.34, 0.48, 0.61, 0.76, 0.89)
"""Centre of each colour word on the hue circle, in turns; a shade has the word of the nearest centre."""

SCENE_WORDS = {
    "meadow": ("in a green meadow", "on a grassy field", "in the grass", "on a lawn"),
    "sea": ("by the sea", "at the blue ocean", "in front of the sea", "by the water"),
    "snow": ("in the snow", "in a snowy field", "on a winter day", "on white snow"),
    "desert": ("in a sandy desert", "in the desert", "on sand dunes", "on yellow sand"),
    "city": ("in a grey city", "on a city street", "in front of tall buildings", "in the town"),
    "night": ("at night", "under the moon", "under the stars", "on a dark night"),
}
PATTERN_WORDS = {
    "plain": ("in one plain colour", "without any pattern"),
    "stripes": ("with stripes", "that is striped"),
    "spots": ("with spots", "that is spotted"),
    "patch": ("with a patch on its belly", "with a belly patch"),
}
EAR_WORDS = {
    "pointed": ("with pointed ears", "with cat ears"),
    "round": ("with round ears", "with bear ears"),
    "long": ("with long ears", "with rabbit ears"),
    "horns": ("with horns", "with two horns"),
}
NOUNS = ("creature", "character", "monster")
GRID_WORDS = (
    "{a} grid of the same {subject}",
    "{a} picture grid of one {subject}",
    "{a} grid showing an identical {subject}",
)
PLACES = {
    "2x2": ("top left", "top right", "bottom left", "bottom right"),
    "1x2": ("left", "right"),
    "1x1": ("",),
}
HELD_OUT_SHARE = 0.12
_SPLIT_SEED = 2411_18616


@dataclass(frozen=True, kw_only=True)
class Character:
    """Who is drawn. Colours are (hue, saturation, value) in [0, 1]; lengths are shares of the body's
    radius.
    """

    shape: str
    pattern: str
    ears: str
    colour: tuple[float, float, float]
    pattern_colour: tuple[float, float, float]
    width: float
    height: float
    eye_size: float
    ear_size: float

    @property
    def colour_word(self) -> str:
        """The word for the body's hue: the nearest of `COLOURS` on the hue circle."""
        distances = [min(abs(self.colour[0] - hue), 1 - abs(self.colour[0] - hue)) for hue in HUES]
        return COLOURS[distances.index(min(distances))]

    @property
    def combination(self) -> tuple[str, str, str, str]:
        """The attributes with names, which the split goes by."""
        return (self.shape, self.pattern, self.ears, self.colour_word)


@dataclass(frozen=True, kw_only=True)
class Context:
    """How and where a character is drawn: offsets in pixels of a 64 px panel, tilt in degrees, gaze in
    turns.
    """

    scene: str
    x: float
    y: float
    size: float
    tilt: float
    gaze: float
    light: float
    horizon: float


def is_held_out(character: Character) -> bool:
    """Whether the character's combination of attributes is kept out of all training.

    The decision is a hash of the combination, so it is the same on every machine and in every version.
    """
    digest = hashlib.sha256(f"{_SPLIT_SEED}:{':'.join(character.combination)}".encode()).digest()
    return int.from_bytes(digest[:4], "big") / 2**32 < HELD_OUT_SHARE


def _any_character(rng: random.Random) -> Character:
    hue = rng.random()
    value = rng.uniform(0.75, 1.0)
    away = (hue + rng.uniform(0.25, 0.75)) % 1.0
    pattern_value = rng.uniform(0.3, 0.55) if value > 0.88 or rng.random() < 0.5 else rng.uniform(0.9, 1.0)
    return Character(
        shape=rng.choice(SHAPES),
        pattern=rng.choice(PATTERNS),
        ears=rng.choice(EARS),
        colour=(hue, rng.uniform(0.65, 1.0), value),
        pattern_colour=(away, rng.uniform(0.45, 0.95), pattern_value),
        width=rng.uniform(0.85, 1.2),
        height=rng.uniform(0.85, 1.2),
        eye_size=rng.uniform(0.17, 0.28),
        ear_size=rng.uniform(0.8, 1.25),
    )


def sample_character(rng: random.Random, held_out: bool = False) -> Character:
    """A random character of the training split, or of the held-out one."""
    while True:
        character = _any_character(rng)
        if is_held_out(character) == held_out:
            return character


def sample_context(rng: random.Random, scene: str | None = None) -> Context:
    """A random context, in `scene` when it is given."""
    return Context(
        scene=scene or rng.choice(SCENES),
        x=rng.uniform(-8, 8),
        y=rng.uniform(-3, 6),
        size=rng.uniform(0.82, 1.1),
        tilt=rng.uniform(-16, 16),
        gaze=rng.random(),
        light=rng.uniform(0.8, 1.06),
        horizon=rng.uniform(40, 48),
    )


def describe(character: Character, rng: random.Random, detail: float = 0.35) -> str:
    """A noun phrase such as "round red creature with cat ears".

    Args:
        character: whom to describe.
        rng: picks among the words.
        detail: probability with which the ears, and the pattern, are named at all.
    """
    adjectives = [character.shape, character.colour_word]
    rng.shuffle(adjectives)
    extras = []
    if rng.random() < detail:
        extras.append(rng.choice(EAR_WORDS[character.ears]))
    if rng.random() < detail:
        extras.append(rng.choice(PATTERN_WORDS[character.pattern]))
    rng.shuffle(extras)
    return " ".join([*adjectives, rng.choice(NOUNS), *extras])


def describe_scene(scene: str, rng: random.Random) -> str:
    """A phrase for the scene, such as "under the moon"."""
    return rng.choice(SCENE_WORDS[scene])


def _article(words: str) -> str:
    return f"an {words}" if words[0] in "aeiou" else f"a {words}"


def caption(subject: str, scene_words: str) -> str:
    """The caption of one panel: "a round red creature with cat ears, under the moon"."""
    return f"{_article(subject)}, {scene_words}"


def grid_text(subject: str, scenes: list[str], layout: str, rng: random.Random) -> str:
    """The teacher's prompt for a grid of one subject in several scenes, which are given as phrases, row by
    row.
    """
    if layout == "1x1":
        return caption(subject, scenes[0])
    places = PLACES[layout]
    head = rng.choice(GRID_WORDS).format(a=f"a {layout}", subject=subject)
    return f"{head}. " + ", ".join(f"{place}: {scene}" for place, scene in zip(places, scenes, strict=True))


def write_grid_prompt(rng: random.Random, layout: str = "2x2", held_out: bool = False) -> dict[str, Any]:
    """Everything that a `GridPrompt` needs: one character's description in scenes that differ from panel to
    panel.

    Raises:
        ValueError: for a layout other than 2x2, 1x2 and 1x1.
    """
    if layout not in PLACES:
        raise ValueError(f"No grid prompt is known for layout {layout!r}. Use one of {', '.join(PLACES)}.")
    subject = describe(sample_character(rng, held_out), rng)
    names = rng.sample(SCENES, len(PLACES[layout]))
    scenes = [describe_scene(name, rng) for name in names]
    panels = tuple(caption(subject, scene) for scene in scenes)
    return {
        "text": grid_text(subject, scenes, layout, rng),
        "subject": subject,
        "panels": panels,
        "layout": layout,
    }


def scene_of(text: str) -> str:
    """The scene that a caption names.

    Raises:
        ValueError: when the text names none, or several, of the small world's scenes.
    """
    found = {scene for scene, phrases in SCENE_WORDS.items() for phrase in phrases if text.endswith(phrase)}
    if len(found) != 1:
        raise ValueError(
            f"{text!r} names {len(found)} scenes of the small world. End it in one of SCENE_WORDS' phrases."
        )
    return found.pop()


def rgb(colour: tuple[float, float, float]) -> tuple[float, float, float]:
    """Hue, saturation and value to red, green and blue, all in [0, 1]."""
    return colorsys.hsv_to_rgb(*colour)
