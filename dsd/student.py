"""The student: a text-to-image model that learns to follow a reference, as a LightningModule."""

import contextlib
import hashlib
import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from lightning import LightningModule
from torch import Tensor, nn

from dsd import backbones, export, flow
from dsd import conditioning as conditionings
from dsd.backbones.base import Backbone, Batch, RawBatch, Text, as_pixels
from dsd.backbones.lora import add_lora, lora_parameters, table
from dsd.conditioning.base import Conditioning
from dsd.ema import Ema

logger = logging.getLogger(__name__)

OptimizerFactory = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]


class Student(LightningModule):
    """Backbone + conditioning + flow-matching loss. It takes `Batch` (encoded) and `RawBatch` (pictures and
    words) alike.

    Checkpoints hold what is trained (with its running average and the optimiser) and nothing of the frozen
    base. All randomness of a batch follows from the seed, the rank and how many batches came before, so
    training that was stopped and resumed draws what it would have drawn.

    Args:
        base: the model to start from: "mini", a diffusers folder, a Hub id, a spec or a `Backbone`.
        conditioning: how the reference reaches the denoiser: a name, a spec or a `Conditioning`.
        lora: arguments of `dsd.backbones.lora.add_lora`, such as `{"rank": 128}`: low-rank adapters on the
            denoiser. The layers that the conditioning adds or widens are trained in full in any case.
        train: without `lora`: "full" trains the whole denoiser, "added" only what the conditioning adds.
        lr: learning rate after the warm-up.
        weight_decay: of AdamW, on all that is trained.
        betas: of AdamW.
        warmup_steps: steps over which the learning rate rises linearly.
        ema_decay: decay of a running average of the trained weights, which pictures and `save_pretrained`
            then use; None for none.
        time_sampling: a law of `flow.sample_times`, or `{"law": ..., "mean": ..., "std": ..., "shift": ...}`.
            `shift` is that of `flow.shift_times`, or "schedule" for the one that sampling from the base uses.
        guidance: what a guidance-distilled denoiser is told in training; 1 keeps its distillation (FLUX.1-dev
            is then sampled at 3.5).
        text_dropout: share of the batch whose caption is replaced by an empty one; needed for text guidance.
        reference_dropout: share of the batch whose reference is hidden; needed for image guidance.
        frame_weights: weight of the loss on the reference's frame, if the canvas has one, and the target's.
        optimizer: "adamw", or a function from parameters to an optimiser.
        gradient_checkpointing: trade time for memory.
        dtype: of the frozen weights; what is trained is float32 always. Use `Trainer(precision="bf16-mixed")`
            with "bfloat16".
        frame_size: (height, width) of a frame in pixels, saved for the pipeline; None to take it from the
            data.
        seed: of the adapters' initialisation and of all randomness in training.

    Raises:
        ValueError: for a choice that does not exist or a number out of its range.
        LookupError, FileNotFoundError: if there is no such base or conditioning.
    """

    def __init__(
        self,
        base: "str | Path | Mapping[str, Any] | Backbone" = "mini",
        conditioning: "str | Mapping[str, Any] | Conditioning" = "parallel",
        lora: Mapping[str, Any] | None = None,
        train: Literal["full", "added"] = "full",
        lr: float = 1e-4,
        weight_decay: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.999),
        warmup_steps: int = 0,
        ema_decay: float | None = None,
        time_sampling: str | Mapping[str, Any] = "logit_normal",
        guidance: float = 1.0,
        text_dropout: float = 0.1,
        reference_dropout: float = 0.1,
        frame_weights: tuple[float, float] = (1.0, 1.0),
        optimizer: Literal["adamw"] | OptimizerFactory = "adamw",
        gradient_checkpointing: bool = False,
        dtype: str = "float32",
        frame_size: tuple[int, int] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        given = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        self.backbone = backbones.load(base, dtype=dtype, parts=("denoiser",))
        self.backbone.load("denoiser")
        self.conditioning: Conditioning = conditionings.create(conditioning)
        given["base"] = str(base) if isinstance(base, str | Path) else backbones.spec(self.backbone)
        given["conditioning"] = conditionings.spec(self.conditioning)
        self.save_hyperparameters(given)

        self.lr, self.weight_decay, self.betas, self.warmup_steps = lr, weight_decay, betas, warmup_steps
        self.optimizer = optimizer
        self.guidance, self.seed = guidance, seed
        self.text_dropout = _share("text_dropout", text_dropout)
        self.reference_dropout = _share("reference_dropout", reference_dropout)
        self.frame_size = None if frame_size is None else (int(frame_size[0]), int(frame_size[1]))
        self.time_sampling = {"law": time_sampling} if isinstance(time_sampling, str) else dict(time_sampling)
        self._sample_times(1, 256, torch.Generator())  # an unknown law or argument shows now
        weights = dict(zip(("reference", "target"), frame_weights, strict=True))
        self._frame_weights = [float(weights.get(name, 1.0)) for name in self.conditioning.frames]
        if min(self._frame_weights) < 0 or sum(self._frame_weights) == 0:
            raise ValueError(
                f"frame_weights {frame_weights} leave no loss on the frames {self.conditioning.frames}. "
                "Give weights of at least 0 that are not all 0."
            )

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._trained = self._install(lora, train)
        if gradient_checkpointing:
            self.denoiser.enable_gradient_checkpointing()
            self.conditioning.enable_gradient_checkpointing()
        self.train()  # a diffusers model comes in evaluation mode, where adapters' dropout would be off
        self.ema = None if ema_decay is None else Ema(list(self._trained.values()), ema_decay)
        self._null_text: Text | None = None
        self._batches_seen = 0

    def _install(self, lora: Mapping[str, Any] | None, train: str) -> dict[str, nn.Parameter]:
        """Add conditioning and adapters; returns what is trained, in float32, by its name in this module."""
        if train not in ("full", "added"):
            raise ValueError(f"Unknown train={train!r}. Allowed: 'full', 'added'; or give `lora`.")
        self.conditioning.install(self.denoiser)
        if lora is not None:
            add_lora(self.denoiser, dict(self.backbone.lora_targets), **lora)
        self.requires_grad_(False)
        chosen = list(self.conditioning.trained(self.denoiser).values())
        if lora is not None:
            chosen += lora_parameters(self.denoiser).values()
        elif train == "full":
            chosen += self.denoiser.parameters()
        if not chosen:
            raise ValueError("The conditioning adds no weights to train. Give `lora`, or train='full'.")
        for parameter in chosen:
            parameter.data = parameter.data.float()
            parameter.requires_grad_(True)
        return {name: parameter for name, parameter in self.named_parameters() if parameter.requires_grad}

    def refresh_trained(self) -> None:
        """Take up the trained parameters anew, after others have been put in their place."""
        self._trained = {name: p for name, p in self.named_parameters() if p.requires_grad}

    @property
    def denoiser(self) -> Any:
        """The backbone's denoiser, with what conditioning and adapters added to it."""
        return self.backbone.denoiser

    @torch.no_grad()
    def encode(self, raw: RawBatch) -> Batch:
        """Pictures and words as the stage `encode` would have cached them."""
        target = as_pixels(raw.target)
        reference = self.conditioning.prepare(raw.references, *target.shape[-2:])
        with torch.autocast(self.device.type, enabled=False):
            return Batch(
                ids=raw.ids,
                reference=self.conditioning.encode(self.backbone, reference),
                target=self.conditioning.encode_target(self.backbone, reference, target),
                text=self.backbone.encode_text(raw.captions),
            )

    def losses(
        self, batch: Batch, generator: torch.Generator, dropout: bool = True
    ) -> tuple[Float[Tensor, ""], Float[Tensor, " frames"]]:
        """The flow-matching loss of a batch, and the part of each frame of the canvas.

        Args:
            batch: encoded pairs.
            generator: where times, noise and dropout come from; on the batch's device.
            dropout: whether captions and references are dropped as in training.
        """
        batch = batch.to(dtype=torch.float32)
        reference, text = batch.reference, batch.text
        x_0 = self.conditioning.canvas(reference, batch.target)
        side = self.backbone.pixels_per_token // self.backbone.pixels_per_latent
        num_tokens = x_0[0, 0].numel() // side**2
        t = self._sample_times(len(x_0), num_tokens, generator)
        if dropout:
            chance = torch.rand(2, len(x_0), generator=generator, device=x_0.device)
            if self.reference_dropout > 0:
                reference = reference.masked(chance[0] >= self.reference_dropout)
            if self.text_dropout > 0:
                text = text.where(chance[1] >= self.text_dropout, self._empty_text(x_0.device))
        noise = self.conditioning.noise(x_0, generator)
        x_t = flow.interpolate(x_0, noise, t)
        predicted = self.conditioning.velocity(self.backbone, x_t, t, reference, text, self.guidance)
        split = self.conditioning.split
        truth = flow.velocity(x_0, noise)
        return flow.loss([*split(predicted).values()], [*split(truth).values()], self._frame_weights)

    def training_step(self, batch: Batch | RawBatch, batch_idx: int) -> Tensor:
        """One batch's loss; logs it, each frame's share and the learning rate."""
        generator = self._generator("train", self.global_rank, self._batches_seen)
        self._batches_seen += 1
        batch = self._encoded(batch)
        total, frames = self.losses(batch, generator)
        values = {"train/loss": total.detach(), "lr": self.trainer.optimizers[0].param_groups[0]["lr"]}
        values |= {f"train/loss_{name}": x for name, x in zip(self.conditioning.frames, frames, strict=True)}
        self.log_dict(values, batch_size=len(batch))
        return total

    def validation_step(self, batch: Batch | RawBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Log the loss without dropout, at the same times and noise in each validation."""
        batch = self._encoded(batch)
        generator = self._generator("validate", self.global_rank, dataloader_idx, batch_idx)
        with self.ema_weights():
            total, _ = self.losses(batch, generator, dropout=False)
        self.log("val/loss", total, batch_size=len(batch), sync_dist=True)

    def configure_optimizers(self) -> Any:
        """The optimiser over what is trained, with a linear warm-up if one was asked for."""
        parameters = list(self._trained.values())
        if callable(self.optimizer):
            optimizer = self.optimizer(parameters)
        elif self.optimizer == "adamw":
            # On a CPU, fused is one pass over the weights instead of a loop over tensors. Lightning does not
            # clip gradients for it in mixed precision.
            clips = self._trainer is not None and bool(self._trainer.gradient_clip_val)
            fused = {"fused": True} if self.device.type == "cpu" and not clips else {}
            optimizer = torch.optim.AdamW(
                parameters, lr=self.lr, betas=self.betas, weight_decay=self.weight_decay, **fused
            )
        else:
            raise ValueError(f"Unknown optimizer {self.optimizer!r}. Allowed: 'adamw' or a function.")
        if self.warmup_steps == 0:
            return optimizer
        rise = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: min(1.0, (i + 1) / self.warmup_steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": rise, "interval": "step"}}

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Step, then let the running average follow."""
        super().optimizer_step(*args, **kwargs)
        if self.ema is not None:
            self.ema.update(list(self._trained.values()))

    def setup(self, stage: str) -> None:
        """Encode the empty caption while there is memory for the text encoders."""
        if stage == "fit" and self.text_dropout > 0:
            self._empty_text(self.device)

    def on_fit_start(self) -> None:
        """Log what is trained; refuse half-precision weights without mixed precision."""
        logger.info("%s", table(self._trained, self.denoiser))
        dtypes = {parameter.dtype for parameter in (*self.denoiser.parameters(), *self._trained.values())}
        if len(dtypes) > 1 and self.trainer.precision in ("32-true", "64-true"):
            raise ValueError(
                f"The base is {self.hparams['dtype']} and what is trained is float32. "
                "Pass lightning.Trainer(precision='bf16-mixed'), or dtype='float32' to the student."
            )

    def ema_weights(self) -> contextlib.AbstractContextManager[None]:
        """A context with the running average in place of the trained weights, if there is one."""
        if self.ema is None:
            return contextlib.nullcontext()
        return self.ema.in_place_of(list(self._trained.values()))

    def save_pretrained(
        self, folder: str | Path, ema: bool = True, components: Literal["all", "trained"] = "all"
    ) -> None:
        """Write a folder that `DSDPipeline` and the conditioning's stock diffusers pipeline load.

        Args:
            folder: made if missing.
            ema: write the running average, if there is one, instead of the last weights.
            components: "all" writes everything, so that the folder stands alone; "trained" leaves out the
                frozen parts, which `DSDPipeline` then takes from the base.

        Raises:
            ValueError: if `components` is something else.
            NotADirectoryError: if there is a file of that name.
        """
        with self.ema_weights() if ema else contextlib.nullcontext():
            export.save(
                folder,
                backbone=self.backbone,
                conditioning=self.conditioning,
                base=self.hparams["base"],
                frame_size=self.frame_size,
                components=components,
            )

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Only what is trained, and its running average."""
        state: dict[str, Any] = super().state_dict(*args, **kwargs)
        return {
            name: value for name, value in state.items() if name in self._trained or name.startswith("ema.")
        }

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Load what `state_dict` gives.

        Raises:
            ValueError: if `strict`, and it is of a student that trains something else.
        """
        own = self.state_dict().keys()
        if strict and (differ := sorted(own ^ state_dict.keys())):
            raise ValueError(
                f"The checkpoint does not fit this student: {len(differ)} tensors are in one only, such as "
                f"{differ[0]!r}. Build it with the same conditioning, `lora`, `train` and `ema_decay`."
            )
        return super().load_state_dict(state_dict, strict=False, assign=assign)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add where the random numbers are, and the frame's size."""
        checkpoint["student"] = {"batches_seen": self._batches_seen, "frame_size": self.frame_size}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take both up again."""
        self._batches_seen = checkpoint["student"]["batches_seen"]
        self.frame_size = checkpoint["student"]["frame_size"]

    def _encoded(self, batch: Batch | RawBatch) -> Batch:
        if isinstance(batch, RawBatch):
            batch = self.encode(batch)
        if not isinstance(batch, Batch):
            raise TypeError(f"A student takes dsd.backbones.Batch or RawBatch; got {type(batch).__name__}.")
        if self.frame_size is None:
            height, width = (side * self.backbone.pixels_per_latent for side in batch.target.shape[-2:])
            self.frame_size = (height, width)
        return batch

    def _empty_text(self, device: torch.device) -> Text:
        if self._null_text is None:
            had_text = "text" in self.backbone.loaded
            self._null_text = self.backbone.encode_text([""])
            if not had_text:
                self.backbone.release("text")
        self._null_text = self._null_text.to(device)
        return self._null_text

    def _sample_times(self, count: int, num_tokens: int, generator: torch.Generator) -> Float[Tensor, " b"]:
        arguments = dict(self.time_sampling)
        shift = arguments.pop("shift", 1.0)
        times = flow.sample_times(count, **arguments, generator=generator, device=generator.device)
        shift = self.backbone.time_shift(num_tokens) if shift == "schedule" else float(shift)
        return flow.shift_times(times, shift)

    def _generator(self, *purpose: object) -> torch.Generator:
        """Randomness that follows from the seed and the purpose alone."""
        digest = hashlib.blake2b(repr((self.seed, *purpose)).encode(), digest_size=8).digest()
        return torch.Generator(self.device).manual_seed(int.from_bytes(digest) >> 1)


def _share(name: str, value: float) -> float:
    if not 0 <= value <= 1:
        raise ValueError(f"{name} is a share of the batch, from 0 to 1; got {value}.")
    return value
