"""Judges a student of the embedded model on characters that nothing was trained on.

Identity is measured twice: by geometry and colour (`dsd.mini.measure`), which a student cannot fool, and by
the identity encoder, as one would do it in the wide world. Beside it stands whether the scene that was asked
for is there, because a copy of the reference has a perfect identity and fails the prompt.
"""

import hashlib
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from tqdm import tqdm

from dsd import extractors
from dsd.evaluation.bootstrap import Interval, interval, resamples
from dsd.evaluation.measuring import measure_all
from dsd.evaluation.methods.student import ask_student
from dsd.evaluation.methods.text_only import ask_teacher
from dsd.mini.measure import identity
from dsd.mini.render import render_image
from dsd.mini.world import SCENES, caption, describe, describe_scene, sample_character, sample_context
from dsd.types import image_digest

if TYPE_CHECKING:
    from dsd.pipeline import DSDPipeline
    from dsd.teachers.base import Teacher

_EMBEDDED = 128  # pictures given to the encoder at once
METHODS = ("student", "text_only", "copy", "untrained", "ceiling")
SCORES = ("identity", "identity_encoder", "scene", "product")

Answers = Sequence[Sequence[Image.Image]]
"""One 64 px picture for each scene of each case."""
PerPicture = Float[np.ndarray, "cases scenes"]


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """A character that nothing was trained on: one picture of it, and what it is to be drawn in.

    Attributes:
        reference: the one picture that a student sees.
        scenes: the scenes asked for; the reference's own is not among them.
        captions: what is asked for, one caption a scene.
        truths: what a perfect artist would draw, one picture a scene.
    """

    reference: Image.Image
    scenes: tuple[str, ...]
    captions: tuple[str, ...]
    truths: tuple[Image.Image, ...]


