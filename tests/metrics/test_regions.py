"""Parts of pictures: patches, masks, regions, and what a detector finds."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from dsd import metrics
from dsd.metrics import functional as f
from dsd.metrics.functional.patches import cut, on_grid
from tests.metrics.cases import noise, photo, pictures
from tests.metrics.image_cases import GRID_NET

seeds = st.integers(0, 2**31)


@settings(max_examples=30, deadline=None)
@given(seeds)
def test_patches_are_found_wherever_they_are(seed):
    reference, other = noise(seed, 9), noise(seed + 3, 12)
    mask = torch.arange(9) % 3 > 0
    wanted = np.mean(
        [max(torch.cosine_similarity(p[None], q[None]).item() for q in other) for p in reference[mask]]
    )
    assert f.masked_patch_similarity(other, reference, mask).item() == pytest.approx(wanted)
    moved = torch.cat([other, reference])[torch.from_numpy(np.random.default_rng(seed).permutation(21))]
    assert f.masked_patch_similarity(moved, reference, mask).item() == pytest.approx(1.0)


def test_a_patch_counts_if_more_than_half_of_it_is_covered():
    mask = torch.zeros(1, 40, 40)
    mask[:, :26, :14] = 1  # of patches of 10 px: 2.6 rows and 1.4 columns
    assert on_grid(mask, 4, 4)[0].reshape(4, 4).int().tolist() == [[1, 0, 0, 0]] * 3 + [[0] * 4]


def test_masks_of_every_kind_are_the_same_and_of_their_reference():
    (one,), (other,) = pictures(1), pictures(1, 2)
    inside = np.zeros((other.height, other.width), dtype=bool)
    inside[:, : other.width // 2 + 4] = True
    levels = np.where(inside, 128, 127).astype(np.uint8)
    kinds = [inside, levels, Image.fromarray(levels), torch.from_numpy(inside * 0.1 + 0.45), levels / 255]
    found = []
    for mask in kinds:
        metric = metrics.MaskedPatchSimilarity(GRID_NET)
        metric.update([one], [other], [mask])
        found.append(metric.compute()["score"].item())
    assert len(set(found)) == 1
    whole = metrics.MaskedPatchSimilarity(GRID_NET)
    whole.update([one], [other], [inside | True])
    assert whole.compute()["score"].item() != found[0]
    for wrong, message in [
        (([one], [other], []), "1 generated pictures, 1 references and 0 masks"),
        (([one], [None], [inside]), "Reference 0 is None"),
        (([one], [other], [inside.T[:-1]]), "Mask 0 must be of its reference's height and width"),
    ]:
        with pytest.raises(ValueError, match=message):
            whole.update(*wrong)


def test_regions_are_cut_padded_and_filled():
    image = Image.new("RGB", (20, 10), (10, 20, 30))
    image.putpixel((5, 4), (200, 0, 0))
    found = cut(image, torch.tensor([4, 2, 10, 5]), (0, 0, 0))
    assert found.size == (6, 6)
    assert found.getpixel((1, 3)) == (200, 0, 0)  # one row of padding above
    assert found.getpixel((0, 0)) == (0, 0, 0)
    mask = torch.zeros(10, 20, dtype=torch.bool)
    mask[4:6, 5:7] = True
    mask[4, 6] = False
    found = cut(image, mask, (1, 2, 3))
    assert found.size == (2, 2)
    assert [found.getpixel(p) for p in ((0, 0), (1, 0), (1, 1))] == [(200, 0, 0), (1, 2, 3), (10, 20, 30)]
    assert cut(image, torch.tensor([-5, -5, 100, 100])).size == (20, 20)
    for region, message in [
        (torch.zeros(10, 20), "A mask is empty"),
        (torch.zeros(5, 5), "picture's height and width, 10 and 20"),
        (torch.tensor([5, 5, 5, 9]), r"holds nothing of a picture of 20 x 10 px"),
        (torch.tensor([1, 2, 3]), r"a box \(4,\) or a mask"),
    ]:
        with pytest.raises(ValueError, match=message):
            cut(image, region)


def test_the_subject_alone_is_compared():
    """Two pictures of one subject on different grounds: alike where it is cut out, and not as a whole."""
    subject = photo(1).resize((20, 20))
    scenes = []
    for ground, place in (((250, 240, 10), (5, 30)), ((10, 20, 200), (60, 8))):
        scene = Image.new("RGB", (100, 60), ground)
        scene.paste(subject, place)
        scenes.append(scene)
    boxes = [[[5, 30, 25, 50]], [[0, 0, 20, 20], [60, 8, 80, 28]]]
    whole, alone = metrics.ImageSimilarity(GRID_NET), metrics.SegmentedSimilarity(GRID_NET)
    whole.update(scenes[1:], scenes[:1])
    alone.update(scenes[1:], scenes[:1], [boxes[1]], [boxes[0][0]])
    assert alone.compute()["score"].item() == pytest.approx(1.0, abs=1e-6)
    assert whole.compute()["score"] < 0.9
    missed = metrics.SegmentedSimilarity(GRID_NET)
    with pytest.raises(ValueError, match="1 of 1 values are missing"):
        missed.update(scenes[1:], scenes[:1], [[]], [boxes[0][0]])
    with pytest.raises(ValueError, match="Got regions of 2 pictures for 1"):
        missed.update(scenes[1:], scenes[:1], boxes)


def test_faces_by_a_detector_or_as_they_are():
    def faces(image):
        return GRID_NET([image, ImageOps.mirror(image)]) if image.width % 3 else None

    one, other = pictures(6), pictures(6, 4)
    by_detector = metrics.EmbeddingIdentity(detector=faces, nan_policy="zero")
    kept = [i for i in range(6) if one[i].width % 3 and other[i].width % 3]
    by_detector.update([one[i] for i in kept] + [one[0]], [other[i] for i in kept] + [other[kept[0]]])
    as_they_are = metrics.EmbeddingIdentity(nan_policy="zero")
    found = [torch.as_tensor(faces(one[i])) for i in kept] + [torch.zeros(0, 16)]
    known = [torch.as_tensor(faces(other[i])) for i in [*kept, kept[0]]]
    as_they_are.update(found, known)
    assert by_detector.compute()["score"] == as_they_are.compute()["score"]
    assert by_detector.compute()["missing"] == 1
    flagged = metrics.EmbeddingIdentity(nan_policy="skip")
    flagged.update(noise(0), noise(0), valid=[True, False, True, True])
    assert flagged.compute()["missing"] == 1
    for generated, reference, valid, message in [
        (noise(0), noise(0)[:2], None, "4 generated items and 2 references"),
        (noise(0), [noise(0)] * 3 + [torch.zeros(0, 5)], None, "Reference 3 has no embedding"),
        (noise(0), noise(0), [True], "1 flags for 4 items"),
        (torch.zeros(2, 3, 4), noise(0), None, r"\(n, d\) or a list of \(k, d\)"),
    ]:
        with pytest.raises(ValueError, match=message):
            flagged.update(generated, reference, valid=valid)
