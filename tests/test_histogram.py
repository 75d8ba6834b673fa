"""The colour-histogram curator: counts done by hand, by NumPy's own histogram, and by Pillow's."""

import random

import numpy as np
import pytest
from PIL import Image

from dsd import curators
from dsd.curators import HistogramCurator, Pair
from dsd.mini import render, world


def stripes(*colours, size=(40, 40)):
    """Upright stripes of equal width."""
    image, width = Image.new("RGB", size), size[0] // len(colours)
    for i, colour in enumerate(colours):
        image.paste(colour, (i * width, 0, (i + 1) * width, size[1]))
    return image


def score(reference, target, **arguments):
    return HistogramCurator(**arguments).judge(Pair(reference=reference, target=target)).score


def panels(count):
    rng = random.Random(3)
    drawn = (
        [world.sample_character(rng) for _ in range(count)],
        [world.sample_context(rng) for _ in range(count)],
    )
    return [Image.fromarray(array) for array in render.render(*drawn)]


@pytest.mark.parametrize("space", ["rgb", "hsv"])
def test_known_shares_give_known_likenesses(space):
    """3 of 4 pixels red against 1 of 4: p = (3/4, 1/4), q = (1/4, 3/4)."""
    mostly_red = stripes("red", "red", "red", "blue")
    mostly_blue = stripes("red", "blue", "blue", "blue")
    given = {"crop": 1.0, "space": space}
    assert score(mostly_red, mostly_blue, likeness="intersection", **given) == pytest.approx(0.5)
    assert score(mostly_red, mostly_blue, likeness="cosine", **given) == pytest.approx(6 / 10)
    assert score(mostly_red, mostly_blue, likeness="hellinger", **given) == pytest.approx(
        2 * (3 / 16) ** 0.5, abs=1e-6
    )
    for likeness in ("intersection", "cosine", "hellinger"):
        assert score(stripes("red"), stripes("blue"), likeness=likeness, **given) == 0
        assert score(mostly_red, mostly_red.copy(), likeness=likeness, **given) == 1


@pytest.mark.parametrize("space", ["rgb", "hsv"])
@pytest.mark.parametrize("crop", [0.3, 0.5, 1.0])
def test_the_histogram_is_that_of_numpy(space, crop):
    curator = HistogramCurator(space=space, crop=crop, bins=(5, 7, 3))
    for panel in panels(4):
        side = round(64 * crop)
        start = (64 - side) // 2
        cut = panel.crop((start, start, start + side, start + side)).convert(space.upper())
        theirs, _ = np.histogramdd(
            np.asarray(cut).reshape(-1, 3).astype(float),
            bins=[np.ceil(np.arange(n + 1) * 256 / n) for n in (5, 7, 3)],
        )
        np.testing.assert_allclose(curator.histogram(panel), theirs.ravel() / side**2)


def test_only_the_centre_counts():
    inner = stripes("red", size=(20, 20))
    framed = Image.new("RGB", (40, 40), "blue")
    framed.paste(inner, (10, 10))
    assert score(framed, stripes("red"), crop=0.5) == 1
    assert score(framed, stripes("red"), crop=1.0) == pytest.approx(0.25)
    wide = Image.new("RGB", (80, 40), "blue")
    wide.paste("red", (20, 10, 60, 30))
    assert score(wide, stripes("red"), crop=0.5) == 1


def test_the_order_of_the_two_and_the_size_do_not_matter():
    first, second = panels(2)
    for likeness in ("intersection", "cosine", "hellinger"):
        assert score(first, second, likeness=likeness) == score(second, first, likeness=likeness)
        larger = [image.resize((128, 128), Image.Resampling.NEAREST) for image in (first, second)]
        assert score(*larger, likeness=likeness) == score(first, second, likeness=likeness)


def test_both_limits_decide():
    reference, target = stripes("red", "red", "blue", "blue"), stripes("red", "red", "red", "lime")
    given = {"crop": 1.0, "space": "rgb"}  # half in common
    cases = {
        (0.5, 0.99): ("accepted", "the same colours: intersection 0.500, wanted 0.5 to 0.99"),
        (0.51, 0.99): ("rejected", "not the same colours: intersection 0.500, wanted 0.51 to 0.99"),
        (0.1, 0.49): ("rejected", "a near copy: intersection 0.500, wanted 0.1 to 0.49"),
    }
    for (low, high), wanted in cases.items():
        curator = HistogramCurator(low=low, high=high, **given)
        verdict = curator.judge(Pair(reference=reference, target=target))
        assert (verdict.status, verdict.reason) == wanted
        assert curator.free


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"crop": 0.0}, "`crop` must be above 0"),
        ({"crop": 1.5}, "`crop` must be above 0 and at most 1; got 1.5"),
        ({"low": 0.9, "high": 0.2}, "low=0.9 and high=0.2"),
        ({"bins": (8, 8)}, "three numbers"),
        ({"bins": (8, 8, 0)}, "three numbers from 1 to 256"),
        ({"bins": (8, 8, 257)}, "three numbers from 1 to 256"),
    ],
)
def test_settings_that_make_no_sense(arguments, message):
    with pytest.raises(ValueError, match=message):
        HistogramCurator(**arguments)


def test_unknown_words_and_specs():
    spec = {"name": "histogram", "space": "rgb", "bins": [4, 4, 4], "likeness": "cosine"}
    curator = curators.create(spec)
    assert curators.spec(curator) == spec
    assert curator.bins == (4, 4, 4)
    with pytest.raises((ValueError, TypeError), match=r"lab|space"):
        curators.create({"name": "histogram", "space": "lab"})


def test_tiny_pictures_are_judged():
    assert score(Image.new("RGB", (1, 1), "red"), Image.new("RGB", (1, 7), "red")) == 1