@dataclass(frozen=True, kw_only=True)
class MethodScores:
    """How one method did; all scores are means over pictures, in [0, 1].

    Attributes:
        identity: likeness to the reference by geometry and colour.
        identity_encoder: cosine likeness to the reference by the identity encoder, negative ones counted as
            0.
        scene: share of pictures that show the scene asked for.
        product: identity times scene, picture by picture.
        references: how many characters.
        intervals: of each score, 95 %, from a bootstrap over characters.
        pictures: identity and scene of each picture, case by case.
    """

    identity: float
    identity_encoder: float
    scene: float
    product: float
    references: int
    intervals: Mapping[str, Interval]
    pictures: Mapping[str, list[list[float]]] = field(repr=False)

    def to_json(self) -> dict[str, Any]:
        """Scores, their number and intervals."""
        scores = {name: getattr(self, name) for name in SCORES}
        return {
            **scores,
            "references": self.references,
            "intervals": {k: list(v) for k, v in self.intervals.items()},
        }


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The methods beside each other.

    Attributes:
        methods: scores by method.
        gap_closed: (student - text_only) / (ceiling - text_only) in identity; None where there is no student
            and text_only, or no gap.
        gap_interval: 95 %, all three resampled together; None with `gap_closed`.
    """

    methods: Mapping[str, MethodScores]
    gap_closed: float | None
    gap_interval: Interval | None


def held_out(count: int = 64, num_scenes: int = 4, seed: int = 0) -> list[HeldOut]:
    """Characters of the held-out split with captions as in training; case i depends on the seed and i alone.

    Raises:
        ValueError: if there are fewer than one case, or not that many scenes beside the reference's own.
    """
    if count < 1 or not 1 <= num_scenes < len(SCENES):
        raise ValueError(
            f"Got count={count} and num_scenes={num_scenes}. There must be at least 1 case, and 1 to "
            f"{len(SCENES) - 1} scenes, since the reference's own is left out."
        )
    return [_held_out(random.Random(f"held out:{seed}:{i}"), num_scenes) for i in range(count)]


def _held_out(rng: random.Random, num_scenes: int) -> HeldOut:
    character = sample_character(rng, held_out=True)
    subject = describe(character, rng)
    own, *scenes = rng.sample(SCENES, num_scenes + 1)
    return HeldOut(
        reference=render_image(character, sample_context(rng, own)),
        scenes=tuple(scenes),
        captions=tuple(caption(subject, describe_scene(scene, rng)) for scene in scenes),
        truths=tuple(render_image(character, sample_context(rng, scene)) for scene in scenes),
    )


def evaluate_methods(
    cases: Sequence[HeldOut],
    answers: Mapping[str, Answers],
    extractor: extractors.Spec | extractors.Extractor = "mini",
    *,
    workers: int = 2,
    progress: str | None = None,
    seed: int = 0,
) -> Evaluation:
    """Score the methods, and with them `copy` (the reference unchanged) and `ceiling` (the true pictures).

    Args:
        cases: from `held_out`.
        answers: by method, what it drew.
        extractor: the identity encoder; see `dsd.extractors`.
        workers: see `measure_all`.
        progress: see `measure_all`.
        seed: of the bootstrap.

    Raises:
        ValueError: if there is no case, the cases have not as many scenes each, or a method has not one
            picture of 64 x 64 px for each scene of each case.
    """
    if len({len(case.scenes) for case in cases}) != 1:
        raise ValueError(
            f"Got {len(cases)} cases with {sorted({len(case.scenes) for case in cases})} scenes. "
            "There must be at least one case, and as many scenes in each; see `held_out`."
        )
    drawn = {
        **answers,
        "copy": [[case.reference] * len(case.scenes) for case in cases],
        "ceiling": [case.truths for case in cases],
    }
    for method, given in drawn.items():
        if [len(row) for row in given] != [len(case.scenes) for case in cases]:
            raise ValueError(
                f"The method {method!r} needs one picture for each of the "
                f"{sum(len(case.scenes) for case in cases)} scenes of {len(cases)} cases; "
                f"got {[len(row) for row in given]}."
            )
    ordered = [name for name in METHODS if name in drawn] + [name for name in drawn if name not in METHODS]
    wanted = [scene for case in cases for scene in case.scenes]
    found = picture_scores(
        [case.reference for _ in ordered for case in cases for _ in case.scenes],
        [image for name in ordered for row in drawn[name] for image in row],
        wanted * len(ordered),
        extractor,
        workers=workers,
        progress=progress,
    )
    picks = resamples(len(cases), seed=seed)
    shape = (len(ordered), len(cases), len(cases[0].scenes))
    values = {
        name: {score: scores.reshape(shape)[number] for score, scores in found.items()}
        for number, name in enumerate(ordered)
    }
    methods = {name: _summary(found, picks) for name, found in values.items()}
    return Evaluation(
        methods=methods, **_gap({name: found["identity"] for name, found in values.items()}, picks)
    )


def picture_scores(
    references: Sequence[Image.Image],
    images: Sequence[Image.Image],
    scenes: Sequence[str],
    extractor: extractors.Spec | extractors.Extractor = "mini",
    *,
    workers: int = 2,
    progress: str | None = None,
) -> dict[str, Float[np.ndarray, " pictures"]]:
    """The scores of each picture; see `MethodScores` for what they are.

    Args:
        references: of each picture.
        images: what was drawn, 64 x 64 px.
        scenes: what was asked for.
        extractor: the identity encoder; see `dsd.extractors`.
        workers: see `measure_all`.
        progress: see `measure_all`.

    Raises:
        ValueError: if there are not as many of each, or a picture is not 64 x 64 px.
    """
    if not len(references) == len(images) == len(scenes):
        raise ValueError(f"{len(references)} references and {len(scenes)} scenes for {len(images)} pictures.")
    every = [*references, *images]
    measured = measure_all(every, workers=workers, progress=progress)
    embedded = _embedded(every, extractors.load(extractor))
    count = len(images)
    alike = [identity(a, b) for a, b in zip(measured[:count], measured[count:], strict=True)]
    there = [found.scene == scene for found, scene in zip(measured[count:], scenes, strict=True)]
    found = {
        "identity": np.array(alike, dtype=float),
        "identity_encoder": (embedded[:count] * embedded[count:]).sum(-1).clamp(0, 1).double().numpy(),
        "scene": np.array(there, dtype=float),
    }
    return {**found, "product": found["identity"] * found["scene"]}


def _embedded(images: list[Image.Image], extractor: extractors.Extractor) -> Float[torch.Tensor, "n d"]:
    """One row a picture; equal ones go through the network once."""
    digests = [image_digest(image) for image in images]
    unique = dict(zip(digests, images, strict=True))
    rows = list(unique.values())
    found = torch.cat([extractor(rows[i : i + _EMBEDDED]) for i in range(0, len(rows), _EMBEDDED)])
    places = {digest: number for number, digest in enumerate(unique)}
    return found[[places[digest] for digest in digests]]


def _summary(values: Mapping[str, PerPicture], picks: np.ndarray) -> MethodScores:
    return MethodScores(
        **{name: float(values[name].mean()) for name in SCORES},
        references=len(values["identity"]),
        intervals={name: interval(lambda mean: mean, values[name], picks=picks) for name in SCORES},
        pictures={name: values[name].tolist() for name in ("identity", "scene")},
    )


def _gap(identities: Mapping[str, PerPicture], picks: np.ndarray) -> dict[str, Any]:
    names = ("student", "text_only", "ceiling")
    if not all(name in identities for name in names):
        return {"gap_closed": None, "gap_interval": None}
    student, text, ceiling = (identities[name] for name in names)
    gap = ceiling.mean() - text.mean()
    if gap <= 0:
        return {"gap_closed": None, "gap_interval": None}
    closed = float((student.mean() - text.mean()) / gap)
    return {"gap_closed": closed, "gap_interval": interval(_closed, student, text, ceiling, picks=picks)}


def _closed(student: np.ndarray, text: np.ndarray, ceiling: np.ndarray) -> np.ndarray:
    gap = ceiling - text
    return (student - text) / np.where(gap > 0, gap, np.nan)


def picture_seed(seed: int, case: int, scene: int) -> int:
    """The seed of the noise of one answer: the same for every method."""
    return int.from_bytes(hashlib.sha256(f"answer:{seed}:{case}:{scene}".encode()).digest()[:4], "big")


def student_answers(
    cases: Sequence[HeldOut],
    pipe: "DSDPipeline",
    *,
    seed: int = 0,
    batch_size: int = 32,
    progress: str | None = None,
    **arguments: Any,
) -> list[list[Image.Image]]:
    """What a student draws of each reference in each scene.

    Args:
        cases: whom and where.
        pipe: the student; its progress bar is switched off.
        seed: of the noise.
        batch_size: pictures drawn at once; it changes them by rounding at most.
        progress: name of a progress bar on stderr; None for none.
        arguments: further arguments of the pipeline's call.
    """

    def draw(wanted: list[tuple[int, int]]) -> list[Image.Image]:
        return ask_student(
            pipe,
            [cases[i].reference for i, _ in wanted],
            [cases[i].captions[j] for i, j in wanted],
            [picture_seed(seed, i, j) for i, j in wanted],
            **{"height": 64, "width": 64, **arguments},
        )

    return _draw(cases, draw, batch_size, progress)


def text_only_answers(
    cases: Sequence[HeldOut], teacher: "Teacher", *, seed: int = 0, progress: str | None = None
) -> list[list[Image.Image]]:
    """What a teacher draws of each caption without seeing the reference: one panel each."""

    def draw(wanted: list[tuple[int, int]]) -> list[Image.Image]:
        texts = [cases[i].captions[j] for i, j in wanted]
        return ask_teacher(teacher, texts, [picture_seed(seed, i, j) for i, j in wanted])

    return _draw(cases, draw, teacher.batch_size, progress)


def _draw(
    cases: Sequence[HeldOut],
    draw: Callable[[list[tuple[int, int]]], list[Image.Image]],
    batch_size: int,
    progress: str | None,
) -> list[list[Image.Image]]:
    places = [(i, j) for i, case in enumerate(cases) for j in range(len(case.scenes))]
    answers: list[list[Image.Image]] = [[] for _ in cases]
    with tqdm(total=len(places), desc=progress, unit="picture", disable=progress is None) as bar:
        for start in range(0, len(places), batch_size):
            wanted = places[start : start + batch_size]
            for (i, _), image in zip(wanted, draw(wanted), strict=True):
                answers[i].append(image)
            bar.update(len(wanted))
    return answers
