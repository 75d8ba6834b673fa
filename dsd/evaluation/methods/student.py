"""Students as methods: the pipeline with a trained denoiser, and the same one before its training."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from dsd.evaluation.methods.base import Job, Method
from dsd.evaluation.methods.lengths import cut_by

if TYPE_CHECKING:
    from dsd.pipeline import DSDPipeline

logger = logging.getLogger(__name__)


class StudentMethod(Method):
    """A saved student: zero-shot, from the first reference and the prompt.

    Args:
        model: a folder of `Student.save_pretrained`, a Hub id, or a `DSDPipeline`.
        num_inference_steps: steps of the sampler.
        guidance_scale: what a guidance-distilled denoiser is told.
        image_guidance: above 1, the reference is followed more closely.
        text_guidance: above 1, the prompt is followed more closely.
        guidance_skip_steps: how many of the first steps go without image and text guidance.
        height: of a picture in pixels; by default that of training.
        width: likewise.
        batch_size: pictures drawn at once.
        dtype: of the weights.
        device: by default a GPU if there is one.

    Raises:
        ValueError: if a number is below 1.
    """

    about = "one reference and the prompt, without tuning"

    def __init__(
        self,
        model: Any,
        num_inference_steps: int = 28,
        guidance_scale: float = 3.5,
        image_guidance: float = 1.0,
        text_guidance: float = 1.0,
        guidance_skip_steps: int = 2,
        height: int | None = None,
        width: int | None = None,
        batch_size: int = 4,
        dtype: str = "float32",
        device: str | None = None,
    ) -> None:
        if min(batch_size, num_inference_steps) < 1:
            raise ValueError(
                "`batch_size` and `num_inference_steps` must be at least 1; got "
                f"{batch_size} and {num_inference_steps}."
            )
        if isinstance(model, str | Path):
            _check_there(str(model))
        self._given, self._dtype, self._device = model, dtype, device
        self.batch_size = batch_size
        self._arguments = {
            "num_inference_steps": num_inference_steps,
            "guidance_scale": guidance_scale,
            "image_guidance": image_guidance,
            "text_guidance": text_guidance,
            "guidance_skip_steps": guidance_skip_steps,
            "height": height,
            "width": width,
        }
        self._pipe: Any = None

    @property
    def model(self) -> str:
        """The folder's name."""
        return Path(self._given).name if isinstance(self._given, str | Path) else type(self._given).__name__

    @property
    def pipe(self) -> "DSDPipeline":
        """The pipeline, loaded when it is first asked for."""
        if self._pipe is None:
            if isinstance(self._given, str | Path):
                import torch

                where = torch.device(self._device or ("cuda" if torch.cuda.is_available() else "cpu"))
                self._pipe = self._load(str(self._given), self._dtype).to(where)
            else:
                self._pipe = self._given
        pipe: DSDPipeline = self._pipe
        return pipe

    def draw(self, jobs: Sequence[Job]) -> list[Image.Image]:
        """One picture a job."""
        return ask_student(
            self.pipe,
            [job.case.reference for job in jobs],
            [job.case.prompt for job in jobs],
            [job.seed for job in jobs],
            **self._arguments,
        )

    def cut_prompts(self, prompts: Sequence[str]) -> list[str]:
        """Those that are longer than the backbone's longest text encoder reads."""
        return cut_by(self.pipe.backbone, prompts, getattr(self.pipe.backbone, "max_text_tokens", None))

    def close(self) -> None:
        """Let go of a pipeline that was loaded here."""
        self._pipe = None

    def _load(self, model: str, dtype: str) -> "DSDPipeline":
        from dsd.pipeline import DSDPipeline

        return DSDPipeline.from_pretrained(model, torch_dtype=dtype)


class UntrainedMethod(StudentMethod):
    """The student that `model` was before its first step; its arguments are those of `student`."""

    about = "the same network before its first step"

    def _load(self, model: str, dtype: str) -> "DSDPipeline":
        from dsd.export import CARD, base_of
        from dsd.pipeline import DSDPipeline
        from dsd.student import Student

        path = Path(model).expanduser() / CARD
        if not path.is_file():
            raise FileNotFoundError(
                f"{model} has no {CARD}, which says what it was trained from. Save it with save_pretrained."
            )
        card = json.loads(path.read_text())
        student = Student(base=base_of(card, model), conditioning=card["conditioning"])
        student.backbone.load("vae", "text")
        size = card.get("frame_size")
        return DSDPipeline(
            student.backbone, student.conditioning, None if size is None else (size[0], size[1])
        )


def ask_student(
    pipe: "DSDPipeline",
    references: Sequence[Image.Image],
    prompts: Sequence[str],
    seeds: Sequence[int],
    **arguments: Any,
) -> list[Image.Image]:
    """One picture for each reference and prompt, each with noise of its own.

    Args:
        pipe: the student; its progress bar is switched off.
        references: the subjects.
        prompts: what to draw of each.
        seeds: of the noise.
        arguments: further arguments of the pipeline's call.
    """
    import torch

    pipe.set_progress_bar_config(disable=True)
    images: list[Image.Image] = pipe(
        image=list(references),
        prompt=list(prompts),
        generator=[torch.Generator(pipe.backbone.device).manual_seed(seed) for seed in seeds],
        **arguments,
    ).images
    return images


def _check_there(model: str) -> None:
    """Before anything is drawn by others."""
    if not Path(model).expanduser().is_dir() and (model.count("/") != 1 or model.startswith((".", "/", "~"))):
        raise FileNotFoundError(
            f"There is no folder {model!r}. Give one of Student.save_pretrained, or a Hub id."
        )
