"""Laws that every curator obeys, those of other packages too: they run on every registered name."""

import copy
import json
import random

import numpy as np
import pytest
from PIL import Image

from dsd import curators
from dsd.mini import render, world
from dsd.types import STATUSES, Pair, image_digest
from tests.providers import serve

SPECS = {
    "ensemble": {
        "name": "ensemble",
        "members": ["heuristic", {"name": "embedding", "low": 0.5}, "heuristic"],
        "unsure": [["accepted"], [0.6, 0.9]],
    },
    "vlm": {"name": "vlm", "model": "openai/judge", "structured": "schema", "both_orders": True},
}
"""Specs for the names that cannot be built without arguments."""


def answer(asked):
    """A judge's answer that depends on the pictures it gets alone."""
    first, second = (float(np.asarray(image, dtype=float).mean()) / 255 for image in asked.images)
    likely = 1 - abs(first - second)
    return json.dumps(
        {
            "subject": "a creature",
            "first_picture": f"brightness {first:.3f}",
            "second_picture": f"brightness {second:.3f}",
            "comparison": f"{abs(first - second):.3f} apart",
            "different_pictures": likely < 1,
            "same_subject": likely > 0.95,
            "score": likely,
        }
    )


@pytest.fixture(scope="module")
def server():
    with serve(answer) as serving:
        yield serving


def panel(rng, character=None):
    character = character or world.sample_character(rng)
    return Image.fromarray(render.render([character], [world.sample_context(rng)])[0])


@pytest.fixture
def pairs():
    """Alike, unlike, identical pairs in several sizes: fresh ones, lest a test hide what another edited."""
    rng = random.Random(0)
    found = []
    for _ in range(4):
        character = world.sample_character(rng)
        found.append(Pair(reference=panel(rng, character), target=panel(rng, character), caption="the same"))
        found.append(Pair(reference=panel(rng), target=panel(rng), caption="two others"))
    same = panel(rng)
    found += [
        Pair(reference=same, target=same.copy(), caption="a copy"),
        Pair(reference=same, target=Image.new("RGB", same.size), caption="black"),
        Pair(reference=same.resize((96, 96)), target=panel(rng).resize((96, 96)), caption="larger"),
        Pair(reference=same.resize((48, 80)), target=same.resize((80, 48)), caption="not square"),
    ]
    return found


@pytest.fixture(scope="module", params=curators.names())
def curator(request):
    spec = SPECS.get(request.param, request.param)
    if request.param == "vlm":
        pytest.importorskip("litellm")
        spec = {**spec, "api_base": request.getfixturevalue("server").openai}
    return curators.create(spec)


def assert_same_verdicts(ours, theirs):
    assert [verdict.status for verdict in ours] == [verdict.status for verdict in theirs]
    for one, other in zip(ours, theirs, strict=True):
        assert (one.score is None) == (other.score is None)
        assert one.score is None or one.score == pytest.approx(other.score, abs=1e-4)


def test_a_verdict_depends_on_its_pair_alone(curator, pairs):
    alone = [curator.judge(pair) for pair in pairs]
    together = curator.judge_batch(pairs)
    assert_same_verdicts(together, alone)
    assert_same_verdicts(list(reversed(curator.judge_batch(list(reversed(pairs))))), alone)
    for size in (1, 5):
        parts = [curator.judge_batch(pairs[start : start + size]) for start in range(0, len(pairs), size)]
        assert_same_verdicts([verdict for part in parts for verdict in part], alone)


def test_every_verdict_says_why(curator, pairs):
    for verdict in curator.judge_batch(pairs):
        assert verdict.status in STATUSES
        assert verdict.status != "failed", verdict.reason
        assert verdict.reason
        assert verdict.score is None or verdict.score == verdict.score


def test_nothing_in_gives_nothing_out(curator):
    assert curator.judge_batch([]) == []


def test_a_pair_is_never_edited(curator, pairs):
    before = [(image_digest(pair.reference), image_digest(pair.target), pair.caption) for pair in pairs]
    curator.judge_batch(pairs)
    assert [
        (image_digest(pair.reference), image_digest(pair.target), pair.caption) for pair in pairs
    ] == before


def unreadable(image, path):
    """A picture whose file ends in the middle: it opens, but its pixels cannot be read."""
    image.save(path, format="BMP")
    path.write_bytes(path.read_bytes()[: image.width * image.height])
    return Image.open(path)


@pytest.mark.parametrize("side", ["reference", "target"])
def test_one_bad_picture_fails_alone(curator, pairs, side, tmp_path):
    bad = {"reference": pairs[0].reference, "target": pairs[0].target}
    bad[side] = unreadable(bad[side], tmp_path / "cut.bmp")
    verdicts = curator.judge_batch([*pairs[:3], Pair(**bad), *pairs[3:]])
    failed = verdicts.pop(3)
    assert failed.status == "failed"
    assert "image file is truncated" in failed.reason
    assert_same_verdicts(verdicts, curator.judge_batch(pairs))


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK"])
def test_every_image_mode_is_judged(curator, pairs, mode):
    pair = Pair(reference=pairs[0].reference.convert(mode), target=pairs[0].target.convert(mode))
    assert curator.judge(pair).status != "failed"


def test_a_curator_is_rebuilt_from_its_spec(curator, pairs):
    again = curators.create(curators.spec(curator))
    assert type(again) is type(curator)
    assert_same_verdicts(again.judge_batch(pairs), curator.judge_batch(pairs))
    assert curators.spec(copy.copy(curator)) == curators.spec(curator)
