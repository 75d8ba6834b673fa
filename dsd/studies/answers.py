"""What a student draws of the held-out characters, from the same noise for all, and how it is scored.

A score is a table (cases, scenes) of one number for each picture, in [0, 1].
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from tqdm import tqdm

from dsd import extractors
from dsd.conditioning.base import Conditioning
from dsd.evaluation.measuring import measure_all
from dsd.evaluation.small_world import Answers, HeldOut, picture_seed
from dsd.mini.measure import identity
from dsd.pipeline import DSDPipeline
from dsd.student import Student

FRAME = (64, 64)
SCORES = ("identity", "identity_encoder", "scene", "product", "copy")
COPY = 0.75
"""An answer whose pixels correlate so much with those of its reference is a copy of it.

Of 8,000 true pictures of 2,000 held-out characters in other scenes than their references', 5 reach it. Of
the references themselves all do when they went through the autoencoder (0.94 at least) or are blurred over
1.5 px (0.89), and 99.7 % when they are moved by a pixel along both axes. The identity encoder cannot tell: it
is trained not to see what a copy copies, and a reference that went through the autoencoder is seldom above
the curator's 0.999.
"""
_EMBEDDED = 128

Scores = dict[str, list[list[float]]]
PerPicture = Float[np.ndarray, "cases scenes"]


def draw(
    student: Student,
    cases: Sequence[HeldOut],
    *,
    seed: int,
    batch_size: int = 32,
    progress: str | None = None,
    **sampling: Any,
) -> list[list[Image.Image]]:
    """One picture for each scene of each case, by the average weights if there are any.

    Args:
        student: whose autoencoder and text encoders are loaded if need be.
        cases: whom and where.
        seed: of the noise; the target's frame starts from the same for every conditioning.
        batch_size: pictures drawn at once.
        progress: name of a progress bar on stderr; None for none.
        sampling: further arguments of the pipeline's call.
    """
    student.backbone.load("vae", "text")
    student.eval()
    pipe = DSDPipeline(student.backbone, student.conditioning, FRAME)
    pipe.set_progress_bar_config(disable=True)
    frame = student.backbone.latent_shape(*FRAME)
    places = [(i, j) for i, case in enumerate(cases) for j in range(len(case.scenes))]
    answers: list[list[Image.Image]] = [[] for _ in cases]
    with (
        student.ema_weights(),
        tqdm(total=len(places), desc=progress, unit="picture", disable=progress is None) as bar,
    ):
        for start in range(0, len(places), batch_size):
            wanted = places[start : start + batch_size]
            seeds = [picture_seed(seed, i, j) for i, j in wanted]
            images = pipe(
                image=[cases[i].reference for i, _ in wanted],
                prompt=[cases[i].captions[j] for i, j in wanted],
                latents=canvas_noise(student.conditioning, frame, seeds),
                **sampling,
            ).images
            for (i, _), image in zip(wanted, images, strict=True):
                answers[i].append(image)
            bar.update(len(wanted))
    return answers


def canvas_noise(
    conditioning: Conditioning, frame: tuple[int, int, int], seeds: Sequence[int]
) -> Float[torch.Tensor, "b c h w"]:
    """Initial noise of canvases; the target's frame has the same for every conditioning.

    Args:
        conditioning: whose canvas.
        frame: shape of a frame's latents.
        seeds: of each picture.
    """
    blank = torch.cat([torch.zeros(1, *frame)] * len(conditioning.frames), dim=conditioning.frame_axis)
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    return torch.cat([conditioning.noise(blank, generator) for generator in generators])


def score(
    cases: Sequence[HeldOut],
    answers: Mapping[str, Answers],
    extractor: extractors.Spec | extractors.Extractor = "mini",
    *,
    workers: int = 2,
    progress: str | None = None,
) -> dict[str, Scores]:
    """Score every picture of each method.

    `identity` is likeness to the reference by geometry and colour, `identity_encoder` the cosine by the
    identity encoder, `scene` 1 where the scene is as asked, `product` identity times scene, and `copy` 1
    where the picture is the reference itself, see `COPY`.

    Args:
        cases: from `held_out`.
        answers: by method, one 64 x 64 px picture for each scene of each case.
        extractor: the identity encoder; see `dsd.extractors`.
        workers: see `measure_all`.
        progress: see `measure_all`.
    """
    references = [case.reference for case in cases]
    wanted = np.array([case.scenes for case in cases])
    pictures = {name: [image for row in drawn for image in row] for name, drawn in answers.items()}
    images = [*references, *(image for drawn in pictures.values() for image in drawn)]
    measured = measure_all(images, workers=workers, progress=progress)
    model = extractors.load(extractor)
    embedded = torch.cat([model(images[i : i + _EMBEDDED]) for i in range(0, len(images), _EMBEDDED)])
    found, start = {}, len(references)
    for name, drawn in pictures.items():
        rows = slice(start, start + len(drawn))
        start += len(drawn)
        of = np.repeat(np.arange(len(cases)), wanted.shape[1])
        alike = [identity(measured[i], seen) for i, seen in zip(of, measured[rows], strict=True)]
        cosine = (embedded[of] * embedded[rows]).sum(-1).clamp(0, 1).numpy()
        there = np.array([seen.scene for seen in measured[rows]]) == wanted.ravel()
        copied = correlation(drawn, [references[i] for i in of]) >= COPY
        values = {
            "identity": np.array(alike),
            "identity_encoder": cosine,
            "scene": there.astype(float),
            "product": np.array(alike) * there,
            "copy": copied.astype(float),
        }
        found[name] = {key: np.round(x, 6).reshape(wanted.shape).tolist() for key, x in values.items()}
    return found


def correlation(answers: Sequence[Image.Image], references: Sequence[Image.Image]) -> Float[np.ndarray, " n"]:
    """How much the pixels of pictures of one size vary together: 1 for a copy, whatever its tint and
    contrast; each colour's mean over the picture is taken off first. 0 where a picture has one colour only.
    """
    a, b = (
        np.stack([np.asarray(image.convert("RGB"), dtype=float) for image in images])
        for images in (answers, references)
    )
    a, b = (x - x.mean(axis=(1, 2), keepdims=True) for x in (a, b))
    together, apart = (a * b).sum((1, 2, 3)), np.sqrt((a * a).sum((1, 2, 3)) * (b * b).sum((1, 2, 3)))
    correlations: Float[np.ndarray, " n"] = np.divide(
        together, apart, out=np.zeros_like(together), where=apart > 0
    )
    return correlations
