"""How well `dsd.mini.measure` reads pictures of known characters, as rendered and spoilt.

    python benchmarks/small_world_measure.py              400 characters: about a minute on one core
    python benchmarks/small_world_measure.py --count 40   rougher

Each held-out character is rendered in two scenes. The first picture is read as it is, the second as it is,
out of the autoencoder, blurred, and with noise. Identity is that of both, of the first ones of two
characters, and of the first one and a *namesake*'s: another character of the same body shape and colour word,
so that a short caption fits both.
"""

import argparse
import random
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image, ImageFilter
from rich.console import Console
from rich.table import Table
from torchmetrics.functional import auroc

from dsd import mini
from dsd.mini.measure import SAME, Measurement, identity, measure
from dsd.mini.render import render_image
from dsd.mini.world import SCENES, Character, sample_character, sample_context
from dsd.pixels import from_pixels, to_pixels

Pictures = Sequence[Image.Image]
READ = ("shape", "ears", "pattern")


def autoencode(pictures: Pictures) -> list[Image.Image]:
    """Encoded and decoded by the autoencoder of the small world."""
    vae = AutoencoderKL.from_pretrained(mini.path() / "vae", torch_dtype=torch.float32)
    found: list[Image.Image] = []
    with torch.no_grad():
        for start in range(0, len(pictures), 50):
            pixels = to_pixels(list(pictures[start : start + 50]), 64, 64)
            found += from_pixels(vae.decode(vae.encode(pixels).latent_dist.mode()).sample, "pil")
    return found


def blur(pictures: Pictures, radius: float) -> list[Image.Image]:
    """Blurred by a Gaussian; its deviation in px."""
    return [picture.filter(ImageFilter.GaussianBlur(radius)) for picture in pictures]


def add_noise(pictures: Pictures) -> list[Image.Image]:
    """With Gaussian noise of deviation 10 in 255."""
    rng = np.random.default_rng(0)
    noisy = [np.asarray(picture) + rng.normal(0, 10, (64, 64, 3)) for picture in pictures]
    return [Image.fromarray(pixels.clip(0, 255).astype(np.uint8)) for pixels in noisy]


SPOILT: dict[str, Callable[[Pictures], list[Image.Image]]] = {
    "as rendered": list,
    "autoencoded": autoencode,
    "blurred, 0.8 px": lambda pictures: blur(pictures, 0.8),
    "blurred, 1.2 px": lambda pictures: blur(pictures, 1.2),
    "noise": add_noise,
}


def namesakes(count: int) -> list[tuple[Character, Character]]:
    """Held-out characters, and a namesake of each."""
    rng = random.Random("how the small world is measured")
    found: list[tuple[Character, Character]] = []
    while len(found) < count:
        character = sample_character(rng, held_out=True)
        for _ in range(2000):
            other = sample_character(rng, held_out=True)
            if (other.shape, other.colour_word) == (character.shape, character.colour_word):
                found.append((character, other))
                break
    return found


def row(characters: Sequence[Character], seen: Sequence[Sequence[Measurement]]) -> list[str]:
    """What is reported of one way to spoil: first pictures, second ones and namesakes', each measured."""
    first, second, alike = seen
    right = [
        np.mean([getattr(m, n) == getattr(c, n) for m, c in zip(second, characters, strict=True)])
        for n in READ
    ]
    same = np.array([identity(a, b) for a, b in zip(first, second, strict=True)])
    related = np.array([identity(a, b) for a, b in zip(first, alike, strict=True)])
    other = np.array([identity(a, b) for a, b in pairwise([*first, first[0]])])
    scores, labels = np.r_[same, other], np.r_[np.ones(len(same)), np.zeros(len(other))]
    area = auroc(torch.from_numpy(scores), torch.from_numpy(labels).long(), task="binary")
    return [
        *(f"{share:.1%}" for share in right),
        *(f"{values.mean():.3f}" for values in (same, related, other)),
        *(f"{share:.1%}" for share in ((same < SAME).mean(), (related >= SAME).mean())),
        f"{area:.4f}",
    ]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--count", type=int, default=400, help="characters")
    count = parser.parse_args().count
    pairs = namesakes(count)
    rng = random.Random("where they are")
    pictures: list[list[Image.Image]] = [[], [], []]
    for character, namesake in pairs:
        scenes = rng.sample(SCENES, 2)
        for place, whom, scene in (
            (0, character, scenes[0]),
            (1, character, scenes[1]),
            (2, namesake, scenes[1]),
        ):
            pictures[place].append(render_image(whom, sample_context(rng, scene)))
    table = Table(
        title=f"{count} held-out characters; identity of two pictures of one, of namesakes, of others"
    )
    for column in (
        "second picture",
        *READ,
        "one",
        "namesakes",
        "others",
        "one called two",
        "namesakes called one",
        "AUROC",
    ):
        table.add_column(column)
    first = [measure(picture) for picture in pictures[0]]
    for name, spoil in SPOILT.items():
        seen = [first, *([measure(picture) for picture in spoil(some)] for some in pictures[1:])]
        table.add_row(name, *row([character for character, _ in pairs], seen))
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
