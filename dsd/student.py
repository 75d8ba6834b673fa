"""The student: a text-to-image model that learns to follow a reference, as a LightningModule."""

import contextlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from lightning import LightningModule
from torch import Tensor

from dsd import backbones, export, optimizers, precision, recomputing, sharding
from dsd import conditioning as conditionings
from dsd.backbones.base import Backbone, Batch, RawBatch, Text, as_pixels
from dsd.backbones.lora import table
from dsd.conditioning.base import Conditioning
from dsd.ema import Ema, averaged
from dsd.install import install
from dsd.objective import Objective
from dsd.optimizers import OptimizerFactory
from dsd.randomness import Generators, generator

logger = logging.getLogger(__name__)


class Student(LightningModule):
    """Backbone + conditioning + flow-matching loss. It takes `Batch` (encoded) and `RawBatch` (pictures and
    words) alike.

    Checkpoints hold what is trained (with its running average and the optimiser) and nothing of the frozen
    base. All randomness of a pair follows from the seed and how many pairs came before it, over all
    processes: training that was stopped and resumed draws what it would have drawn, and a batch draws the
    same whole, in accumulated parts, or spread over processes.

    Args:
        base: the model to start from: "mini", a diffusers folder, a Hub id, a spec or a `Backbone`.
        conditioning: how the reference reaches the denoiser: a name, a spec or a `Conditioning`.
        lora: arguments of `dsd.backbones.lora.add_lora`, such as `{"rank": 128}`: low-rank adapters on the
            denoiser. The layers that the conditioning adds or widens are trained in full in any case.
        train: without `lora`: "full" trains the whole denoiser, "added" only what the conditioning adds.
        lr: learning rate after the warm-up; "prodigy" finds its own and takes it from its spec alone.
        weight_decay: of the optimiser, on all that is trained.
        betas: of the optimiser.
        warmup_steps: steps over which the learning rate rises linearly.
        ema_decay: decay of a running average of the trained weights, which pictures and `save_pretrained`
            then use; None for none.
        ema_device: "cpu" to keep the average off the device; None to keep it beside the weights.
        time_sampling: a law of `flow.sample_times`, or `{"law": ..., "mean": ..., "std": ..., "shift": ...}`.
            `shift` is that of `flow.shift_times`, or "schedule" for the one that sampling from the base uses
            for as many tokens.
        loss_weighting: a law of `flow.loss_weights`, or `{"law": "min_snr", "gamma": 5.0}`.
        guidance: what a guidance-distilled denoiser is told in training; 1 keeps its distillation (FLUX.1-dev
            is then sampled at 3.5). A range (low, high): drawn from it for each pair.
        text_dropout: share of the batch whose caption is replaced by an empty one; needed for text guidance.
        reference_dropout: share of the batch whose reference is hidden; needed for image guidance.
        frame_weights: weight of the loss on the reference's frame, if the canvas has one, and the target's.
        optimizer: a name of `optimizers.KNOWN` ("adamw", "adamw8bit", "schedulefree", "prodigy", ...),
            "package.module:Class", either as `{"name": ..., **arguments}`, or a function from parameters to
            an optimiser.
        gradient_checkpointing: trade time for memory: True for all blocks, n for every n-th, "selective" to
            keep what is dear to compute; see `recomputing.enable`.
        compile: compile the denoiser's repeated blocks by `torch.compile`; arguments of it, or True.
        dtype: of the frozen weights; what is trained is float32 always, and so are times and guidance. Use
            `Trainer(precision="bf16-mixed")` with "bfloat16".
        quantization: store the frozen base in fewer bits: a name of `quantization.SCHEMES`, or `{"name": ...,
            **arguments}`. What is saved is in full precision.
        frame_size: (height, width) of a frame in pixels, saved for the pipeline; None to take it from the
            data.
        seed: of the adapters' initialisation and of all randomness in training.

    Raises:
        ValueError: for a choice that does not exist or a number out of its range.
        LookupError, FileNotFoundError: if there is no such base, conditioning or optimiser.
        ModuleNotFoundError: if `quantization` needs a package that is not installed.
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
        ema_device: str | None = None,
        time_sampling: str | Mapping[str, Any] = "logit_normal",
        loss_weighting: str | Mapping[str, Any] = "none",
        guidance: float | tuple[float, float] = 1.0,
        text_dropout: float = 0.1,
        reference_dropout: float = 0.1,
        frame_weights: tuple[float, float] = (1.0, 1.0),
        optimizer: str | Mapping[str, Any] | OptimizerFactory = "adamw",
        gradient_checkpointing: bool | int | str = False,
        compile: bool | Mapping[str, Any] = False,
        dtype: str = "float32",
        quantization: str | Mapping[str, Any] | None = None,
        frame_size: tuple[int, int] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        given = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        fewer_bits = {} if quantization is None else {"quantization": quantization}
        self.backbone = backbones.load(base, dtype=dtype, parts=("denoiser",), **fewer_bits)
        self.backbone.load("denoiser")
        self.conditioning: Conditioning = conditionings.create(conditioning)
        given["base"] = str(base) if isinstance(base, str | Path) else backbones.spec(self.backbone)
        given["conditioning"] = conditionings.spec(self.conditioning)
        self.save_hyperparameters(given)

        self.lr, self.weight_decay, self.betas, self.warmup_steps = lr, weight_decay, betas, warmup_steps
        self.optimizer, self.seed = optimizer, seed
        self.frame_size = None if frame_size is None else (int(frame_size[0]), int(frame_size[1]))
        self.objective = Objective(
            self.backbone,
            self.conditioning,
            time_sampling=time_sampling,
            loss_weighting=loss_weighting,
            guidance=guidance,
            text_dropout=text_dropout,
            reference_dropout=reference_dropout,
            frame_weights=frame_weights,
        )

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            chosen = install(self.backbone, self.conditioning, lora, train)
        self.requires_grad_(False)
        for parameter in chosen:
            parameter.data = parameter.data.float()
            parameter.requires_grad_(True)
        self._trained = {name: p for name, p in self.named_parameters() if p.requires_grad}
        if gradient_checkpointing:
            recomputing.enable(self.denoiser, gradient_checkpointing)
            self.conditioning.enable_gradient_checkpointing()
        if compile:
            self.denoiser.compile_repeated_blocks(**({} if isinstance(compile, bool) else compile))
        self.train()  # a diffusers model comes in evaluation mode, where adapters' dropout would be off
        self.ema = None if ema_decay is None else Ema(list(self._trained.values()), ema_decay, ema_device)
        sharding.keep_apart(self, "ema")
        self._null_text: Text | None = None
        self._pairs_seen = 0
        self._built: torch.optim.Optimizer | None = None

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
        self, batch: Batch, generators: Generators, dropout: bool = True
    ) -> tuple[Float[Tensor, ""], Float[Tensor, " frames"]]:
        """The flow-matching loss of a batch, and the part of each frame of the canvas.

        Args:
            batch: encoded pairs.
            generators: where times, noise and dropout come from, one or one for each pair; on the batch's
                device.
            dropout: whether captions and references are dropped as in training.
        """
        return self.objective.loss(batch, generators, self._empty_text if dropout else None)

    def training_step(self, batch: Batch | RawBatch, batch_idx: int) -> Tensor:
        """One batch's loss; logs it, each frame's share and the learning rate."""
        batch = self._encoded(batch)
        first, step = self._pairs_seen + self.global_rank, self.trainer.world_size
        self._pairs_seen += len(batch) * step
        generators = [generator(self.device, self.seed, "train", first + i * step) for i in range(len(batch))]
        total, frames = self.losses(batch, generators)
        values = {"train/loss": total.detach(), "lr": self.trainer.optimizers[0].param_groups[0]["lr"]}
        values |= {f"train/loss_{name}": x for name, x in zip(self.conditioning.frames, frames, strict=True)}
        self.log_dict(values, batch_size=len(batch))
        return total

    def validation_step(self, batch: Batch | RawBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Log the loss without dropout; a pair has the same time and noise in each validation."""
        batch = self._encoded(batch)
        generators = [
            generator(self.device, self.seed, "validate", dataloader_idx, pair) for pair in batch.ids
        ]
        with self.ema_weights():
            total, _ = self.losses(batch, generators, dropout=False)
        self.log("val/loss", total, batch_size=len(batch), sync_dist=True)

    def configure_model(self) -> None:
        """Under Lightning's `ModelParallelStrategy`, spread all weights over the processes (FSDP2)."""
        if self.device_mesh is None or sharding.is_sharded(self):
            return
        for network in (self.denoiser, *self.conditioning.children()):
            sharding.shard(network, self.device_mesh["data_parallel"])
        self._trained = {name: p for name, p in self.named_parameters() if p.requires_grad}
        if self.ema is not None:
            self.ema = Ema(list(self._trained.values()), self.ema.decay, self.ema.device)
        self.strict_loading = False  # Lightning asks for the frozen weights too

    def configure_optimizers(self) -> Any:
        """The optimiser over what is trained, with a linear warm-up if one was asked for."""
        # On a CPU, fused is one pass over the weights instead of a loop over tensors. Lightning does not clip
        # gradients for it in mixed precision.
        clips = self._trainer is not None and bool(self._trainer.gradient_clip_val)
        fused = self.device.type == "cpu" and not clips and not sharding.is_sharded(self)
        self._built = optimizers.create(
            self.optimizer,
            list(self._trained.values()),
            fused=fused,
            lr=self.lr,
            betas=self.betas,
            weight_decay=self.weight_decay,
        )
        return optimizers.rising(self._built, self.warmup_steps)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Step, then let the running average follow."""
        super().optimizer_step(*args, **kwargs)
        if self.ema is not None:
            self.ema.update(list(self._trained.values()))

    def setup(self, stage: str) -> None:
        """Encode the empty caption while there is memory for the text encoders."""
        if stage == "fit" and self.objective.text_dropout > 0:
            self._empty_text(self.device)

    def on_fit_start(self) -> None:
        """Log what is trained; refuse half-precision weights without mixed precision."""
        optimizers.start(self._built)
        logger.info("%s", table(self._trained, self.denoiser))
        precision.check((*self.denoiser.parameters(), *self._trained.values()), self.trainer.precision)

    def ema_weights(self) -> contextlib.AbstractContextManager[None]:
        """A context with averaged weights in place of the last ones: the running average, or what a
        schedule-free optimiser averages, if there is either.
        """
        return averaged(self.ema, list(self._trained.values()), self._built)

    def save_pretrained(
        self, folder: str | Path, ema: bool = True, components: Literal["all", "trained"] = "all"
    ) -> None:
        """Write a folder that `DSDPipeline` and the conditioning's stock diffusers pipeline load.

        Where weights are spread over processes, every process must call it.

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
            if self.backbone.quantization is not None or sharding.is_sharded(self):
                self._save_whole(folder, components)
                return
            export.save(
                folder,
                backbone=self.backbone,
                conditioning=self.conditioning,
                base=self.hparams["base"],
                frame_size=self.frame_size,
                components=components,
            )

    def _save_whole(self, folder: str | Path, components: Literal["all", "trained"]) -> None:
        """Save by a student of the same kind whose base is whole and in full precision; the first process
        writes.
        """
        trained = {name: sharding.whole(p.detach()) for name, p in self._trained.items()}
        if self.global_rank == 0:
            base = self.hparams["base"]
            if not isinstance(base, str):
                base = {key: value for key, value in base.items() if key != "quantization"}
            plain = {"base": base, "quantization": None, "ema_decay": None, "compile": False}
            twin = Student(**{**self.hparams, **plain})
            twin.load_state_dict(trained)
            twin.frame_size = self.frame_size
            twin.save_pretrained(folder, components=components)

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
        checkpoint["student"] = {"pairs_seen": self._pairs_seen, "frame_size": self.frame_size}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take both up again."""
        self._pairs_seen = checkpoint["student"]["pairs_seen"]
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
