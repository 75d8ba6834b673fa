"""The quickstart: training by the clock, going on after a stop, and all of it with a tiny random model."""

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image

import dsd
from dsd import curators, mini
from dsd.backbones import Batch, Reference, Text
from dsd.curators import Verdict
from dsd.quickstart import Recipe, clock, loop, quickstart, state

METHODS = {"student", "text_only", "copy", "untrained", "ceiling"}
SCORES = ("identity", "identity_encoder", "scene", "product")


@curators.register("coin")
class CoinCurator(curators.Curator):
    """Accepts two pairs of three, whatever they show."""

    def judge(self, pair):
        return Verdict(keep=(pair.reference_panel + pair.target_panel) % 3 > 0, score=0.5, reason="heads")


def shrunk(images):
    """An identity encoder that only a test could want."""
    return np.stack([np.asarray(x.resize((4, 4)), dtype=np.float32).ravel() + 1 for x in images])


@pytest.fixture
def recipe(tiny_flux):
    return Recipe(
        base=str(tiny_flux), teacher={"num_inference_steps": 2, "batch_size": 8}, curator="coin",
        grids_per_minute=1.0, student={"lora": {"rank": 2}, "ema_decay": 0.9}, batch_size=4,
        precision="32-true", references=4, sampling={"num_inference_steps": 2}, extractor=shrunk, workers=1,
        checkpoint_s=0.2, )  # fmt: skip


def check(folder, facts):
    """Every file and key that the issue asks for."""
    for name in (
        "report.html",
        "report.json",
        "manifest.json",
        "student/dsd.json",
        "student/transformer/config.json",
    ):
        assert (folder / name).is_file(), name
    told = json.loads((folder / "report.json").read_text())
    assert told == json.loads(json.dumps(facts))
    counts = {
        "seconds",
        "grids",
        "pairs",
        "kept",
        "consistent_before",
        "consistent_after",
        "curator",
        "methods",
        "gap_closed",
    }
    assert counts <= set(told)
    assert set(told["methods"]) == METHODS
    assert {"precision", "recall"} <= set(told["curator"])
    for scores in told["methods"].values():
        assert all(0 <= scores[name] <= 1 for name in SCORES)
        assert scores["references"] >= 4
    assert told["methods"]["copy"]["identity"] == 1
    assert told["methods"]["copy"]["scene"] == 0
    assert told["methods"]["ceiling"]["identity"] > 0.8
    return told


def test_the_whole_loop_with_a_tiny_model_and_again(tmp_path, recipe, monkeypatch):
    folder = tmp_path / "quickstart"
    facts = quickstart(folder, minutes=0.1, seed=1, recipe=recipe)
    told = check(folder, facts)
    assert (told["grids"], told["pairs"]) == (8, 96)
    assert told["kept"] == 64
    losses = json.loads((folder / "training.json").read_text())["losses"]
    assert told["training"]["steps"] == len(losses) > 0
    text = (folder / "report.html").read_text()
    assert f"{len(losses)} steps in" in text
    assert "96</strong> <span>pairs" in text

    monkeypatch.setattr(clock, "fit_for", lambda *_, **__: pytest.fail("it was trained already"))
    before = (folder / "student" / "dsd.json").stat().st_mtime_ns
    again = quickstart(folder, minutes=0.1, seed=1, recipe=recipe)
    assert again["methods"] == facts["methods"]
    assert again["training"] == facts["training"]
    assert (folder / "student" / "dsd.json").stat().st_mtime_ns == before
    with pytest.raises(ValueError, match=r"begun with other arguments: minutes was 0\.1, now 5\.0"):
        quickstart(folder, minutes=5.0, seed=1, recipe=recipe)


