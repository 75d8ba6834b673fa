import dataclasses
import hashlib
import json

import pytest
from PIL import Image

from dsd.types import Grid, GridPrompt, Pair, Verdict, image_digest

PROMPT = GridPrompt(
    text="a grid", subject="a red ball", panels=("a red ball in snow", "a red ball at sea"), layout="1x2"
)
RED = Image.new("RGB", (8, 8), (200, 30, 20))
BLUE = Image.new("RGB", (8, 8), (20, 30, 200))


def test_ids_are_the_same_on_every_machine():
    """Written out by hand, so that a change of Python, platform or field order cannot move the ids unseen."""
    red = hashlib.sha256(b"RGB 8x8 " + bytes((200, 30, 20)) * 64).hexdigest()
    assert image_digest(RED) == red
    fields = {
        "caption": "x", "grid_id": "", "kind": "character", "reference": red, "reference_panel": 0,
        "source": "", "subject": "", "target": red, "target_panel": 1,
    }  # fmt: skip
    text = json.dumps(["Pair", fields], sort_keys=True, separators=(",", ":"))
    assert Pair(reference=RED, target=RED, caption="x").id == hashlib.sha256(text.encode()).hexdigest()[:20]
    assert PROMPT.id == "3540cbeb6520b7be5a1d"


@pytest.mark.parametrize(
    "change",
    [
        {"reference": BLUE},
        {"target": RED},
        {"caption": "a red ball at sea"},
        {"subject": "ball"},
        {"kind": "object"},
        {"grid_id": "0" * 20},
        {"reference_panel": 2},
        {"target_panel": 3},
        {"source": "folder"},
    ],
)
def test_pair_id_depends_on_content_and_origin(change):
    pair = Pair(reference=RED, target=BLUE)
    assert dataclasses.replace(pair, **change).id != pair.id
    assert dataclasses.replace(pair, reference=RED.copy(), target=BLUE.copy()).id == pair.id


def test_pair_id_tells_reference_from_target():
    assert Pair(reference=RED, target=BLUE).id != Pair(reference=BLUE, target=RED).id


def test_grid_id_depends_on_the_prompt_the_seed_and_the_teacher():
    grid = Grid(image=RED, prompt=PROMPT, seed=1, teacher="diffusers")
    others = [
        dataclasses.replace(grid, **change)
        for change in (
            {"seed": 2}, {"teacher": "api"}, {"image": BLUE}, {"prompt": dataclasses.replace(PROMPT, seed=5)},
        )
    ]  # fmt: skip
    assert len({grid.id, *(other.id for other in others)}) == 5


def test_image_digest_sees_mode_size_and_palette():
    grey = Image.new("L", (4, 2), 7)
    palettes = [Image.new("P", (4, 2), 7), Image.new("P", (4, 2), 7)]
    for palette, image in enumerate(palettes):
        image.putpalette([palette * 9] * 768)
    images = [grey, Image.new("L", (2, 4), 7), *palettes]
    assert len({image_digest(image) for image in images}) == 4


def test_records_are_frozen_and_named_by_keyword():
    pair = Pair(reference=RED, target=BLUE)
    with pytest.raises(dataclasses.FrozenInstanceError):
        pair.caption = "changed"
    with pytest.raises(TypeError):
        Pair(RED, BLUE)


@pytest.mark.parametrize("text", ["", "  ", "\n"])
def test_an_empty_prompt_is_an_error(text):
    with pytest.raises(ValueError, match="prompt is empty"):
        GridPrompt(text=text, subject="ball", panels=())


@pytest.mark.parametrize(("keep", "status"), [(True, "accepted"), (False, "rejected")])
def test_keep_gives_the_status(keep, status):
    verdict = Verdict(keep=keep, score=0.5)
    assert verdict.status == status
    assert verdict.accepted is keep
    assert verdict == Verdict(status=status, score=0.5)
    assert dataclasses.replace(verdict, score=0.7).status == status


@pytest.mark.parametrize("status", ["refused", "unparsable", "failed", "rejected"])
def test_only_accepted_is_accepted(status):
    assert not Verdict(status=status).accepted


@pytest.mark.parametrize("arguments", [{}, {"keep": True, "status": "accepted"}])
def test_a_verdict_needs_status_or_keep(arguments):
    with pytest.raises(ValueError, match="either `status` or `keep`"):
        Verdict(**arguments)
