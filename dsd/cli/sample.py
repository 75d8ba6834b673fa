"""Drawing with a trained student."""

import json
from collections.abc import Sequence
from itertools import product
from pathlib import Path

from PIL import Image


def sample(
    model: str,
    image: str | Sequence[str],
    prompt: str | Sequence[str],
    out: str,
    num_images_per_prompt: int = 1,
    num_inference_steps: int = 28,
    guidance_scale: float = 3.5,
    image_guidance: float = 1.0,
    text_guidance: float = 1.0,
    seed: int = 0,
    height: int | None = None,
    width: int | None = None,
    batch_size: int = 4,
    dtype: str = "float32",
    device: str | None = None,
    progress: bool = True,
) -> str:
    """Draw the subject of each picture in the scene of each prompt.

    Writes `reference-prompt-number.png`, numbered from 0, with `samples.json`, which says what each is, and
    `sheet.png`, which shows one row a reference: the reference, then its pictures.

    Args:
        model: the folder of a student, or a Hub id.
        image: a picture of the subject; may be given several times.
        prompt: what to draw; may be given several times.
        out: the folder for the pictures.
        num_images_per_prompt: pictures for each reference and prompt.
        num_inference_steps: steps of the sampler.
        guidance_scale: what a guidance-distilled denoiser is told.
        image_guidance: above 1, the reference is followed more closely.
        text_guidance: above 1, the prompt is followed more closely.
        seed: of the noise, which is the same for all references and prompts; picture i of each has the seed
            `seed + i`.
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
    from dsd.data.atomic import make_folder

    folder = Path(out).expanduser()
    make_folder(folder)
    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    pipe = DSDPipeline.from_pretrained(model, torch_dtype=dtype).to(where)
    pipe.set_progress_bar_config(disable=not progress)
    tasks = list(product(range(len(images)), range(len(prompts)), range(num_images_per_prompt)))
    drawn: list[Image.Image] = []
    for start in range(0, len(tasks), batch_size):
        batch = tasks[start : start + batch_size]
        drawn += pipe(
            image=[references[i] for i, _, _ in batch],
            prompt=[prompts[j] for _, j, _ in batch],
            generator=[torch.Generator(where).manual_seed(seed + k) for _, _, k in batch],
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            image_guidance=image_guidance,
            text_guidance=text_guidance,
            height=height,
            width=width,
        ).images

    entries = []
    for (i, j, k), picture in zip(tasks, drawn, strict=True):
        name = f"{i}-{j}-{k}.png"
        picture.save(folder / name)
        entries.append({"file": name, "image": images[i], "prompt": prompts[j], "seed": seed + k})
    (folder / "samples.json").write_text(json.dumps(entries, indent=1) + "\n")
    sheet(references, drawn).save(folder / "sheet.png")
    return f"{len(drawn)} pictures and sheet.png in {folder}"


def sheet(references: Sequence[Image.Image], drawn: Sequence[Image.Image], gap_px: int = 4) -> Image.Image:
    """One row a reference: the reference as the student sees it, then the pictures drawn of it."""
    from dsd.pixels import from_pixels, to_pixels

    width, height = drawn[0].size
    columns = len(drawn) // len(references)
    page = Image.new(
        "RGB",
        ((columns + 1) * (width + gap_px) + gap_px, len(references) * (height + gap_px) + gap_px),
        "white",
    )
    for row, reference in enumerate(from_pixels(to_pixels(references, height, width))):
        for column, picture in enumerate([reference, *drawn[row * columns : (row + 1) * columns]]):
            page.paste(picture, (gap_px + column * (width + gap_px), gap_px + row * (height + gap_px)))
    return page


def _opened(path: str) -> Image.Image:
    if not Path(path).expanduser().is_file():
        raise FileNotFoundError(f"There is no picture {path!r}.")
    with Image.open(Path(path).expanduser()) as image:
        image.load()
        return image
