"""Pictures drawn while a student trains, to be looked at."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from PIL import Image

from dsd.backbones.base import Text
from dsd.pipeline import DSDPipeline
from dsd.pixels import ImageLike, from_pixels, to_pixels
from dsd.sharding import is_sharded

logger = logging.getLogger(__name__)


class ValidationPictures(Callback):
    """Draws the same references and prompts from the same noise every so often.

    Each reference becomes one row: the reference, then one picture for each prompt. A row goes to the logger,
    if it takes pictures, and to `pictures/step-0000500-0.png` in the run's log folder. The training's
    randomness is left alone, and the running average of the weights is used if the student keeps one.

    Drawing takes no more memory than training: prompts are encoded once, before training begins, and the text
    encoders leave; pictures are drawn one by one; the autoencoder comes for the drawing alone.

    Args:
        references: whose subjects to draw; see `dsd.pixels.to_pixels`.
        prompts: what to draw of each.
        every_n_steps: steps of the optimiser between pictures.
        seed: of the noise.
        frame_size: (height, width) in pixels; None for the size of the training data.
        arguments: further arguments of `DSDPipeline.__call__`.
    """

    def __init__(
        self,
        references: Sequence[ImageLike],
        prompts: Sequence[str],
        every_n_steps: int = 500,
        seed: int = 0,
        frame_size: tuple[int, int] | None = None,
        **arguments: Any,
    ) -> None:
        if every_n_steps < 1:
            raise ValueError(f"every_n_steps must be at least 1; got {every_n_steps}.")
        self.references, self.prompts = list(references), list(prompts)
        self.every_n_steps, self.seed, self.frame_size = every_n_steps, seed, frame_size
        self.arguments = arguments
        self._last_step = 0
        self._texts: dict[str, Text] | None = None

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        """Encode the prompts while the model is not on its device yet, and there is no optimiser."""
        if stage == "fit":
            self._texts = self._encode(pl_module)

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, *args: Any, **kwargs: Any
    ) -> None:
        """Draw, when the time has come."""
        step = trainer.global_step
        spread = is_sharded(pl_module)  # then no process can draw alone
        if step == self._last_step or step % self.every_n_steps or not (trainer.is_global_zero or spread):
            return
        self._last_step = step
        rows = self.draw(trainer, pl_module)
        for number, row in enumerate(rows if trainer.is_global_zero else []):
            _show(trainer, f"pictures/{number}", row, step)
            folder = Path(trainer.log_dir or trainer.default_root_dir) / "pictures"
            folder.mkdir(parents=True, exist_ok=True)
            row.save(folder / f"step-{step:07d}-{number}.png")

    def draw(self, trainer: lightning.Trainer, student: Any) -> list[Image.Image]:
        """One row of pictures for each reference."""
        backbone, had = student.backbone, student.backbone.loaded
        if self._texts is None:
            self._texts = self._encode(student)
        pipe = _KnownTexts(backbone, student.conditioning, self.frame_size or student.frame_size)
        pipe.texts = {text: encoded.to(student.device) for text, encoded in self._texts.items()}
        pipe.set_progress_bar_config(disable=True)
        rows = []
        was_training = student.training
        student.eval()
        with trainer.precision_plugin.forward_context(), student.ema_weights():
            for reference in self.references:
                drawn = [
                    pipe(
                        image=reference, prompt=prompt, seed=self.seed + i, output_type="pt", **self.arguments
                    ).images.cpu()
                    for i, prompt in enumerate(self.prompts)
                ]
                height, width = drawn[0].shape[-2:]
                shown = torch.cat([to_pixels(reference, height, width), *(x * 2 - 1 for x in drawn)])
                rows += from_pixels(torch.cat([*shown], dim=-1)[None])
        student.train(was_training)
        backbone.release(*(backbone.loaded - had))
        return rows

    def _encode(self, student: Any) -> dict[str, Text]:
        """The prompts and the empty one; the text encoders leave if they were not there before."""
        had = student.backbone.loaded
        negative = self.arguments.get("negative_prompt") or []
        texts = [
            *dict.fromkeys([*self.prompts, "", *([negative] if isinstance(negative, str) else negative)])
        ]
        encoded = student.backbone.encode_text(texts).to("cpu")
        student.backbone.release(*(student.backbone.loaded - had))
        return {text: encoded[i] for i, text in enumerate(texts)}


class _KnownTexts(DSDPipeline):
    """A pipeline that asks no text encoder."""

    texts: Mapping[str, Text]

    def _encode_text(
        self, prompts: list[str], captions: list[int], negatives: list[str] | None
    ) -> tuple[Text, Text | None]:
        text = Text.joined([self.texts[prompts[i]] for i in captions])
        return text, None if negatives is None else Text.joined([self.texts[negatives[i]] for i in captions])


def _show(trainer: lightning.Trainer, tag: str, picture: Image.Image, step: int) -> None:
    """Hand a picture to the loggers that take pictures: TensorBoard's `add_image`, W&B's and others'
    `log_image`.
    """
    for log in trainer.loggers:
        add_image = getattr(log.experiment, "add_image", None)
        log_image = getattr(log, "log_image", None)
        if add_image is not None:
            add_image(tag, np.asarray(picture), step, dataformats="HWC")
        elif log_image is not None:
            log_image(key=tag, images=[picture], step=step)
