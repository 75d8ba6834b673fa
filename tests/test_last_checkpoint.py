"""However a training ends, what goes on from its last checkpoint is the training that never stopped."""

import errno
import os
import shutil
import signal
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping
from safetensors.torch import load_file

import dsd
from dsd.cli.fit import fit
from dsd.data.stored import RunSource
from tests.cheap_world import make_run

STEPS = 7
STOPS = {"SIGINT": KeyboardInterrupt, "SIGTERM": SystemExit}


class AtStep(Callback):
    """Calls a function in a step, counted from 1, before its loss is computed."""

    def __init__(self, step: int, function: Any) -> None:
        self.step, self.function, self.called = step, function, False

    def on_train_batch_start(self, trainer: Any, *args: Any) -> None:
        if trainer.global_step + 1 == self.step and not self.called:
            self.called = True
            self.function(trainer)


class AfterStep(AtStep):
    """Calls it after that step."""

    def on_train_batch_start(self, *args: Any) -> None:
        pass

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        if trainer.global_step == self.step:
            self.function(trainer)


class Validating(AtStep):
    """Calls it in the first batch of a validation after that step."""

    def on_train_batch_start(self, *args: Any) -> None:
        pass

    def on_validation_batch_start(self, trainer: Any, *args: Any) -> None:
        if trainer.global_step == self.step and not trainer.sanity_checking:
            self.function(trainer)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory, tiny_flux: Path) -> dict[str, Any]:
    """Three or four batches an epoch, the optimiser and its average with a past."""
    folder = tmp_path_factory.mktemp("world") / "run"
    dsd.encode(make_run(folder, 2, size=64), str(tiny_flux), policy="every", progress=False)
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0}
    return {
        "student": {
            "base": str(tiny_flux), "lora": {"rank": 2}, "lr": 0.01, "warmup_steps": 5, "ema_decay": 0.5
        },
        "data": {"source": str(folder), "policy": "every", "encoded": True, "batch_size": 6},
        "trainer": {"max_steps": STEPS, "accelerator": "cpu", "logger": False, **quiet},
        "checkpoint_every_n_steps": 100,
        "components": "trained",
    }  # fmt: skip


def train(
    recipe: dict[str, Any], out: Path, *, resume: bool = False, data: Any = None, **trainer: Any
) -> None:
    parts = {"data": {**recipe["data"], **(data or {})}, "trainer": {**recipe["trainer"], **trainer}}
    fit(str(out), **{**recipe, **parts}, resume=resume)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    (file,) = (folder / "transformer").glob("*.safetensors")
    return load_file(file)


def saved(folder: Path) -> dict[str, Any]:
    return torch.load(folder / "training" / "last.ckpt", weights_only=False)


def assert_goes_on(recipe: dict[str, Any], out: Path, whole: Path, step: int, **changes: Any) -> None:
    """The checkpoint is of that step, and a training that goes on from it becomes the whole one."""
    assert saved(out)["global_step"] == step
    train(recipe, out, resume=True, **changes)
    ours, theirs = saved(out), saved(whole)
    assert ours["global_step"] == theirs["global_step"]
    assert ours["student"] == theirs["student"]
    for name, x in theirs["state_dict"].items():
        assert torch.equal(ours["state_dict"][name], x), name
    assert all(torch.equal(weights(out)[name], x) for name, x in weights(whole).items())


