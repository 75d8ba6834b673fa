"""Any text-to-image pipeline of diffusers as a teacher."""

import inspect
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dsd.grids import Layout
from dsd.teachers.base import Teacher
from dsd.types import Grid, GridPrompt

logger = logging.getLogger(__name__)
_MAX_TEXT_TOKENS = 512


class DiffusersTeacher(Teacher):
    """Draws grids with a text-to-image pipeline: FLUX.1, Stable Diffusion 3, the small one inside dsd, ...

    The pipeline is loaded when the first grid is drawn. Each grid has a random generator of its own, on the
    CPU, so that it depends on its prompt and seed alone; another batch size or device changes it by rounding
    at most.

    Args:
        model: a folder, an id on the Hugging Face Hub, "mini" for the model inside dsd, or a pipeline.
        panel_size: side of a panel in pixels; None for what the pipeline draws by default, which fits the
            layout only by luck, except for "mini", which draws panels of 64 px.
        num_inference_steps: steps of the sampler; None for the pipeline's default.
        guidance_scale: None for the pipeline's default.
        batch_size: grids drawn at once.
        dtype: of the weights; None for "float32" on a CPU and "bfloat16" elsewhere.
        device: such as "cuda:1"; by default a GPU if there is one. Ignored for a pipeline that is given,
            which stays.
        offload: "model" or "sequential" to keep most weights in main memory.
        arguments: further arguments of the pipeline's call, such as `{"negative_prompt": "blurry"}`.
        revision: of the model on the Hub.

    Raises:
        ValueError: if a size or count is below 1.
    """

    def __init__(
        self,
        model: Any = "mini",
        panel_size: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        batch_size: int = 1,
        dtype: str | None = None,
        device: str | None = None,
        offload: str | None = None,
        arguments: Mapping[str, Any] | None = None,
        revision: str | None = None,
    ) -> None:
        for name, value in {
            "panel_size": panel_size, "num_inference_steps": num_inference_steps, "batch_size": batch_size
        }.items():  # fmt: skip
            if value is not None and value < 1:
                raise ValueError(f"`{name}` must be at least 1; got {value}.")
        if offload not in (None, "model", "sequential"):
            raise ValueError(f"`offload` must be 'model', 'sequential' or None; got {offload!r}.")
        self.model = model
        self.panel_size = panel_size if panel_size is not None or model != "mini" else 64
        self.num_inference_steps, self.guidance_scale = num_inference_steps, guidance_scale
        self.batch_size = batch_size
        self.dtype, self.device, self.offload, self.revision = dtype, device, offload, revision
        self.arguments = dict(arguments or {})
        self._pipeline: Any = None

    @property
    def name(self) -> str:
        """What its grids say drew them: the kind of teacher and the model."""
        given = str(self.model) if isinstance(self.model, str | Path) else type(self.model).__name__
        return f"diffusers/{given}"

    @property
    def pipeline(self) -> Any:
        """The diffusers pipeline, loaded when it is first asked for."""
        if self._pipeline is None:
            self._pipeline = self._load() if isinstance(self.model, str | Path) else self.model
        return self._pipeline

    def draw(self, prompts: Sequence[GridPrompt], seeds: Sequence[int]) -> list[Grid]:
        """One grid a prompt, in order; prompts of one layout are drawn together.

        Raises:
            ValueError: if the pipeline returns another number of pictures.
        """
        images: dict[int, Any] = {}
        for layout in dict.fromkeys(prompt.layout for prompt in prompts):
            numbers = [i for i, prompt in enumerate(prompts) if prompt.layout == layout]
            for start in range(0, len(numbers), self.batch_size):
                batch = numbers[start : start + self.batch_size]
                drawn = self._call(
                    [prompts[i].text for i in batch], [seeds[i] for i in batch], Layout.parse(layout)
                )
                images.update(zip(batch, drawn, strict=True))
        return [
            Grid(image=images[i].convert("RGB"), prompt=prompt, seed=seed, teacher=self.name)
            for i, (prompt, seed) in enumerate(zip(prompts, seeds, strict=True))
        ]

    def _call(self, texts: list[str], seeds: list[int], layout: Layout) -> list[Any]:
        import torch

        pipeline = self.pipeline
        accepted = inspect.signature(pipeline.__call__).parameters
        wanted = {
            "num_inference_steps": self.num_inference_steps,
            "guidance_scale": self.guidance_scale,
            "max_sequence_length": _text_length(pipeline) if "max_sequence_length" in accepted else None,
        }
        if self.panel_size is not None:
            wanted |= {"height": layout.rows * self.panel_size, "width": layout.columns * self.panel_size}
        arguments = {key: value for key, value in wanted.items() if value is not None} | self.arguments
        generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
        with _quiet(pipeline), torch.no_grad():
            images = pipeline(prompt=texts, generator=generators, output_type="pil", **arguments).images
        if len(images) != len(texts):
            raise ValueError(
                f"{type(pipeline).__name__} returned {len(images)} pictures for {len(texts)} prompts. A "
                "teacher draws one each: take `num_images_per_prompt` out of `arguments`."
            )
        return list(images)

    def _load(self) -> Any:
        import torch
        from diffusers import AutoPipelineForText2Image, DiffusionPipeline

        source = str(self.model)
        if source == "mini":
            from dsd import mini

            source = str(mini.path())
        elif not Path(source).expanduser().is_dir() and (
            source.startswith((".", "/", "~")) or source.count("/") > 1
        ):
            raise FileNotFoundError(
                f"There is no folder {source!r}. Give a diffusers folder, a Hub id such as "
                "'black-forest-labs/FLUX.1-dev', or 'mini'."
            )
        device = self.device or ("cuda" if torch.cuda.is_available() else "cpu")
        # Without a dtype, diffusers loads its models in float32 and transformers its own as they were saved.
        name = self.dtype or ("float32" if device == "cpu" else "bfloat16")
        dtype = getattr(torch, name, None)
        if not isinstance(dtype, torch.dtype):
            raise ValueError(f"Unknown dtype {name!r}. Use one such as 'float32', 'bfloat16' or 'float16'.")
        options = {"torch_dtype": dtype, "revision": self.revision, "use_safetensors": True}
        options = {key: value for key, value in options.items() if value is not None}
        try:
            pipeline = AutoPipelineForText2Image.from_pretrained(source, **options)
        except ValueError:  # a pipeline that the automatic class does not know
            logger.info("%s is not in AutoPipelineForText2Image; loading it as DiffusionPipeline", source)
            pipeline = DiffusionPipeline.from_pretrained(source, **options)
        return self._place(pipeline, device)

    def _place(self, pipeline: Any, device: str) -> Any:
        if self.offload == "model":
            pipeline.enable_model_cpu_offload(device=device)
        elif self.offload == "sequential":
            pipeline.enable_sequential_cpu_offload(device=device)
        else:
            pipeline.to(device)
        return pipeline


def _text_length(pipeline: Any) -> int | None:
    """As many tokens as the second tokenizer takes, 512 at most; None if there is no such."""
    tokenizer = getattr(pipeline, "tokenizer_2", None)
    return None if tokenizer is None else min(_MAX_TEXT_TOKENS, tokenizer.model_max_length)


@contextmanager
def _quiet(pipeline: Any) -> Iterator[None]:
    """Without the pipeline's own progress bar: the stage shows one over all grids."""
    before = dict(getattr(pipeline, "_progress_bar_config", None) or {})
    pipeline.set_progress_bar_config(disable=True)
    try:
        yield
    finally:
        pipeline.set_progress_bar_config(**before)
