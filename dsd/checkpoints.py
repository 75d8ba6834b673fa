"""The checkpoint that a training leaves behind, however it ends."""

import io
import logging
import signal
import threading
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from dsd.data.atomic import make_folder, replace_file, sweep_temporary
from dsd.data.loader import PairLoader
from dsd.interrupts import INTERRUPTED, TERMINATED

logger = logging.getLogger(__name__)

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class WholeFiles(TorchCheckpointIO):
    """Checkpoints that appear whole or not at all. Lightning moves them from the folder for temporary
    files; from another disk that is a copy over the old checkpoint, and half of one if it is killed.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None
    ) -> None:
        """Write beside the old one, then rename; behind URLs, as Lightning does.

        Raises:
            OSError: explained, if it cannot be written; the old one is as it was.
        """
        if "://" in str(path) or storage_options is not None:
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        content = io.BytesIO()
        torch.save(checkpoint, content)
        make_folder(Path(path).parent)
        replace_file(Path(path), content.getbuffer())


class LastCheckpoint(ModelCheckpoint):
    """One checkpoint every so many optimiser steps, and one of the last step: of `max_steps`, `max_epochs`
    or `max_time`, where another callback stops the training, and on Ctrl-C and SIGTERM.

    Ctrl-C and SIGTERM let the optimiser step that runs come to its end (of a validation, the batch), since
    within it weights, optimiser and data are not of one moment; the second one ends it at once. All
    processes stop after the same step, whichever of them was told to.

    Args:
        path: of the checkpoint, with Lightning's ending `.ckpt`.
        every_n_steps: optimiser steps between checkpoints.

    Raises:
        SystemExit: in the training, with the status 130 after Ctrl-C and 143 after SIGTERM; with 0 in all
            processes but the first.
        KeyboardInterrupt: in the training, after a second Ctrl-C.
    """

    def __init__(self, path: Path, every_n_steps: int) -> None:
        assert path.suffix == self.FILE_EXTENSION
        super().__init__(
            path.parent, path.stem, every_n_train_steps=every_n_steps, enable_version_counter=False
        )
        self._signal: int | None = None
        self._step = 0  # of which all is done
        self._place: Any = None  # in the data, after that step

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Listen to both signals, in the place of Lightning, which has just begun to; write whole files,
        unless the user's own plug-in writes.
        """
        super().on_train_start(trainer, pl_module)
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = WholeFiles()
        if trainer.is_global_zero and self.dirpath is not None:
            sweep_temporary(Path(self.dirpath))  # what a killed training left
        self._signal, self._step, self._place = None, trainer.global_step, None
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                if signal.getsignal(number) != signal.SIG_IGN:  # as under nohup, or in the background
                    signal.signal(number, self._told)

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, *args: Any, **kwargs: Any
    ) -> None:
        """Save where it is due, or the last step was made."""
        if trainer.global_step == self._step:
            return  # gradients are being accumulated
        self._step, self._place = trainer.global_step, _place(trainer)
        told = self._anyone_told(trainer)
        if told or self._step % self._every_n_train_steps == 0 or _is_last(trainer):
            self._save(trainer)
        if told:
            self._end(trainer)

    def on_validation_batch_end(self, trainer: lightning.Trainer, *args: Any, **kwargs: Any) -> None:
        """End here if told to."""
        if not trainer.sanity_checking and self._step and self._anyone_told(trainer):
            self._save(trainer)
            self._end(trainer)

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Save if this validation's figure ends the training."""
        if not trainer.sanity_checking and trainer.should_stop:
            self._save(trainer)

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Save if this epoch's figure ends the training; in mid-epoch Lightning's progress is wrong here."""
        if trainer.should_stop and trainer.is_last_batch:
            self._save(trainer)

    def on_exception(self, trainer: lightning.Trainer, *args: Any, **kwargs: Any) -> None:
        """Save if it came between two steps: while data was read, in a validation, or in another callback.
        Other processes may not know of it, and saving needs them all.
        """
        in_callback = trainer.global_step > self._step and self._signal is None
        between = self._place is not None and self._place == _place(trainer)
        if trainer.world_size == 1 and (in_callback or between):
            self._save(trainer)

    def _save(self, trainer: lightning.Trainer) -> None:
        if not self._should_skip_saving_checkpoint(trainer):  # as of this step it is there
            self._save_topk_checkpoint(trainer, self._monitor_candidates(trainer))

    def _told(self, number: int, frame: Any) -> None:
        if self._signal is not None:
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            raise SystemExit(TERMINATED)
        self._signal = number
        logger.warning("Stopping after this step. Once more to stop at once.")

    def _anyone_told(self, trainer: lightning.Trainer) -> bool:
        return trainer.strategy.reduce_boolean_decision(self._signal is not None, all=False)

    def _end(self, trainer: lightning.Trainer) -> None:
        """Of several processes one tells the user. The others end as if all were done: Lightning's launcher
        kills the first one when it finds another that failed, or that was killed after a KeyboardInterrupt.
        """
        if not trainer.is_global_zero:
            raise SystemExit(0)
        raise SystemExit(INTERRUPTED if self._signal == signal.SIGINT else TERMINATED)


def _place(trainer: lightning.Trainer) -> Any:
    """Where the training is in its data; None if the loader cannot tell."""
    loader = trainer.train_dataloader
    return loader.state_dict() if isinstance(loader, PairLoader) else None


def _is_last(trainer: lightning.Trainer) -> bool:
    """Whether the training ends with the step that was just made."""
    if trainer.max_steps != -1 and trainer.global_step >= trainer.max_steps:
        return True
    epochs = trainer.current_epoch + trainer.is_last_batch
    if trainer.max_epochs not in (None, -1) and epochs >= trainer.max_epochs:
        return True
    enough = trainer.global_step >= (trainer.min_steps or 0) and epochs >= (trainer.min_epochs or 0)
    return trainer.should_stop and enough
