"""The metrics of pictures and embeddings as a table; what they must give is found by numpy and loops."""

import itertools
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn
from torchmetrics import Metric
from torchmetrics.functional.classification import binary_auroc

from dsd import metrics
from dsd.metrics import GroupedMean
from tests.metrics.cases import NAN, Case, pictures, split

RNG = np.random.default_rng(0)
GROUPS = ["animal", "human", "object"]
WEIGHTS = {"animal": 45.0, "human": 20.0, "object": 65.0}
GRID = 3


class Grid:
    """A stand-in network: mean colours on a grid, mixed at random; it has patches and reads."""

    max_tokens = 6
    preprocessing = "3 x 3 means"

    def __init__(self) -> None:
        self.mix = np.random.default_rng(5).normal(size=(GRID * GRID * 3, 16)).astype(np.float32)

    def cells(self, image: Image.Image) -> np.ndarray:
        return np.asarray(image.resize((GRID, GRID), Image.Resampling.BOX), dtype=np.float32) / 255 - 0.4

    def row(self, image: Image.Image) -> np.ndarray:
        return self.cells(image).ravel() @ self.mix

    def __call__(self, images: list[Image.Image]) -> np.ndarray:
        return np.stack([self.row(image) for image in images])

    def patches(self, images: list[Image.Image]) -> np.ndarray:
        return np.stack([self.cells(image) for image in images])

    def texts(self, texts: list[str]) -> np.ndarray:
        rows = [np.random.default_rng(sum(map(ord, text[:40]))).normal(size=16) for text in texts]
        return np.stack(rows).astype(np.float32)

    def count_tokens(self, texts: list[str]) -> list[int]:
        return [len(text.split()) + 2 for text in texts]


GRID_NET = Grid()


def unit(x: np.ndarray) -> np.ndarray:
    x = np.asarray(x, dtype=np.float64)
    return x / np.linalg.norm(x)


def cos(a: np.ndarray, b: np.ndarray) -> float:
    return float(unit(a) @ unit(b))


def by_rule(values: np.ndarray, groups: list[str], average: str) -> float:
    """A mean over groups by numpy."""
    if average == "micro":
        return float(np.nanmean(values))
    means = {
        name: np.nanmean([v for v, g in zip(values, groups, strict=True) if g == name]) for name in GROUPS
    }
    return float(sum(WEIGHTS[name] * mean for name, mean in means.items()) / sum(WEIGHTS.values()))


def made(name: str, **arguments: Any) -> Any:
    return lambda: metrics.create({"name": name, **arguments})


def counts(values: np.ndarray) -> dict[str, float]:
    return {"n": float((~np.isnan(values)).sum()), "missing": float(np.isnan(values).sum())}


N = 12
ONE, TWO, THREE = pictures(N, 11), pictures(N, 12), pictures(N, 13)
WHICH = [GROUPS[i % 3] for i in range(N)]
HOLED: list[Any] = [None if i in (3, 8) else image for i, image in enumerate(ONE)]


def _mean_score(average: str) -> Case:
    values = np.round(RNG.uniform(size=N), 2)
    values[[2, 7]] = NAN
    kwargs = {"groups": GROUPS, "average": average, "nan_policy": "skip"}
    if average == "macro":
        kwargs["weights"] = WEIGHTS
    return Case(
        make=made("mean_score", **kwargs),
        batches=split(N, values=values, groups=WHICH),
        wanted={"score": by_rule(values, WHICH, average), **counts(values)},
        exact=False,
    )


def _image_similarity(average: str, reduction: str) -> Case:
    sets = [[b, c][: 1 + i % 2] for i, (b, c) in enumerate(zip(TWO, THREE, strict=True))]
    values = np.array(
        [
            NAN
            if image is None
            else {"mean": np.mean, "max": np.max}[reduction](
                [cos(GRID_NET.row(image), GRID_NET.row(x)) for x in some]
            )
            for image, some in zip(HOLED, sets, strict=True)
        ]
    )
    kwargs = {"groups": GROUPS, "average": average, "nan_policy": "skip", "reduction": reduction}
    if average == "macro":
        kwargs["weights"] = WEIGHTS
    return Case(
        make=made("image_similarity", extractor=GRID_NET, **kwargs),
        batches=split(N, generated=HOLED, reference=sets, groups=WHICH),
        wanted={"score": by_rule(values, WHICH, average), **counts(values)},
    )


