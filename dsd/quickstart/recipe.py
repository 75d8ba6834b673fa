"""The numbers of the quickstart, all in one place."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How much is drawn, how it is curated, trained and judged.

    Attributes:
        base: the model that is teacher and student: "mini", or another FLUX model that knows the small world.
        grids_per_minute: grids drawn for each minute that the whole is to take.
        teacher: further arguments of the teacher `diffusers`.
        backbone: further arguments of the backbone `flux`, for the student.
        curator: a curator's name or spec.
        conditioning: a conditioning's name or spec.
        student: further arguments of `Student`; without "lora" the whole denoiser is trained.
        lr: highest learning rate.
        warmup_share: share of the training time over which the learning rate rises; then it falls as half a
            cosine.
        last_lr_share: share of `lr` that is left at the end.
        batch_size: pairs a step.
        precision: of the `Trainer`; "auto" for bfloat16 where this machine is faster at it than at float32.
        checkpoint_s: seconds between checkpoints of the training.
        sampling: arguments of the pipeline's call.
        references: held-out characters; fewer, in proportion, when there are less than `full_minutes`.
        full_minutes: from how many minutes on all `references` are drawn.
        extractor: the identity encoder; see `dsd.extractors`.
        workers: processes that measure pictures.
    """

    base: str = "mini"
    grids_per_minute: float = 37.5
    teacher: Mapping[str, Any] = field(
        default_factory=lambda: {
            "num_inference_steps": 20,
            "guidance_scale": 3.5,
            "batch_size": 16,
            "dtype": "float32",
        }
    )
    backbone: Mapping[str, Any] = field(
        default_factory=lambda: {
            "max_text_tokens": 32,
            "prompt": "a 1x2 picture grid of {caption}",  # as the base has learnt to draw two panels
        }
    )
    curator: str | Mapping[str, Any] = "embedding"
    conditioning: str | Mapping[str, Any] = field(
        default_factory=lambda: {
            "name": "parallel",
            "encoding": "per_frame",
            "reference_noise": 0.5,
        }
    )
    student: Mapping[str, Any] = field(
        default_factory=lambda: {
            "ema_decay": 0.99,
            "text_dropout": 0.05,
            "reference_dropout": 0.05,
            "guidance": 1.0,  # what is drawn with more guidance is then nearer to the reference
            "frame_weights": (0.1, 1.0),  # the reference's frame is read more than drawn
            "time_sampling": {"law": "logit_normal", "mean": 0.7, "std": 1.2},
        }
    )
    lr: float = 1e-4
    warmup_share: float = 0.03
    last_lr_share: float = 0.02
    batch_size: int = 32
    precision: Any = "auto"
    checkpoint_s: float = 30.0
    sampling: Mapping[str, Any] = field(
        default_factory=lambda: {
            "num_inference_steps": 20,
            "guidance_scale": 2.0,  # more leads to what is usual for the words, away from the picture
            "image_guidance": 2.2,
            "guidance_skip_steps": 0,  # whom it shows is settled in the first steps
        }
    )
    references: int = 64
    full_minutes: float = 6.0
    extractor: Any = "mini"
    workers: int = 2

    @property
    def student_base(self) -> dict[str, Any]:
        """The spec of the student's backbone."""
        return {"name": "flux", "base": self.base, **self.backbone}

    def num_grids(self, minutes: float) -> int:
        """How many grids are drawn."""
        return max(8, round(self.grids_per_minute * minutes))

    def num_references(self, minutes: float) -> int:
        """How many held-out characters are drawn."""
        return max(4, min(self.references, round(self.references * minutes / self.full_minutes)))
