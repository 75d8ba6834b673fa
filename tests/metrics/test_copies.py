"""What must hold of copies and near copies, whatever the pictures are."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance, ImageOps

from dsd import metrics
from dsd.metrics import functional as f
from tests.metrics.cases import noise, photo
from tests.metrics.image_cases import GRID_NET

seeds = st.integers(0, 2**31)


@settings(max_examples=50, deadline=None)
@given(seeds)
def test_copy_paste_is_antisymmetric_bounded_and_exact_at_its_ends(seed):
    g, t, r = noise(seed), noise(seed + 1), noise(seed + 2)
    found = f.copy_paste(g, t, r)
    assert (found.abs() <= 1).all()
    torch.testing.assert_close(found, -f.copy_paste(g, r, t))
    torch.testing.assert_close(f.copy_paste(3 * g, t, 2 * r), found)
    assert f.copy_paste(r, t, r).tolist() == [1.0] * 4
    assert f.copy_paste(t, t, r).tolist() == [-1.0] * 4
    unit = [x / x.norm(dim=-1, keepdim=True) for x in (g, t, r)]
    angles = [torch.arccos((unit[a] * unit[b]).sum(-1)) for a, b in ((0, 1), (0, 2), (1, 2))]
    torch.testing.assert_close(found, (angles[0] - angles[1]) / angles[2])


def test_copy_paste_of_float32_copies_is_one():
    """The arc cosine of a float32 cosine of a copy with itself is up to 5e-4 off."""
    r, t = noise(0, 100, 384).float(), noise(1, 100, 384).float()
    assert (f.copy_paste(r, t, r) - 1).abs().max() < 1e-6
    same = f.copy_paste(noise(2, 100, 384).float(), r, r)
    assert (same.abs() < 1e-6).all(), "truth and reference alike: no side is nearer"


def test_gated_pictures_are_left_out_and_counted_with_their_groups():
    g = torch.eye(3)
    t = torch.tensor([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 1.0]])
    found = f.copy_paste_score(g, t, g, [0, 1, 0], min_truth_similarity=0.4)
    assert found["gated"] == 1
    assert found["n_by_group"].tolist() == [2]
    assert found["score"].item() == pytest.approx(1.0)
    assert found["truth_similarity"].item() == pytest.approx(2 * 0.5**0.5 / 3)
    with pytest.raises(ValueError, match="differ in shape"):
        f.copy_paste_score(g, t[:2], g)


COPIES = {
    "itself": lambda x: x,
    "mirrored": ImageOps.mirror,
    "downscaled": lambda x: x.resize((60, 70), Image.Resampling.LANCZOS),
    "squeezed": lambda x: x.resize((120, 60), Image.Resampling.LANCZOS),
    "moved": lambda x: x.transform(x.size, Image.Transform.AFFINE, (1, 0, 5, 0, 1, -5)),
    "cut": lambda x: x.crop((10, 12, 110, 128)),
    "cut and mirrored": lambda x: ImageOps.mirror(x.crop((10, 12, 110, 128))),
    "padded": lambda x: ImageOps.expand(x, 8, "gray"),
    "brighter": lambda x: ImageEnhance.Brightness(x).enhance(1.15),
    "paler": lambda x: ImageEnhance.Contrast(x).enhance(0.6),
    "noisy": lambda x: Image.blend(x, Image.effect_noise(x.size, 60).convert("RGB"), 0.15),
}


@pytest.mark.parametrize("name", COPIES)
def test_near_copies_are_found_in_either_direction(name):
    image = photo()
    for one, other in ((COPIES[name](image), image), (image, COPIES[name](image))):
        assert f.near_copy_similarity(one, other) > 0.93, name


def test_what_is_no_copy_is_not_taken_for_one():
    image = photo()
    others = [photo(i) for i in range(1, 9)] + [
        image.transpose(Image.Transpose.ROTATE_90),
        ImageOps.flip(image),
    ]
    found = [f.near_copy_similarity(image, other) for other in others]
    assert max(found) < 0.75
    far = image.transform(image.size, Image.Transform.AFFINE, (1, 0, 40, 0, 1, 0))
    assert f.near_copy_similarity(far, image) < 0.9


def test_flat_pictures_are_copies_of_their_own_colour_alone():
    red, dark, image = Image.new("RGB", (9, 9), (200, 0, 0)), Image.new("RGB", (5, 5), (190, 0, 0)), photo()
    assert f.near_copy_similarity(red, red.resize((30, 20))) == 1.0
    for one, other in itertools.permutations((red, dark, image), 2):
        assert f.near_copy_similarity(one, other) == 0.0
    for wrong in ({"shift": 0.3}, {"zooms": [0.0]}):
        with pytest.raises(ValueError, match="`shift` must be in"):
            f.near_copy_similarity(red, red, **wrong)
    with pytest.raises(ValueError, match="modes 'L' and 'RGB'"):
        f.near_copy_similarity(red.convert("L"), red)


def test_near_copies_of_any_reference_by_pixels_or_by_a_network():
    one, other = photo(1), photo(2)
    metric = metrics.NearCopyRate()
    metric.update([ImageOps.mirror(other), photo(3)], [[one, other], [one, other]])
    assert metric.compute()["score"] == 0.5
    by_net = metrics.NearCopyRate(threshold=0.99, extractor=GRID_NET)
    by_net.update([ImageOps.mirror(one), photo(3)], [one, one])
    assert by_net.compute()["score"] == 0.5
    assert by_net.compute()["likeness"] < 1
    with pytest.raises(ValueError, match=r"in \[-1, 1\]; got 1.5"):
        metrics.NearCopyRate(threshold=1.5)
