"""Drawing with a trained student."""

import json
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

from PIL import Image

from dsd.opening import open_image

_GUIDANCE = ("guidance_scale", "image_guidance", "text_guidance")


def sample(
    model: str,
    image: str | Sequence[str],
    prompt: str | Sequence[str],
    out: str,
    base: str | None = None,
    num_images_per_prompt: int = 1,
    num_inference_steps: int = 28,
    guidance_scale: float | Sequence[float] = 3.5,
    image_guidance: float | Sequence[float] = 1.0,
    text_guidance: float | Sequence[float] = 1.0,
    guidance_skip_steps: int = 2,
    negative_prompt: str | None = None,
    seed: int | Sequence[int] = 0,
    height: int | None = None,
    width: int | None = None,
    batch_size: int = 4,
    dtype: str = "float32",
    device: str | None = None,
    progress: bool = True,
) -> str:
    """Draw the subject of each picture in the scene of each prompt.

    Writes `reference-prompt-number.png`, numbered from 0, with `samples.json`, which says what each is, and
    `sheet.png`: a block for each reference, a row for each prompt and guidance, a column for each seed. Where
    guidance has several values, all of them are drawn, and the names end on the number of their combination.

    Args:
        model: the folder of a student or of an export, or a Hub id.
        image: a picture of the subject; may be given several times.
        prompt: what to draw; may be given several times.
        out: the folder for the pictures.
        base: what the student was trained from, if it is needed and not where the model says.
        num_images_per_prompt: pictures for each reference and prompt.
        num_inference_steps: steps of the sampler.
        guidance_scale: what a guidance-distilled denoiser is told; may be given several times.
        image_guidance: above 1, the reference is followed more closely; may be given several times.
        text_guidance: above 1, the prompt is followed more closely; may be given several times.
        guidance_skip_steps: how many of the first steps go without image and text guidance.
        negative_prompt: what to lead away from, where text guidance is above 1.
        seed: of the noise, which is the same for all references and prompts; picture i of each has the seed
            `seed + i`. May be given several times.
        height: of a picture in pixels; by default that of training.
        width: likewise.
        batch_size: pictures drawn at once.
        dtype: of the weights, such as "bfloat16".
        device: by default a GPU if there is one.
        progress: show a progress bar on stderr.

    Raises:
        FileNotFoundError: if there is no such model or picture.
        OSError: if `out` cannot be written.
        ValueError: if a prompt is empty, or a number is below 1.
    """
    images, prompts = ([given] if isinstance(given, str) else list(given) for given in (image, prompt))
    if not images or not prompts or not all(text.strip() for text in prompts):
        raise ValueError(f"Give at least one --image, and prompts that are not empty; got {prompts}.")
    if min(batch_size, num_images_per_prompt) < 1:
        raise ValueError(
            f"`batch_size` and `num_images_per_prompt` must be at least 1; "
            f"got {batch_size} and {num_images_per_prompt}."
        )
    references = [_opened(path) for path in images]

    import torch

    from dsd import DSDPipeline
    from dsd.contact import contact_sheet
    from dsd.data.atomic import make_folder
    from dsd.pixels import from_pixels, to_pixels

    settings = [
        dict(zip(_GUIDANCE, values, strict=True))
        for values in product(_listed(guidance_scale), _listed(image_guidance), _listed(text_guidance))
    ]
    seeds = [first + i for first in _listed(seed) for i in range(num_images_per_prompt)]
    folder = Path(out).expanduser()
    make_folder(folder)
    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    pipe = DSDPipeline.from_pretrained(model, base=base, torch_dtype=dtype).to(where)
    pipe.set_progress_bar_config(disable=not progress)
    tasks = list(product(range(len(images)), range(len(prompts)), range(len(seeds))))
    drawn: dict[tuple[int, int, int, int], Image.Image] = {}
    for g, setting in enumerate(settings):
        for start in range(0, len(tasks), batch_size):
            batch = tasks[start : start + batch_size]
            pictures = pipe(
                image=[references[i] for i, _, _ in batch],
                prompt=[prompts[j] for _, j, _ in batch],
                generator=[torch.Generator(where).manual_seed(seeds[k]) for _, _, k in batch],
                num_inference_steps=num_inference_steps,
                guidance_skip_steps=guidance_skip_steps,
                negative_prompt=negative_prompt,
                height=height,
                width=width,
                **setting,
            ).images
            drawn |= {(i, j, g, k): picture for (i, j, k), picture in zip(batch, pictures, strict=True)}

    entries = []
    for (i, j, g, k), picture in sorted(drawn.items()):
        name = f"{i}-{j}-{k}-{g}.png" if len(settings) > 1 else f"{i}-{j}-{k}.png"
        picture.save(folder / name)
        entries.append(
            {"file": name, "image": images[i], "prompt": prompts[j], "seed": seeds[k], **settings[g]}
        )
    (folder / "samples.json").write_text(json.dumps(entries, indent=1) + "\n")
    changing = [name for name in _GUIDANCE if len({setting[name] for setting in settings}) > 1]
    labels = [[f"{name.replace('_', ' ')} {setting[name]:g}" for name in changing] for setting in settings]
    size = next(iter(drawn.values())).size
    blocks = []
    for i, shown in enumerate(from_pixels(to_pixels(references, size[1], size[0]))):
        rows = [
            ([prompts[j], *labels[g]], [drawn[i, j, g, k] for k in range(len(seeds))])
            for j in range(len(prompts))
            for g in range(len(settings))
        ]
        blocks.append((shown, Path(images[i]).name, rows))
    contact_sheet(blocks, [f"seed {number}" for number in seeds]).save(folder / "sheet.png")
    return f"{len(drawn)} pictures and sheet.png in {folder}"


def _listed(given: float | Sequence[float]) -> list[Any]:
    return [given] if isinstance(given, int | float) else list(given)


def _opened(path: str) -> Image.Image:
    return open_image(Path(path).expanduser())
