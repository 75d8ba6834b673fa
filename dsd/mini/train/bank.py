"""Rendered panels of many characters, in chunks on disk that are made once and read by index."""

import random
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from dsd.mini.render import render
from dsd.mini.world import SCENES, Character, Context, sample_character, sample_context

CHUNK = 500
VIEWS = 8
"""Panels a character: one in each of the six scenes and two more."""


def character(index: int, held_out: bool = False) -> Character:
    """The bank's character number `index`, the same on every machine."""
    return sample_character(random.Random(f"bank:{held_out}:{index}"), held_out)


def contexts(index: int, held_out: bool = False) -> list[Context]:
    """The contexts in which character `index` is drawn."""
    rng = random.Random(f"contexts:{held_out}:{index}")
    scenes = [*SCENES, *rng.choices(SCENES, k=VIEWS - len(SCENES))]
    return [sample_context(rng, scene) for scene in scenes]


def _render_chunk(path: Path, start: int, held_out: bool) -> None:
    characters, places = [], []
    for index in range(start, start + CHUNK):
        characters += [character(index, held_out)] * VIEWS
        places += contexts(index, held_out)
    panels = np.concatenate(
        [render(characters[i : i + 80], places[i : i + 80]) for i in range(0, len(places), 80)]
    )
    part = path.with_suffix(".part.npy")
    np.save(part, panels.reshape(CHUNK, VIEWS, 64, 64, 3))
    part.rename(path)


class PanelBank:
    """Panels (characters, 8, 64, 64, 3), uint8, memory-mapped; missing chunks are rendered first."""

    def __init__(self, folder: Path, num_characters: int, held_out: bool = False, workers: int = 2) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        name = "held-out" if held_out else "train"
        chunks = -(-num_characters // CHUNK)
        paths = [folder / f"{name}-{i:04d}.npy" for i in range(chunks)]
        with ProcessPoolExecutor(workers) as pool:
            jobs = [
                pool.submit(_render_chunk, p, i * CHUNK, held_out)
                for i, p in enumerate(paths)
                if not p.exists()
            ]
            for job in jobs:
                job.result()
        self.num_characters = chunks * CHUNK
        self.held_out = held_out
        self._chunks = [np.load(path, mmap_mode="r") for path in paths]

    def panels(self, characters: np.ndarray, views: np.ndarray) -> UInt8[np.ndarray, "n 64 64 3"]:
        """The panels at the given pairs of character and view numbers."""
        return np.stack(
            [self._chunks[c // CHUNK][c % CHUNK, v] for c, v in zip(characters, views, strict=True)]
        )
