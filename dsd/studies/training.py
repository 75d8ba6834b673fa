"""Trains the student of one cell past its marks, and goes on where it was stopped."""

import hashlib
import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning
import torch
from safetensors.torch import save
from tqdm import tqdm

from dsd.backbones.base import Batch
from dsd.data.atomic import replace_file
from dsd.data.datamodule import PairDataModule
from dsd.fitting import Hand, fit, keep
from dsd.student import Student

CHECKPOINT, RECORD = "last.ckpt", "training.json"
_LISTS = ("losses", "seconds", "validated")


class Recorder(Hand):
    """Writes down what a training does, keeps it, and takes snapshots at its marks.

    What is written down lies in the checkpoints, so that a training that goes on is written down as one.

    Args:
        folder: of the cell.
        snapshots: after how many steps to keep the trained weights and their average.
        validation: encoded pairs that are not trained on, in batches.
        validate_every: steps between validations; there is one at each snapshot too.
        seed: of the validation's times and noise.
        checkpoint_s: seconds between checkpoints.
        progress: name of a progress bar on stderr; None for none.

    Attributes:
        losses: of each step.
        frames: the part of each frame of the canvas in them, by the frame's name.
        seconds: that each step took, without reading, validating and saving.
        validated: step and loss on the target's frame, of the average weights.
        orders: digest of the ids of all pairs seen so far, batch by batch, at each snapshot.
    """

    def __init__(
        self,
        folder: Path,
        snapshots: Sequence[int],
        validation: Sequence[Batch],
        *,
        validate_every: int,
        seed: int,
        checkpoint_s: float,
        progress: str | None,
    ) -> None:
        self.folder, self.snapshots, self.validation = folder, sorted(set(snapshots)), validation
        self.validate_every, self.seed, self.checkpoint_s = validate_every, seed, checkpoint_s
        self.losses: list[float] = []
        self.frames: dict[str, list[float]] = {}
        self.seconds: list[float] = []
        self.validated: list[tuple[int, float]] = []
        self.orders: dict[str, str] = {}
        self._order = ""
        self._begun = self._saved = time.monotonic()
        self._bar = tqdm(total=self.snapshots[-1], desc=progress, unit="step", disable=progress is None)

    def on_train_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Show how far it is."""
        self._bar.update(len(self.losses) - self._bar.n)
        self._saved = time.monotonic()

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: Any, batch: Any, *args: Any
    ) -> None:
        """Start the step's clock, and note which pairs it sees."""
        self._order = hashlib.sha256("\n".join([self._order, *batch.ids]).encode()).hexdigest()
        self._begun = time.monotonic()

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: Any, outputs: Any, *args: Any
    ) -> None:
        """Write the step down; validate, take a snapshot and keep a checkpoint when they are due.

        Raises:
            RuntimeError: if the loss is not finite.
        """
        self.seconds.append(time.monotonic() - self._begun)
        loss = float(outputs["loss"])
        if not math.isfinite(loss):
            raise RuntimeError(
                f"The loss of step {len(self.losses) + 1} is {loss}: the training has come apart. Lower `lr` "
                "or use another `precision`, in another folder."
            )
        self.losses.append(loss)
        for name in pl_module.conditioning.frames:
            self.frames.setdefault(name, []).append(float(trainer.callback_metrics[f"train/loss_{name}"]))
        step = len(self.losses)
        if step % self.validate_every == 0 or step in self.snapshots:
            self.validated.append((step, self._validate(trainer, pl_module)))
        if step in self.snapshots:
            self.orders[str(step)] = self._order
            replace_file(snapshot(self.folder, step), save(_contiguous(pl_module)))
        lately = self.frames["target"][-20:]
        self._bar.set_postfix_str(f"loss {sum(lately) / len(lately):.3f}", False)
        self._bar.update()
        if time.monotonic() - self._saved >= self.checkpoint_s and step < self.snapshots[-1]:
            keep(trainer, self.folder / CHECKPOINT)
            self._saved = time.monotonic()

    def record(self) -> dict[str, Any]:
        """What was written down."""
        lists = {name: getattr(self, name) for name in _LISTS}
        return {**lists, "frames": self.frames, "orders": self.orders}

    def close(self) -> None:
        """Leave the progress bar as it is."""
        self._bar.close()

    def state_dict(self) -> dict[str, Any]:
        """What was written down so far."""
        state: dict[str, Any] = json.loads(json.dumps({**self.record(), "order": self._order}))
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take it up again."""
        for name in _LISTS:
            setattr(self, name, list(state_dict[name]))
        self.frames = {name: list(losses) for name, losses in state_dict["frames"].items()}
        self.orders, self._order = dict(state_dict["orders"]), state_dict["order"]

    @torch.no_grad()
    def _validate(self, trainer: lightning.Trainer, student: Student) -> float:
        place = student.conditioning.frames.index("target")
        total, count = 0.0, 0
        with trainer.precision_plugin.forward_context(), student.ema_weights():
            for number, batch in enumerate(self.validation):
                generator = torch.Generator(student.device).manual_seed(1_000_003 * self.seed + number)
                _, frames = student.losses(batch.to(student.device), generator, dropout=False)
                total, count = total + float(frames[place]) * len(batch), count + len(batch)
        return total / count


def snapshot(folder: Path, step: int) -> Path:
    """The file with the trained weights after a step, in `Student.state_dict`'s names."""
    return folder / f"step-{step:06d}.safetensors"


def train(
    student: Student,
    data: PairDataModule,
    recorder: Recorder,
    *,
    precision: Any,
) -> dict[str, Any]:
    """Train to the last snapshot, or go on from the cell's checkpoint; returns what was written down.

    Args:
        student: as built.
        data: what to train on.
        recorder: of this training.
        precision: of the `Trainer`.

    Raises:
        RuntimeError: if the loss is not finite.
        KeyboardInterrupt: if the user stopped it; the checkpoint stays.
    """
    fit(
        student,
        data,
        recorder,
        recorder.folder / CHECKPOINT,
        precision=precision,
        max_steps=recorder.snapshots[-1],
    )
    record = recorder.record()
    assert len(record["losses"]) == recorder.snapshots[-1]
    replace_file(recorder.folder / RECORD, (json.dumps(record) + "\n").encode())
    return record


def _contiguous(student: Student) -> dict[str, torch.Tensor]:
    return {name: value.detach().cpu().contiguous() for name, value in student.state_dict().items()}
