"""What metrics are given as pictures, good and bad: each is read as stated, or refused with its number."""

import io
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from dsd import metrics
from dsd.metrics import images as reading
from dsd.metrics.images import read, read_sets
from tests.metrics.cases import pictures
from tests.metrics.image_cases import GRID_NET


def arrays(images):
    return [np.asarray(image) for image in images]


def same(one, other):
    assert [x.shape for x in arrays(one)] == [x.shape for x in arrays(other)]
    assert all((a == b).all() for a, b in zip(arrays(one), arrays(other), strict=True))


def encoded(image, **options):
    file = io.BytesIO()
    image.save(file, **options)
    return file.getvalue()


def test_lists_and_tensors_of_either_range_are_the_same_pictures():
    images = [x.resize((9, 7)) for x in pictures(3)]
    stacked = torch.from_numpy(np.stack(arrays(images))).permute(0, 3, 1, 2)
    for given in (images, tuple(images), stacked, stacked.float() / 255, list(stacked), arrays(images)):
        same(read(given), images)
    half = stacked.double().div(255).bfloat16()  # as far as bfloat16 goes
    assert (
        max(np.abs(a.astype(int) - b).max() for a, b in zip(arrays(read(half)), arrays(images), strict=True))
        <= 1
    )
    mixed = [images[0], stacked[1], None, torch.zeros(3, 2, 5, dtype=torch.uint8)]
    found = read(mixed)
    assert found[2] is None
    assert found[3].size == (5, 2)
    same(found[:2], images[:2])


def test_gray_transparent_turned_and_palette_pictures_are_upright_rgb():
    image = pictures(1)[0].resize((6, 4))
    turned = Image.open(
        io.BytesIO(encoded(image.transpose(Image.Transpose.ROTATE_90), format="PNG", exif=exif(6)))
    )
    gray, clear = image.convert("L"), Image.new("RGBA", (2, 2), (0, 0, 0, 0))
    found = read([turned, gray, clear, image.convert("P"), image.convert("CMYK"), image.convert("1")])
    assert [x.mode for x in found] == ["RGB"] * 6
    same(found[:1], [image])
    same(found[1:2], [gray.convert("RGB")])
    assert np.asarray(found[2]).min() == 255  # transparency is laid over white


def exif(orientation):
    found = Image.Exif()
    found[0x0112] = orientation
    return found


BAD = {
    "16 bits": (
        lambda: Image.fromarray(np.zeros((4, 4), dtype=np.uint16)),
        "picture 1: .*no fixed range.*Convert",
    ),
    "floats": (lambda: Image.new("F", (4, 4)), "picture 1: .*'F' has no fixed range"),
    "damaged": (lambda: damaged(), "picture 1 cannot be read: .*Give None in its place"),
    "huge": (lambda: Huge(), r"picture 1 has 20000 x 20000 px; at most 134,217,728 are read. Downscale"),
    "one channel": (lambda: torch.zeros(1, 4, 4), r"picture 1: .*\(3, h, w\)"),
    "-1 to 1": (lambda: torch.full((3, 4, 4), -1.0), r"picture 1: .*in \[0, 1\]; got values from -1"),
    "0 to 255": (lambda: torch.full((3, 4, 4), 200.0), r"picture 1: .*in \[0, 1\]; got values from 200"),
    "NaN": (lambda: torch.full((3, 4, 4), torch.nan), r"picture 1: .*in \[0, 1\]; got values from nan"),
    "integers": (lambda: torch.zeros(3, 4, 4, dtype=torch.int32), "picture 1: .*uint8 or float"),
}


def damaged():
    return Image.open(io.BytesIO(encoded(pictures(1, side=200)[0], format="PNG")[:4000]))


class Huge(Image.Image):
    """A picture whose pixels nobody has memory for."""

    def __init__(self):
        super().__init__()
        self._mode, self._size = "RGB", (20000, 20000)

    def load(self):
        raise AssertionError("must not be decoded")


@pytest.mark.parametrize("name", BAD)
def test_a_bad_picture_is_refused_with_its_number(name):
    build, message = BAD[name]
    (good,) = pictures(1)
    with pytest.raises(ValueError, match=f"generated {message}"):
        read([good, build()])
    metric = metrics.ImageSimilarity(GRID_NET)
    with pytest.raises(ValueError, match=f"reference {message}"):
        metric.update([good, good], [good, build()])
    assert metric.counts.sum() == 0