@pytest.fixture(scope="module")
def whole(recipe: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The training that never stopped."""
    folder = tmp_path_factory.mktemp("whole")
    train(recipe, folder)
    assert saved(folder)["global_step"] == STEPS
    return folder


@pytest.mark.parametrize("step", range(1, STEPS))
def test_a_later_max_steps_goes_on_from_any_step(step: int, recipe: Any, whole: Path, tmp_path: Path) -> None:
    """Within an epoch, at its last batch and after it, none of them a multiple of the steps between
    checkpoints."""
    train(recipe, tmp_path, max_steps=step)
    assert_goes_on(recipe, tmp_path, whole, step)


def test_going_on_without_more_steps_changes_nothing(recipe: Any, whole: Path, tmp_path: Path) -> None:
    train(recipe, tmp_path)
    assert_goes_on(recipe, tmp_path, whole, STEPS)


@pytest.mark.parametrize("step", [1, 2])
def test_accumulated_batches_are_saved_at_their_step(step: int, recipe: Any, tmp_path: Path) -> None:
    changes = {"accumulate_grad_batches": 2}
    train(recipe, tmp_path / "whole", max_steps=4, **changes)
    stop = AtStep(step, lambda trainer: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(SystemExit):
        train(recipe, tmp_path / "s", max_steps=4, callbacks=[stop], **changes)
    assert_goes_on(recipe, tmp_path / "s", tmp_path / "whole", step, max_steps=4, **changes)


@pytest.mark.parametrize("name", STOPS)
@pytest.mark.parametrize("step", [2, 4])
def test_a_signal_ends_it_after_the_step(
    name: str, step: int, recipe: Any, whole: Path, tmp_path: Path, ctrl_c_works: None
) -> None:
    number = signal.Signals[name]
    before = signal.getsignal(number)
    with pytest.raises(STOPS[name]) as ended:
        train(recipe, tmp_path, callbacks=[AtStep(step, lambda trainer: os.kill(os.getpid(), number))])
    assert getattr(ended.value, "code", 143) == 143
    assert signal.getsignal(number) is before
    assert not (tmp_path / "transformer").exists()
    assert_goes_on(recipe, tmp_path, whole, step)


@pytest.mark.parametrize("name", STOPS)
def test_the_second_signal_ends_it_at_once(
    name: str, recipe: Any, whole: Path, tmp_path: Path, ctrl_c_works: None
) -> None:
    def twice(trainer: Any) -> None:
        os.kill(os.getpid(), signal.Signals[name])
        os.kill(os.getpid(), signal.Signals[name])

    recipe = {**recipe, "checkpoint_every_n_steps": 3}
    with pytest.raises(STOPS[name]):
        train(recipe, tmp_path, callbacks=[AtStep(5, twice)])
    assert_goes_on(recipe, tmp_path, whole, 3)


def test_what_ignores_ctrl_c_goes_on_to_its_end(recipe: Any, tmp_path: Path, ctrl_c_works: None) -> None:
    """As in the background of a script; so does one in another thread, which cannot listen to signals."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        stop = AtStep(1, lambda trainer: signal.raise_signal(signal.SIGINT))
        train(recipe, tmp_path / "ignored", max_steps=2, callbacks=[stop])
    finally:
        signal.signal(signal.SIGINT, before)
    assert stop.called
    thread = threading.Thread(target=train, args=(recipe, tmp_path / "thread"), kwargs={"max_steps": 2})
    thread.start()
    thread.join()
    for name in ("ignored", "thread"):
        assert saved(tmp_path / name)["global_step"] == 2
        assert (tmp_path / name / "transformer").exists()


def test_the_old_checkpoint_stays_until_the_new_one_is_whole(
    recipe: Any, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the folder for temporary files is on another disk, too; then the disk is full, and what a killed
    training left goes away."""
    kept, left = tmp_path / "kept", tmp_path / "training" / ".last.ckpt.1.tmp"

    def elsewhere(*_: Any) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def prepare(trainer: Any) -> None:
        kept.hardlink_to(tmp_path / "training" / "last.ckpt")

    monkeypatch.setattr(os, "rename", elsewhere)
    recipe = {**recipe, "checkpoint_every_n_steps": 2}
    fill = AfterStep(5, lambda trainer: monkeypatch.setattr(os, "fsync", full))
    with pytest.raises(OSError, match="The disk is full"):
        train(recipe, tmp_path, callbacks=[AfterStep(3, prepare), fill])
    assert torch.load(kept, weights_only=False)["global_step"] == 2
    assert [path.name for path in left.parent.glob("*.ckpt*")] == ["last.ckpt"]
    monkeypatch.undo()
    left.touch()
    assert_goes_on(recipe, tmp_path, whole, 4)
    assert not left.exists()


def test_a_limit_in_time_or_epochs_leaves_the_last_step(recipe: Any, whole: Path, tmp_path: Path) -> None:
    from lightning.pytorch.callbacks import Timer

    late = AtStep(2, lambda trainer: setattr(timer(trainer), "_offset", 3600))

    def timer(trainer: Any) -> Any:
        return next(callback for callback in trainer.callbacks if isinstance(callback, Timer))

    train(recipe, tmp_path / "time", max_time=timedelta(hours=1), callbacks=[late])
    assert_goes_on(recipe, tmp_path / "time", whole, 2)
    train(recipe, tmp_path / "epochs", max_steps=-1, max_epochs=1)
    assert_goes_on(recipe, tmp_path / "epochs", whole, saved(tmp_path / "epochs")["global_step"])


def test_an_error_between_steps_loses_nothing(
    recipe: Any, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as of a picture that does not fit into memory, or of a shard that cannot be read; within a step
    the last multiple stays."""

    def fail(trainer: Any) -> None:
        raise RuntimeError("out of memory")

    def break_data(trainer: Any) -> None:
        monkeypatch.setattr(RunSource, "batch", lambda *_: fail(trainer))

    recipe = {**recipe, "checkpoint_every_n_steps": 2}
    for folder, callback, step in (
        ("after", AfterStep(3, fail), 3), ("in", AtStep(4, fail), 2), ("data", AfterStep(3, break_data), 3)
    ):  # fmt: skip
        with pytest.raises(RuntimeError, match="out of memory"):
            train(recipe, tmp_path / folder, callbacks=[callback])
        monkeypatch.undo()
        assert_goes_on(recipe, tmp_path / folder, whole, step)


VALIDATED = {"data": {"val_fraction": 0.5, "val_batch_size": 4, "batch_size": 4}, "val_check_interval": 2}


class Found(Callback):
    """What each validation found."""

    def __init__(self) -> None:
        self.losses: dict[int, float] = {}

    def on_validation_end(self, trainer: Any, *args: Any) -> None:
        self.losses[trainer.global_step] = float(trainer.callback_metrics["val/loss"])


@pytest.mark.parametrize("step", [2, 5])
def test_a_signal_ends_a_validation_after_its_batch(step: int, recipe: Any, tmp_path: Path) -> None:
    """One in mid-epoch, one in the next epoch. It is not begun again; the others find the same."""
    whole, ours, seen = Found(), Found(), []
    train(recipe, tmp_path / "whole", callbacks=[whole], **VALIDATED)
    stop = Validating(step, lambda trainer: (seen.append(1), os.kill(os.getpid(), signal.SIGTERM)))
    with pytest.raises(SystemExit):
        train(recipe, tmp_path / "s", callbacks=[ours, stop], **VALIDATED)
    assert len(seen) == 1
    assert_goes_on(recipe, tmp_path / "s", tmp_path / "whole", step, callbacks=[ours], **VALIDATED)
    del whole.losses[step]
    assert ours.losses == whole.losses


def test_early_stopping_leaves_the_last_step(recipe: Any, tmp_path: Path) -> None:
    train(recipe, tmp_path / "whole", **VALIDATED)
    stop = EarlyStopping("val/loss", patience=100, stopping_threshold=1e9)
    train(recipe, tmp_path / "s", callbacks=[stop], **VALIDATED)
    assert_goes_on(recipe, tmp_path / "s", tmp_path / "whole", 2, **VALIDATED)


def test_early_stopping_after_an_epoch_leaves_its_last_step(recipe: Any, tmp_path: Path) -> None:
    limits: dict[str, Any] = {"patience": 100, "stopping_threshold": 1e9}
    stop = EarlyStopping("train/loss", check_on_train_epoch_end=True, **limits)
    train(recipe, tmp_path / "s", callbacks=[stop])
    ours = saved(tmp_path / "s")
    assert 0 < ours["global_step"] < STEPS
    train(recipe, tmp_path / "limit", max_steps=ours["global_step"])
    theirs = saved(tmp_path / "limit")["state_dict"]
    assert all(torch.equal(ours["state_dict"][name], x) for name, x in theirs.items())


def test_a_copy_goes_on_in_its_own_folder(recipe: Any, whole: Path, tmp_path: Path) -> None:
    train(recipe, tmp_path / "first", max_steps=2)
    shutil.copytree(tmp_path / "first", tmp_path / "copy")
    assert_goes_on(recipe, tmp_path / "copy", whole, 2)
    assert saved(tmp_path / "first")["global_step"] == 2
    assert [path.name for path in (tmp_path / "copy" / "training").glob("*.ckpt")] == ["last.ckpt"]
