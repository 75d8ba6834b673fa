"""The weights that the package ships, measured on characters that no training saw."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, FluxPipeline
from PIL import Image
from safetensors.torch import load_file
from torchmetrics.functional.classification import binary_auroc

from dsd import extractors, grids, mini
from dsd.mini import measure, render, world
from dsd.types import Grid, GridPrompt

FOLDER = Path(mini.__file__).parent / "weights"


def held_out_panels(count: int, views: int) -> list[list[Image.Image]]:
    rng, found = random.Random("weights"), []
    for _ in range(count):
        character = world.sample_character(rng, held_out=True)
        places = [world.sample_context(rng) for _ in range(views)]
        found.append([Image.fromarray(panel) for panel in render.render([character] * views, places)])
    return found


def draw(count: int, steps: int = 20) -> list[tuple[list[str], list[Image.Image]]]:
    """Panels' captions and panels of grids that stock diffusers draws from held-out prompts."""
    pipeline = FluxPipeline.from_pretrained(mini.path())
    pipeline.set_progress_bar_config(disable=True)
    rng = random.Random("grids")
    prompts = [world.write_grid_prompt(rng, held_out=True) for _ in range(count)]
    images = pipeline(
        [prompt["text"] for prompt in prompts],
        height=128,
        width=128,
        num_inference_steps=steps,
        max_sequence_length=64,
        generator=[torch.Generator().manual_seed(i) for i in range(count)],
    ).images
    return [
        (prompt["panels"], grids.split(image, "2x2")) for prompt, image in zip(prompts, images, strict=True)
    ]


def test_all_weights_are_half_precision_safetensors_of_at_most_25_mb() -> None:
    files = [file for file in FOLDER.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= 25e6
    assert {file.suffix for file in files} <= {".safetensors", ".json", ".txt"}
    for file in FOLDER.rglob("*.safetensors"):
        kinds = {tensor.dtype for tensor in load_file(file).values() if tensor.is_floating_point()}
        assert kinds == {torch.float16}, file


def test_the_autoencoder_keeps_patterns() -> None:
    vae = AutoencoderKL.from_pretrained(mini.path() / "vae")
    panels = np.stack([np.asarray(panel) for panels in held_out_panels(8, 4) for panel in panels])
    truth = torch.from_numpy(panels).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        ours = vae.decode(vae.encode(truth).latent_dist.mode()).sample.clamp(-1, 1)
    psnr = -10 * torch.log10(((ours - truth) / 2).square().mean((1, 2, 3)))
    assert psnr.mean() > 28.5
    kept = [
        measure.measure(Image.fromarray(a)).pattern == measure.measure(Image.fromarray(b)).pattern
        for a, b in zip(panels, ((ours + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy(), strict=True)
    ]
    assert np.mean(kept) >= 0.9


def test_the_latents_have_mean_0_and_deviation_1() -> None:
    vae = AutoencoderKL.from_pretrained(mini.path() / "vae")
    panels = np.stack([np.asarray(panel) for panels in held_out_panels(8, 4) for panel in panels])
    pixels = torch.from_numpy(panels).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        latents = vae.encode(pixels).latent_dist.mode()
    latents = (latents - vae.config.shift_factor) * vae.config.scaling_factor
    assert abs(latents.mean()) < 0.1
    assert abs(latents.std() - 1) < 0.1


def test_the_identity_encoder_knows_held_out_characters() -> None:
    panels = held_out_panels(60, 2)
    embed = extractors.load("mini")
    likeness = embed([a for a, _ in panels]) @ embed([b for _, b in panels]).T
    assert binary_auroc(likeness.ravel(), torch.eye(60, dtype=torch.int).ravel()) > 0.98


def test_the_teacher_draws_the_scenes_it_is_asked_for() -> None:
    drawn = draw(6)
    asked = [world.scene_of(caption) for captions, _ in drawn for caption in captions]
    seen = [measure.measure(panel) for _, panels in drawn for panel in panels]
    assert np.mean([a == m.scene for a, m in zip(asked, seen, strict=True)]) >= 0.8
    assert np.mean([m.fit for m in seen]) > 0.6, "there are no characters in the panels"


@pytest.mark.slow
def test_the_teacher_is_mostly_but_not_always_consistent() -> None:
    drawn = draw(96)
    asked = [world.scene_of(caption) for captions, _ in drawn for caption in captions]
    seen = [measure.measure(panel).scene for _, panels in drawn for panel in panels]
    assert np.mean([a == b for a, b in zip(asked, seen, strict=True)]) >= 0.85
    assert 0.5 <= np.mean([measure.consistent(panels) for _, panels in drawn]) <= 0.9


def test_a_missing_folder_says_how_to_mend_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(mini, "_WEIGHTS", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"python -m dsd.mini.train"):
        mini.path()


def test_records_of_the_small_world_are_grid_prompts() -> None:
    prompt = GridPrompt(**world.write_grid_prompt(random.Random(0)))
    grid = Grid(image=Image.new("RGB", (128, 128)), prompt=prompt, seed=0, teacher="none")
    assert len(grids.split(grid.image, prompt.layout)) == len(prompt.panels)
