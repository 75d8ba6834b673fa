import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from dsd import metrics
from dsd.metrics.functional import image_similarity


def mean_colours(images: list[Image.Image]) -> torch.Tensor:
    """A stand-in network: the mean colour of each picture."""
    return torch.tensor(np.stack([np.asarray(image, dtype=np.float32).mean((0, 1)) + 1 for image in images]))


@pytest.fixture
def pictures() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8) // (1 + i % 3)) for i in range(10)
    ]


def test_it_equals_numpy(pictures: list[Image.Image]) -> None:
    metric = metrics.create({"name": "image_similarity", "extractor": mean_colours})
    metric.update(pictures[:5], pictures[5:])
    a, b = mean_colours(pictures[:5]).numpy(), mean_colours(pictures[5:]).numpy()
    cosines = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    assert metric.compute().item() == pytest.approx(cosines.mean(), abs=1e-6)
    assert image_similarity(torch.tensor(a), torch.tensor(b)).item() == pytest.approx(
        cosines.mean(), abs=1e-6
    )


def test_parts_of_any_size_merge_to_the_whole(pictures: list[Image.Image]) -> None:
    whole, first, second = (metrics.ImageSimilarity(extractor=mean_colours) for _ in range(3))
    whole.update(pictures[:5], pictures[5:])
    first.update(pictures[:1], pictures[5:6])
    second.update(pictures[1:5], pictures[6:])
    first.merge_state(second)
    assert first.compute().item() == pytest.approx(whole.compute().item(), abs=1e-6)


def test_it_survives_pickling_and_is_symmetric(pictures: list[Image.Image]) -> None:
    metric = metrics.ImageSimilarity(extractor=mean_colours)
    metric.update(pictures[:5], pictures[5:])
    other = metrics.ImageSimilarity(extractor=mean_colours)
    other.update(pictures[5:], pictures[:5])
    assert pickle.loads(pickle.dumps(metric)).compute() == metric.compute() == other.compute()


def test_a_copy_scores_one(pictures: list[Image.Image]) -> None:
    metric = metrics.ImageSimilarity(extractor=mean_colours)
    metric.update(pictures, pictures)
    assert metric.compute().item() == pytest.approx(1.0)


def test_errors_say_what_to_do(pictures: list[Image.Image]) -> None:
    metric = metrics.ImageSimilarity(extractor=mean_colours)
    with pytest.raises(ValueError, match="2 generated pictures and 3 references"):
        metric.update(pictures[:2], pictures[:3])
    with pytest.raises(ValueError, match="call `update` first"):
        metric.compute()