def test_killed_between_steps_it_goes_on(tmp_path, recipe, monkeypatch):
    """The power fails while the untrained student is drawn: what was done before is not done again."""
    with monkeypatch.context() as patch:
        patch.setattr(loop.Loop, "untrained_pipe", lambda self: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            quickstart(tmp_path, minutes=0.05, recipe=recipe)
    rows, sheet = dsd.Run(tmp_path).pairs.ids(), (tmp_path / "answers" / "text_only.png").read_bytes()
    monkeypatch.setattr(
        "dsd.evaluation.small_world.text_only_answers", lambda *_, **__: pytest.fail("drawn already")
    )
    monkeypatch.setattr(loop, "consistency", lambda *_, **__: pytest.fail("measured already"))
    check(tmp_path, quickstart(tmp_path, minutes=0.05, recipe=recipe))
    assert dsd.Run(tmp_path).pairs.ids() == rows
    assert (tmp_path / "answers" / "text_only.png").read_bytes() == sheet


@pytest.mark.parametrize("minutes", [0.0, -1.0, math.nan, math.inf])
def test_impossible_times_are_refused(tmp_path, minutes):
    with pytest.raises(ValueError, match="must be above 0"):
        quickstart(tmp_path, minutes=minutes)
    assert not list(tmp_path.iterdir())


class Loader:
    """Five batches an epoch, which can be taken up in the middle; it stands for the data module."""

    def __init__(self):
        self.position = 0

    def __len__(self):
        return 5

    def __iter__(self):
        while self.position < 5:
            self.position += 1
            yield batch(self.position)
        self.position = 0

    def state_dict(self):
        return {"position": self.position}

    def load_state_dict(self, state):
        self.position = state["position"]


def batch(seed):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(2, *shape, generator=generator)

    return Batch(
        ids=["a", "b"], reference=Reference(latents=draw(16, 4, 8)), target=draw(16, 4, 4),
        text=Text(tokens=draw(24, 24), pooled=draw(20)),
    )  # fmt: skip


@pytest.fixture
def seconds(monkeypatch):
    """A clock that moves on by a second when a batch begins; it ends the world at the second in `doom`."""
    now = {"time": 1000.0, "doom": math.inf, "rates": []}
    monkeypatch.setattr(clock.time, "monotonic", lambda: now["time"])
    start = clock.Clock.on_train_batch_start

    def tick(self, trainer, *args):
        start(self, trainer, *args)
        now["rates"].append(trainer.optimizers[0].param_groups[0]["lr"])
        now["time"] += 1
        if now["time"] >= now["doom"]:
            raise RuntimeError("doom")

    monkeypatch.setattr(clock.Clock, "on_train_batch_start", tick)
    return now


def train(tiny_flux, folder, total):
    student = dsd.Student(
        base=str(tiny_flux), lora={"rank": 2}, lr=1e-2, text_dropout=0.0, frame_size=(32, 32)
    )
    found = clock.fit_for(
        total,
        student,
        Loader(),
        folder,
        precision="32-true",
        warmup_share=0.25,
        last_lr_share=0.1,
        checkpoint_s=4.0,
        progress=False,
    )
    return found, student.state_dict()


def test_training_ends_with_its_time_and_the_rate_follows_it(tiny_flux, tmp_path, seconds):
    found, _ = train(tiny_flux, tmp_path, 20.0)
    assert found["steps"] == list(range(1, 21))
    assert found["seconds"] == 20
    expected = [
        0.01 * max(0.01, s / 5) if s < 5 else 0.01 * (0.1 + 0.45 * (1 + math.cos(math.pi * (s - 5) / 15)))
        for s in range(20)
    ]
    assert seconds["rates"] == pytest.approx(expected)


def test_stopped_training_goes_on_as_if_it_never_was(tiny_flux, tmp_path, seconds):
    whole, weights = train(tiny_flux, tmp_path / "whole", 20.0)
    seconds["doom"] = seconds["time"] + 11
    with pytest.raises(RuntimeError, match="doom"):
        train(tiny_flux, tmp_path / "cut", 20.0)
    assert [path.name for path in (tmp_path / "cut").iterdir()] == ["last.ckpt"]
    seconds["doom"] = math.inf
    seconds["time"] += 5000  # the pause does not count
    seconds["rates"].clear()
    found, resumed = train(tiny_flux, tmp_path / "cut", 20.0)
    assert len(seconds["rates"]) == 12  # of 20: the checkpoint is from second 8
    assert found == whole
    assert all(torch.equal(resumed[name], value) for name, value in weights.items())


def test_training_gets_what_the_rest_leaves(tmp_path, recipe, monkeypatch):
    made = loop.Loop(tmp_path, 10.0, 0, recipe)
    monkeypatch.setattr(made.run, "grids", range(100))
    made.state.seconds = {"grids": 100.0, "measuring": 40.0, "untrained": 20.0}  # 0.1 s a panel
    left = 600 - 160 - 1.15 * (20 + 0.1 * 4 * 50) - loop._WRITING_S
    assert made.time_left(num_pictures=50) == pytest.approx(left)
    made.state.seconds["grids"] = 1000.0
    assert made.time_left(num_pictures=50) == pytest.approx(0.15 * 600)


def test_counts_depend_on_the_minutes_alone():
    assert 400 <= Recipe().num_grids(12.0) <= 500
    assert Recipe().num_references(12.0) == 64
    assert Recipe().num_grids(1.5) < 80
    assert 4 <= Recipe().num_references(1.5) < 64


def test_sheets_keep_every_picture_in_its_place(tmp_path):
    rng = np.random.default_rng(0)
    rows = [
        [Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)) for _ in range(4)]
        for _ in range(120)
    ]
    state.save_sheet(rows, tmp_path / "a" / "sheet.png")
    again = state.load_sheet(tmp_path / "a" / "sheet.png", columns=4)
    assert [[x.tobytes() for x in row] for row in again] == [[x.tobytes() for x in row] for row in rows]
    with pytest.raises(ValueError, match="256 px wide, not 3 pictures"):
        state.load_sheet(tmp_path / "a" / "sheet.png", columns=3)


@pytest.mark.slow
def test_the_real_thing_in_short(tmp_path):
    try:
        mini.path()
    except FileNotFoundError:
        pytest.skip("the weights of the small world are not there")
    told = check(tmp_path / "out", quickstart(tmp_path / "out", minutes=1.5))
    assert told["seconds"] < 300
    assert told["consistent_after"] > told["consistent_before"]