def _text() -> Case:
    prompts = [f"a dog number {i} on {'a very very long beach' if i % 4 == 0 else 'it'}" for i in range(N)]
    stripped = [prompt.removeprefix("a dog ") for prompt in prompts]
    values = [cos(GRID_NET.row(x), row) for x, row in zip(ONE, GRID_NET.texts(stripped), strict=True)]
    return Case(
        make=made("text_image_similarity", extractor=GRID_NET, scale=100.0),
        batches=split(N, generated=ONE, prompts=prompts, subjects=["dog"] * N),
        wanted={"score": 100 * float(np.mean(values)), "n": float(N), "missing": 0.0, "truncated": 3.0},
    )


def _masked() -> Case:
    masks, values = [], []
    for i, (image, other) in enumerate(zip(ONE, TWO, strict=True)):
        mask = np.zeros((other.height, other.width), dtype=bool)
        mask[:, : other.width // GRID * (1 + i % 2)] = True
        if i == 5:
            mask[:] = False
        masks.append(mask)
        cells = [GRID_NET.cells(x).reshape(-1, 3) for x in (image, other)]
        # the columns that are covered by more than a half, on a grid of three
        inside = [c for c in range(GRID) if mask.any() and (c + 0.5) * other.width / GRID < mask[0].sum()]
        chosen = [cells[1].reshape(GRID, GRID, 3)[r, c] for r in range(GRID) for c in inside]
        values.append(np.mean([max(cos(p, q) for q in cells[0]) for p in chosen]) if chosen else NAN)
    return Case(
        make=made("masked_patch_similarity", extractor=GRID_NET, nan_policy="skip"),
        batches=split(N, generated=ONE, reference=TWO, masks=masks),
        wanted={"score": float(np.nanmean(values)), **counts(np.array(values))},
    )


def _segmented() -> Case:
    boxes = [[[0, 0, 20, 20], [4, 4, 24, 24]][: i % 3] for i in range(N)]
    values = [
        max(
            (cos(GRID_NET.row(image.crop(box)), GRID_NET.row(other.crop((2, 2, 22, 22)))) for box in some),
            default=NAN,
        )
        for image, other, some in zip(ONE, TWO, boxes, strict=True)
    ]
    return Case(
        make=made("segmented_similarity", extractor=GRID_NET, nan_policy="zero"),
        batches=split(N, generated=ONE, reference=TWO, regions=boxes, reference_regions=[[2, 2, 22, 22]] * N),
        wanted={
            "score": float(np.nan_to_num(values).mean()),
            "n": N,
            "missing": float(np.isnan(values).sum()),
        },
    )


def _identity() -> Case:
    faces = [RNG.integers(-8, 9, (i % 3, 6)) / 8 + 1 / 16 for i in range(N)]
    people = [RNG.integers(-8, 9, (2, 6)) / 8 + 1 / 16 for _ in range(N)]
    values = [
        max((max(cos(face, p) for p in some) for face in found), default=NAN)
        for found, some in zip(faces, people, strict=True)
    ]
    tensors = [[torch.tensor(x, dtype=torch.float32) for x in column] for column in (faces, people)]
    return Case(
        make=made("embedding_identity", reduction="max", nan_policy="skip"),
        batches=split(N, generated=tensors[0], reference=tensors[1]),
        wanted={"score": float(np.nanmean(values)), **counts(np.array(values))},
    )


def _copy_paste(gate: float | None) -> Case:
    values, gated = [], 0
    for image, truth, given in zip(HOLED, TWO, THREE, strict=True):
        if image is None:
            values.append(NAN)
            continue
        g, t, r = (unit(GRID_NET.row(x)) for x in (image, truth, given))
        if gate is not None and g @ t < gate:
            gated += 1
            continue
        values.append((np.arccos(g @ t) - np.arccos(g @ r)) / np.arccos(t @ r))
    return Case(
        make=made("copy_paste_score", extractor=GRID_NET, min_truth_similarity=gate, nan_policy="skip"),
        batches=split(N, generated=HOLED, truth=TWO, reference=THREE),
        wanted={"score": float(np.nanmean(values)), "gated": float(gated), **counts(np.array(values))},
    )


def _near_copies() -> Case:
    copies: list[Any] = [
        [image, image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), other][i % 3]
        for i, (image, other) in enumerate(zip(TWO, THREE, strict=True))
    ]
    copies[2] = None
    return Case(
        make=made("near_copy_rate", nan_policy="skip"),
        batches=split(N, generated=copies, reference=TWO),
        wanted={"score": 8 / 11, "n": 11.0, "missing": 1.0},
    )


