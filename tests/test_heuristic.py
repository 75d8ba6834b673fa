import random

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from dsd import curators
from dsd.curators import Curator, HeuristicCurator, Pair, Verdict
from dsd.mini import render, world


def draw(count, seed=0):
    """`count` pairs of panels of the small world; each pair shows one character twice."""
    rng = random.Random(seed)
    characters = [world.sample_character(rng) for _ in range(count)]
    views = [render.render(characters, [world.sample_context(rng) for _ in characters]) for _ in range(2)]
    return [tuple(Image.fromarray(view[i]) for view in views) for i in range(count)]


@pytest.fixture(scope="module")
def panels():
    return draw(1)[0]


def judge(reference, target, **arguments):
    return HeuristicCurator(**arguments).judge(Pair(reference=reference, target=target))


def test_proper_panels_of_the_small_world_pass():
    verdicts = HeuristicCurator().judge_batch([Pair(reference=a, target=b) for a, b in draw(200)])
    assert sum(verdict.accepted for verdict in verdicts) >= 198
    assert {verdict.score for verdict in verdicts if verdict.accepted} == {1.0}


def halves(image, other):
    """The right half of one picture beside the left half of the next, as a shifted grid shows them."""
    shifted = Image.new("RGB", image.size, "white")
    shifted.paste(image.crop((32, 0, 64, 64)), (0, 0))
    shifted.paste(other.crop((0, 0, 32, 64)), (32, 0))
    return shifted


def gutter(image, upright, colour="white"):
    """A panel with a line of one colour across it, as a grid of another layout has."""
    cut = image.copy()
    ImageDraw.Draw(cut).rectangle((30, 0, 31, 63) if upright else (0, 30, 63, 31), fill=colour)
    return cut


FAULTS = {
    "is small": lambda image: image.resize((16, 16)),
    "is dark": lambda image: image.point(lambda value: value // 16),
    "is flat": lambda image: image.point(lambda value: 120 + value // 16),
    "is blurred": lambda image: image.filter(ImageFilter.GaussianBlur(5)),
    "is crossed by a seam": lambda image: gutter(image, upright=True, colour=(255, 0, 255)),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("side", ["reference", "target"])
def test_each_fault_is_found_and_named(panels, fault, side):
    reference, target = panels
    if side == "reference":
        reference = FAULTS[fault](reference)
    else:
        target = FAULTS[fault](target)
    verdict = judge(reference, target)
    assert verdict.status == "rejected"
    assert f"{side} {fault}" in verdict.reason
    assert ("target" if side == "reference" else "reference") + " is" not in verdict.reason
    assert 0 < verdict.score < 1


@pytest.mark.parametrize("size", [64, 256, 512])
@pytest.mark.parametrize("fault", ["is dark", "is flat", "is blurred", "is crossed by a seam"])
def test_limits_do_not_depend_on_the_size_of_the_panels(panels, fault, size):
    reference, target = (panel.resize((size, size), Image.Resampling.BICUBIC) for panel in panels)
    assert judge(reference, target).accepted
    bad = FAULTS[fault](panels[0]).resize((size, size), Image.Resampling.BICUBIC)
    assert f"reference {fault}" in judge(bad, target).reason


def test_panels_cut_from_a_shifted_grid_have_seams():
    pairs = draw(100, seed=5)
    found = [judge(halves(*pair), pair[1]) for pair in pairs]
    unlike = [
        np.abs(np.diff(np.asarray(halves(*pair), dtype=int), axis=1)).max(-1)[:, 31] > 15 for pair in pairs
    ]
    clear = [verdict for verdict, edge in zip(found, unlike, strict=True) if edge.mean() > 0.95]
    assert len(clear) > 30
    assert all("reference is crossed by a seam" in verdict.reason for verdict in clear)
    assert judge(halves(*pairs[0]), pairs[0][1], allow_seams=True).accepted


@pytest.mark.parametrize("upright", [True, False])
def test_gutters_are_found_in_both_directions(panels, upright):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 120, (64, 64, 3), dtype=np.uint8))
    assert "reference is crossed by a seam" in judge(gutter(noise, upright), panels[1]).reason
    assert "seam" not in judge(noise, panels[1]).reason


def test_copies_and_near_copies_are_found(panels):
    reference, target = panels
    brighter = reference.point(lambda value: min(255, value + 4))
    for copy in (reference.copy(), brighter):
        verdict = judge(reference, copy)
        assert verdict.status == "rejected"
        assert "panels are near copies" in verdict.reason
    assert judge(reference, reference.copy(), min_difference=0.0).accepted
    assert judge(reference, target).accepted


def test_panels_of_two_sizes_are_rejected(panels):
    assert "sizes differ: 64 x 64 px and 48 x 64 px" in judge(panels[0], panels[1].resize((48, 64))).reason


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (5, 5)])
def test_tiny_and_narrow_panels_get_a_verdict(size):
    verdict = judge(Image.new("RGB", size), Image.new("RGB", size, "white"))
    assert "is small" in verdict.reason


@pytest.mark.parametrize(
    ("argument", "value"),
    [("min_side_px", 65), ("min_brightness", 0.95), ("min_contrast", 0.6), ("min_sharpness", 2.0)],
)
def test_every_limit_takes_effect(panels, argument, value):
    assert judge(*panels).accepted
    assert not judge(*panels, **{argument: value}).accepted


def test_an_exception_fails_one_pair_only(panels, caplog):
    class Picky(Curator):
        def judge(self, pair):
            if pair.caption == "bad":
                raise RuntimeError("no answer")
            return Verdict(keep=True, reason=pair.caption)

    pairs = [Pair(reference=panels[0], target=panels[1], caption=caption) for caption in ("a", "bad", "b")]
    verdicts = Picky().judge_batch(pairs)
    assert [(verdict.status, verdict.reason) for verdict in verdicts] == [
        ("accepted", "a"),
        ("failed", "RuntimeError: no answer"),
        ("accepted", "b"),
    ]
    assert "no answer" in caplog.text


def test_specs():
    curator = curators.create({"name": "heuristic", "min_sharpness": 0.2})
    assert curators.spec(curator) == {"name": "heuristic", "min_sharpness": 0.2}
    with pytest.raises(TypeError, match="no argument 'sharpness'"):
        curators.create({"name": "heuristic", "sharpness": 0.2})