def test_what_is_no_list_of_pictures_is_refused():
    (good,) = pictures(1)
    with pytest.raises(TypeError, match=r"as a list or as a tensor .* got Image"):
        read(good)
    with pytest.raises(TypeError, match="got str"):
        read("folder")
    with pytest.raises(
        TypeError, match=r"picture 0 must be a PIL image, a tensor, an array or None; got str. Open files"
    ):
        read(["a.png"])
    with pytest.raises(ValueError, match=r"\(n, 3, h, w\); got \(3, 4, 4\)"):
        read(torch.zeros(3, 4, 4))


def test_a_truncated_jpeg_is_an_error_too():
    half = Image.open(io.BytesIO(encoded(pictures(1, side=300)[0], format="JPEG")[:900]))
    with pytest.raises(ValueError, match="generated picture 0 cannot be read: image file is truncated"):
        read([half])


def test_a_bomb_is_not_decoded(monkeypatch):
    monkeypatch.setattr(reading, "MAX_PIXELS", 99)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match="10 x 10 px; at most 99"):
            read([Image.new("RGB", (10, 10))])


def test_sets_and_numbers_of_references():
    a, b, c = pictures(3)
    assert read_sets([a, b], 2)[1] == [0, 1]
    sets, numbers = read_sets([[a, b], [c]], 3, [1, 0, 1])
    assert [len(x) for x in sets] == [2, 1]
    assert numbers == [1, 0, 1]
    for given, count, index, message in [
        ([a], 2, None, "2 generated pictures and 1 references"),
        ([[a], []], 2, None, "Reference 1 is empty or None"),
        ([a, None], 2, None, "Reference 1 is empty or None"),
        ([[a], [b, None]], 2, None, "Reference 1 is empty or None"),
        ([a], 2, [0], "needs a number from 0 to 0 for each of 2"),
        ([a], 1, [1], r"got \[1\]"),
        ([a], 1, [-1], r"got \[-1\]"),
    ]:
        with pytest.raises(ValueError, match=message):
            read_sets(given, count, index)
    with pytest.raises(TypeError, match=r"Put each in a list: \[\[a, b\], \[c\]\]"):
        read_sets([[a], b], 2)


def test_a_reference_by_number_is_the_reference_itself():
    one, refs = pictures(5), pictures(2, 7)
    numbers = torch.tensor([0, 1, 1, 0, 1])
    by_number, by_hand = metrics.ImageSimilarity(GRID_NET), metrics.ImageSimilarity(GRID_NET)
    by_number.update(one, refs, reference_index=numbers)
    by_hand.update(one, [refs[i] for i in numbers])
    assert by_number.compute()["score"] == by_hand.compute()["score"]


@pytest.mark.parametrize("policy", ["skip", "zero"])
def test_missing_pictures_are_counted_by_the_policy(policy):
    one, other = pictures(3), pictures(3, 5)
    whole, holed = (metrics.ImageSimilarity(GRID_NET, nan_policy=policy) for _ in range(2))
    whole.update(one[:2], other[:2])
    holed.update([*one[:2], None], other)
    found, wanted = holed.compute(), whole.compute()
    share = 1.0 if policy == "skip" else 2 / 3
    assert found["score"].item() == pytest.approx(wanted["score"].item() * share, abs=1e-6)
    assert found["missing"] == 1
    assert found["n"] == (2 if policy == "skip" else 3)
    nothing = metrics.ImageSimilarity(GRID_NET, nan_policy=policy)
    nothing.update([None, None], other[:2])
    if policy == "skip":
        with pytest.raises(ValueError, match="No value was added that counts: all 2 are missing"):
            nothing.compute()
    else:
        assert nothing.compute()["score"] == 0


def test_missing_pictures_are_an_error_by_default():
    metric = metrics.ImageSimilarity(GRID_NET)
    with pytest.raises(ValueError, match="1 of 2 values are missing, the first is number 1"):
        metric.update([pictures(1)[0], None], pictures(2))
    assert metric.counts.sum() == 0, "nothing is half added"