def _margin() -> Case:
    positive, negative = (RNG.integers(0, 9, 40) / 8 for _ in range(2))
    names = [f"sample-{i % 13}" for i in range(40)]
    won = positive > negative
    whole = [won[[i for i, n in enumerate(names) if n == name]].all() for name in sorted(set(names))]
    return Case(
        make=made("identity_margin"),
        batches=split(40, positive=positive, negative=negative, samples=names),
        wanted={"ssr": float(np.mean(whole)), "pa": float(won.mean()), "samples": 13.0, "n": 40.0},
    )


def _auroc() -> Case:
    scores, same, kind = RNG.integers(0, 9, 60) / 8, RNG.random(60) < 0.4, RNG.random(60) < 0.5
    kept = torch.tensor(same | kind)
    areas = [
        float(binary_auroc(torch.tensor(scores)[x], torch.tensor(same).int()[x])) for x in (kept | True, kept)
    ]
    return Case(
        make=made("identity_auroc"),
        batches=split(60, scores=scores, same=same, same_class=kind),
        wanted={"auroc": areas[0], "auroc_same_class": areas[1], "n": 60.0, "n_same": float(same.sum())},
    )


def _diversity() -> Case:
    sets = [[ONE[i], TWO[i], THREE[i]][: 1 + i % 3] for i in range(N)]
    values = [
        np.mean([1 - cos(GRID_NET.row(a), GRID_NET.row(b)) for a, b in itertools.combinations(some, 2)])
        if len(some) > 1
        else NAN
        for some in sets
    ]
    return Case(
        make=made("intra_prompt_diversity", extractor=GRID_NET, nan_policy="skip"),
        batches=split(N, generated=sets),
        wanted={"score": float(np.nanmean(values)), **counts(np.array(values))},
    )


@metrics.register("strangers_mean")
class StrangersMean(GroupedMean):
    """What somebody else might write: nothing but a way from pictures to numbers."""

    def update(self, generated: Any) -> None:
        self.add([np.asarray(image).mean() / 255 for image in generated])


@metrics.register("strangers_own")
class StrangersOwn(Metric):
    """What somebody else might write on torchmetrics alone."""

    full_state_update: bool = False

    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.add_state("total", torch.tensor(0.0), dist_reduce_fx="sum")

    def update(self, generated: Any, prompts: Any) -> None:
        self.total += sum(len(prompt) for prompt in prompts)

    def compute(self) -> torch.Tensor:
        return self.total


CASES: dict[str, Case] = {
    **{f"mean_score {average}": _mean_score(average) for average in ("micro", "macro")},
    **{
        f"image_similarity {average} {reduction}": _image_similarity(average, reduction)
        for average, reduction in (("micro", "mean"), ("macro", "max"))
    },
    "text_image_similarity": _text(),
    "masked_patch_similarity": _masked(),
    "segmented_similarity": _segmented(),
    "embedding_identity": _identity(),
    "copy_paste_score": _copy_paste(None),
    "copy_paste_score gated": _copy_paste(0.5),
    "near_copy_rate": _near_copies(),
    "identity_margin": _margin(),
    "identity_auroc": _auroc(),
    "intra_prompt_diversity": _diversity(),
}
