"""Training by the clock: a share of the time takes the place of a number of steps."""

import math
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import lightning
from tqdm import tqdm

from dsd.backbones.base import Batch
from dsd.data.atomic import make_folder
from dsd.data.datamodule import PairDataModule
from dsd.fitting import Hand, fit, keep
from dsd.student import Student

_SMOOTHING = 0.05  # of the loss that the progress bar shows


class Clock(Hand):
    """Ends the training when its time is up, and sets the learning rate by the share of time that is gone.

    The time and the losses lie in the checkpoints: a training that was stopped goes on with what was left.

    Args:
        seconds: how long to train, over all calls.
        lr: highest learning rate.
        warmup_share: share of the time over which it rises linearly; then it falls as half a cosine.
        last_lr_share: share of `lr` that is left at the end.
        checkpoint: file to keep the training in; None for none.
        checkpoint_s: seconds between checkpoints.
        progress: show a progress bar on stderr.

    Attributes:
        losses: of every step so far.
    """

    def __init__(
        self,
        seconds: float,
        lr: float,
        *,
        warmup_share: float = 0.0,
        last_lr_share: float = 0.0,
        checkpoint: Path | None = None,
        checkpoint_s: float = 30.0,
        progress: bool = True,
    ) -> None:
        self.seconds, self.lr, self.warmup_share, self.last_lr_share = (
            seconds,
            lr,
            warmup_share,
            last_lr_share,
        )
        self.checkpoint, self.checkpoint_s = checkpoint, checkpoint_s
        self.losses: list[float] = []
        self._before = 0.0
        self._begun: float | None = None
        self._saved = 0.0
        self._bar = tqdm(
            total=round(seconds), desc="train", unit="s", disable=not progress,
            bar_format="{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} s{postfix}",
        )  # fmt: skip

    @property
    def elapsed(self) -> float:
        """Seconds of training so far, over all calls."""
        return self._before + (time.monotonic() - self._begun if self._begun is not None else 0.0)

    def rate(self, share: float) -> float:
        """The learning rate when that share of the time is gone."""
        if share < self.warmup_share:
            return self.lr * max(share / self.warmup_share, 0.01)
        rest = min(1.0, (share - self.warmup_share) / max(1 - self.warmup_share, 1e-9))
        return self.lr * (self.last_lr_share + (1 - self.last_lr_share) * (1 + math.cos(math.pi * rest)) / 2)

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Start the clock."""
        self._begun = self._saved = time.monotonic()

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, *args: Any
    ) -> None:
        """Set the learning rate."""
        rate = self.rate(self.elapsed / self.seconds)
        for group in trainer.optimizers[0].param_groups:
            group["lr"] = rate

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, *args: Any
    ) -> None:
        """Record the loss, keep a checkpoint when it is due, and stop when the time is up.

        Raises:
            RuntimeError: if the loss is not finite.
        """
        loss = float(outputs["loss"])
        if not math.isfinite(loss):
            raise RuntimeError(
                f"The loss of step {len(self.losses) + 1} is {loss}: the training has come apart. Lower the "
                "learning rate (`lr`) or use another `precision`, in another folder."
            )
        self.losses.append(loss)
        elapsed = self.elapsed
        self._bar.set_postfix_str(f"step {len(self.losses)}, loss {self._smoothed():.3f}", refresh=False)
        self._bar.update(min(round(elapsed), self._bar.total) - self._bar.n)
        if elapsed >= self.seconds:
            trainer.should_stop = True
        elif self.checkpoint is not None and time.monotonic() - self._saved >= self.checkpoint_s:
            self.save(trainer)

    def _smoothed(self) -> float:
        shown, *rest = self.losses[-100:]
        for loss in rest:
            shown += _SMOOTHING * (loss - shown)
        return shown

    def close(self) -> None:
        """Leave the progress bar as it is."""
        self._bar.close()

    def save(self, trainer: lightning.Trainer) -> None:
        """Keep the training."""
        assert self.checkpoint is not None
        keep(trainer, self.checkpoint)
        self._saved = time.monotonic()

    def state_dict(self) -> dict[str, Any]:
        """The time that is gone, and the losses."""
        return {"elapsed": self.elapsed, "losses": list(self.losses)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take both up again."""
        self._before, self.losses = state_dict["elapsed"], list(state_dict["losses"])


def fit_for(
    seconds: float,
    student: Student,
    data: PairDataModule | Iterable[Batch],
    folder: Path,
    *,
    precision: Any,
    **clock: Any,
) -> dict[str, Any]:
    """Train a student for some time, or go on with the training in `folder`.

    Args:
        seconds: how long, over all calls.
        student: as built.
        data: what to train on; if it has a state, training goes on in mid-epoch.
        folder: for the checkpoint.
        precision: of the `Trainer`.
        clock: further arguments of `Clock`.

    Returns:
        `seconds`, and for each step its number (`steps`) and its loss (`losses`).

    Raises:
        RuntimeError: if the loss is not finite.
        KeyboardInterrupt: if the user stopped it, whatever Lightning makes of that.
    """
    make_folder(folder)
    checkpoint = folder / "last.ckpt"
    hand = Clock(seconds, student.lr, checkpoint=checkpoint, **clock)
    fit(student, data, hand, checkpoint, precision=precision)
    return history(hand)


def history(clock: Clock) -> dict[str, Any]:
    """What a training tells of itself."""
    return {
        "seconds": clock.elapsed,
        "steps": list(range(1, len(clock.losses) + 1)),
        "losses": [round(loss, 6) for loss in clock.losses],
    }
