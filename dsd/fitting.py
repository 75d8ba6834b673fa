"""Trainings that are stopped and go on: one callback decides when they end and when they are kept."""

import os
from abc import ABC, abstractmethod
from contextlib import closing
from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback

from dsd.interrupts import interruptible
from dsd.quiet import quiet_training


class Hand(Callback, ABC):
    """A callback with something to close, such as a progress bar."""

    @abstractmethod
    def close(self) -> None:
        """Called when the training has ended, however it did."""


def fit(
    model: lightning.LightningModule,
    data: Any,
    hand: Hand,
    checkpoint: Path | None,
    *,
    precision: Any,
    max_steps: int = -1,
) -> None:
    """Train, or go on from the checkpoint, without Lightning's own output.

    Args:
        model: as built.
        data: what `Trainer.fit` takes.
        hand: the callback; it stops the training, and keeps it by `keep`.
        checkpoint: file to go on from, if it is there.
        precision: of the `Trainer`.
        max_steps: steps in all; -1 for as many as the callback wants.

    Raises:
        KeyboardInterrupt: if the user stopped it, whatever Lightning makes of that.
    """
    with quiet_training(), closing(hand):
        trainer = lightning.Trainer(
            max_steps=max_steps,
            max_epochs=-1,
            precision=precision,
            gradient_clip_val=1.0,
            callbacks=[hand],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            limit_val_batches=0,
            num_sanity_val_steps=0,
            default_root_dir=None if checkpoint is None else checkpoint.parent,
        )
        resumed = str(checkpoint) if checkpoint is not None and checkpoint.is_file() else None
        with interruptible(trainer):
            trainer.fit(model, data, ckpt_path=resumed, weights_only=False)


def keep(trainer: lightning.Trainer, checkpoint: Path) -> None:
    """Write the checkpoint whole: to another name in its folder, then renamed."""
    part = checkpoint.with_name(f".{checkpoint.name}.tmp")
    trainer.save_checkpoint(part)
    os.replace(part, checkpoint)
