"""Characters that differ in one thing, as they are rendered and as the autoencoder leaves them.

The identity encoder learns from them what a curator must see in drawn grids: ears, shape or marks that change
from panel to panel while the colours stay.
"""

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from jaxtyping import UInt8

from dsd.mini.render import render
from dsd.mini.train.bank import character
from dsd.mini.world import EARS, PATTERNS, SCENES, SHAPES, Character, is_held_out, sample_context

MEMBERS = 4
"""A character and three that differ from it."""
VIEWS = 4
"""Pictures a member: two contexts, each as rendered and as autoencoded."""
_CHUNK = 100


def changed(one: Character, rng: random.Random) -> Character:
    """The same character with another shape, other ears, another pattern, hue or pattern's hue."""
    kind = rng.choice(("shape", "ears", "ears", "pattern", "hue", "pattern_hue"))
    turn = rng.choice((-1, 1)) * rng.uniform(0.08, 0.25)
    if kind == "shape":
        return replace(one, shape=rng.choice([x for x in SHAPES if x != one.shape]))
    if kind == "ears":
        return replace(one, ears=rng.choice([x for x in EARS if x != one.ears]))
    if kind == "hue":
        return replace(one, colour=((one.colour[0] + turn) % 1.0, *one.colour[1:]))
    if kind == "pattern_hue" and one.pattern != "plain":
        hue, *rest = one.pattern_colour
        return replace(one, pattern_colour=((hue + 2 * turn) % 1.0, rest[0], rest[1]))
    return replace(one, pattern=rng.choice([x for x in PATTERNS if x != one.pattern]))


def family(index: int, held_out: bool = False) -> list[Character]:
    """Character `index` of the bank and its relatives; those of the training split are of that split too."""
    rng = random.Random(f"relatives:{held_out}:{index}")
    members = [character(index, held_out)]
    while len(members) < MEMBERS:
        other = changed(members[0], rng)
        if (held_out or not is_held_out(other)) and other not in members:
            members.append(other)
    return members


class FamilyBank:
    """Pictures (families, 4, 4, 64, 64, 3), uint8; missing chunks are made first and kept on disk."""

    def __init__(self, folder: Path, num_families: int, vae: AutoencoderKL, held_out: bool = False) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        name, chunks = "held-out" if held_out else "train", []
        for start in range(0, num_families, _CHUNK):
            path = folder / f"{name}-{start // _CHUNK:04d}.npy"
            if not path.exists():
                part = path.with_suffix(".part.npy")
                families = [_pictures(i, held_out, vae) for i in range(start, start + _CHUNK)]
                np.save(part, np.stack(families))
                part.rename(path)
            chunks.append(np.load(path, mmap_mode="r"))
        self._chunks = chunks
        self.num_families = _CHUNK * len(chunks)

    def pictures(
        self, families: np.ndarray, members: np.ndarray, views: np.ndarray
    ) -> UInt8[np.ndarray, "n 64 64 3"]:
        """The pictures at the given numbers."""
        places = zip(families, members, views, strict=True)
        return np.stack([self._chunks[f // _CHUNK][f % _CHUNK, m, v] for f, m, v in places])


def _pictures(index: int, held_out: bool, vae: AutoencoderKL) -> UInt8[np.ndarray, "members views 64 64 3"]:
    rng = random.Random(f"relatives' contexts:{held_out}:{index}")
    members = [one for one in family(index, held_out) for _ in (0, 1)]
    scenes = [scene for _ in range(MEMBERS) for scene in rng.sample(SCENES, 2)]
    rendered = render(members, [sample_context(rng, scene) for scene in scenes])
    pixels = torch.from_numpy(rendered.copy()).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        again = vae.decode(vae.encode(pixels).latent_dist.mode()).sample.clamp(-1, 1)
    left = ((again + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    return np.stack([rendered, left], axis=1).reshape(MEMBERS, VIEWS, 64, 64, 3)
