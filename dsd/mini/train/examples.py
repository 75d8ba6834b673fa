"""What the teacher is trained on: panels' latents, encoded once and put together, with prompts and facts."""

import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, FluxPipeline
from jaxtyping import Float, Int
from torch import Tensor

from dsd.mini.train import text
from dsd.mini.train.align import PANEL_TOKENS, Facts, facts_of
from dsd.mini.train.autoencoder import compose
from dsd.mini.train.bank import CHUNK, VIEWS, PanelBank, character, contexts
from dsd.mini.world import SCENES, caption, describe, describe_scene, grid_text

LAYOUTS = {"2x2": (2, 2), "1x2": (1, 2), "1x1": (1, 1)}
SHARES = {"2x2": 0.3, "1x2": 0.63, "1x1": 0.07}
BATCH = {"2x2": 32, "1x2": 48, "1x1": 64}
TEXT_DROPOUT = 0.1
LENGTHS = {"2x2": 52, "1x2": 36, "1x1": 20}
"""T5 tokens that the longest prompts need."""
MEDIUM_EVERY, LONG_EVERY, LONG_BATCH = 6, 25, 6
"""Every so often prompts are padded to 64 tokens, or to 512 as `FluxPipeline` does by default, so that
padding means nothing."""


class LatentBank:
    """Latents (characters, 8, 16, 8, 8) of a `PanelBank`, scaled to unit variance; encoded once, kept on
    disk.
    """

    def __init__(self, folder: Path, bank: PanelBank, vae: AutoencoderKL) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.num_characters = bank.num_characters
        chunks = []
        for start in range(0, bank.num_characters, CHUNK):
            path = folder / f"latents-{start // CHUNK:04d}.npy"
            if not path.exists():
                latents = [_encode(vae, bank, c) for c in range(start, start + CHUNK, 10)]
                part = path.with_suffix(".part.npy")
                np.save(part, np.concatenate(latents).astype(np.float16))
                part.rename(path)
            chunks.append(np.load(path))
        self.latents = np.concatenate(chunks)

    def some(self, count: int) -> Float[Tensor, "n 16 8 8"]:
        """The first panels of the first characters."""
        return torch.from_numpy(self.latents[:count, 0]).float()


@torch.no_grad()
def _encode(vae: AutoencoderKL, bank: PanelBank, first: int) -> np.ndarray:
    characters, views = np.repeat(np.arange(first, first + 10), VIEWS), np.tile(np.arange(VIEWS), 10)
    pixels = torch.from_numpy(bank.panels(characters, views)).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.autocast("cpu", torch.bfloat16):
        latents = vae.encode(pixels).latent_dist.mode().float()
    scaled = (latents - vae.config.shift_factor) * vae.config.scaling_factor
    return scaled.reshape(10, VIEWS, *latents.shape[1:]).numpy()


@dataclass(frozen=True, kw_only=True)
class Examples:
    """Packed latents of one layout, the prompts that describe them, and the scenes in which a prompt puts the
    panels (-100 where the prompt is empty). `captions` describe the panels one by one.
    """

    x_0: Float[Tensor, "n tokens 64"]
    prompts: list[str]
    captions: list[str]
    layout: str
    scenes: Int[Tensor, "n panels"]
    facts: Facts | None
    rows: int
    columns: int

    def single(self) -> "Examples":
        """What describes the panels as pictures of their own, without latents."""
        return Examples(
            x_0=self.x_0.new_zeros(len(self.captions), 0, self.x_0.shape[2]),
            prompts=self.captions,
            captions=self.captions,
            layout="1x1",
            scenes=self.scenes.reshape(-1, 1),
            facts=None,
            rows=PANEL_TOKENS,
            columns=PANEL_TOKENS,
        )


def examples(bank: LatentBank, step: int, count: int | None = None, layout: str | None = None) -> Examples:
    """The training pictures of a step; the same ones for the same step on every machine."""
    rng = random.Random(f"examples:{step}")
    layout = layout or rng.choices(list(SHARES), list(SHARES.values()))[0]
    rows, columns = LAYOUTS[layout]
    prompts, captions, canvases, named, known = [], [], [], [], []
    for _ in range(count or BATCH[layout]):
        index = rng.randrange(bank.num_characters)
        views = rng.sample(range(VIEWS), rows * columns)
        places = contexts(index)
        scenes = [describe_scene(places[view].scene, rng) for view in views]
        subject = describe(character(index), rng)
        prompt = grid_text(subject, scenes, layout, rng)
        prompts.append("" if rng.random() < TEXT_DROPOUT else text.punctuate(prompt, rng))
        captions += [caption(subject, scene) if prompts[-1] else "" for scene in scenes]
        named.append([SCENES.index(places[view].scene) if prompts[-1] else -100 for view in views])
        canvases.append(bank.latents[index, views])
        known.append([facts_of(character(index), places[view]) for view in views])
    canvas = compose(torch.from_numpy(np.concatenate(canvases)).float(), (rows, columns))
    n, c, h, w = canvas.shape
    return Examples(
        x_0=FluxPipeline._pack_latents(canvas, n, c, h, w),
        prompts=prompts,
        captions=captions,
        layout=layout,
        scenes=torch.tensor(named),
        facts=Facts(
            classes=torch.tensor([[classes for classes, _ in row] for row in known]),
            numbers=torch.tensor([[numbers for _, numbers in row] for row in known]),
        ),
        rows=h // 2,
        columns=w // 2,
    )


def apart(tokens: Float[Tensor, "n tokens d"], layout: tuple[int, int]) -> Float[Tensor, "m panel_tokens d"]:
    """The packed latents of each panel of a grid."""
    rows, columns = layout
    side = PANEL_TOKENS
    cut = tokens.unflatten(1, (rows, side, columns, side)).transpose(2, 3)
    return cut.flatten(3, 4).flatten(0, 2)


def at_once(
    panels: Float[Tensor, "m panel_tokens d"], layout: tuple[int, int]
) -> Float[Tensor, "n tokens d"]:
    """The inverse of `apart`."""
    rows, columns = layout
    side = PANEL_TOKENS
    grids = panels.unflatten(0, (-1, rows, columns)).unflatten(3, (side, side)).transpose(2, 3)
    return grids.flatten(1, 4)


def text_length(layout: str, step: int) -> int:
    """How many T5 tokens the prompts of a step are padded to."""
    if step % LONG_EVERY == LONG_EVERY - 1:
        return 512
    return text.T5_LENGTH if step % MEDIUM_EVERY == 0 else LENGTHS[layout]


def batch_size(step: int) -> int | None:
    """A small batch where prompts are long; else the layout's own."""
    return LONG_BATCH if step % LONG_EVERY == LONG_EVERY - 1 else None
