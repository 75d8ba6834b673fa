"""Any pipeline of diffusers as a method: from text alone, or from the reference too."""

import inspect
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from dsd.evaluation.methods.base import Job, Method
from dsd.evaluation.methods.lengths import cut_by

logger = logging.getLogger(__name__)


class DiffusersMethod(Method):
    """A pipeline whose call takes a prompt and, if you say under which names, the references.

    `{"name": "diffusers", "model": "black-forest-labs/FLUX.1-Kontext-dev", "image": "image"}`, or
    `{"name": "diffusers", "model": "stabilityai/stable-diffusion-xl-base-1.0", "image": "ip_adapter_image",
    "ip_adapter": {"pretrained_model_name_or_path_or_dict": "h94/IP-Adapter", "subfolder": "sdxl_models",
    "weight_name": "ip-adapter_sdxl.bin"}}`.

    Args:
        model: a folder, an id on the Hub, "mini" for the model inside dsd, or a pipeline.
        image: the argument of the call that takes the reference; None for text alone.
        several: give that argument all references of a subject, as a list, instead of the first.
        resize_px: the references are made square, this wide, by padding with white; None leaves them.
        size_px: width and height of what is drawn; None for the pipeline's default.
        num_inference_steps: None for the pipeline's default.
        guidance_scale: None for the pipeline's default.
        batch_size: pictures drawn at once, of pipelines that draw from several references at once; 1 is safe.
        arguments: further arguments of the call.
        class_name: of the pipeline in diffusers; by default the one that the folder says.
        ip_adapter: arguments of `load_ip_adapter`.
        lora: arguments of `load_lora_weights`.
        dtype: of the weights; None for "float32" on a CPU and "bfloat16" elsewhere.
        device: by default a GPU if there is one. Ignored for a pipeline that is given, which stays.
        revision: of the model on the Hub.

    Raises:
        ValueError: if a size or count is below 1.
    """

    def __init__(
        self,
        model: Any,
        image: str | None = None,
        several: bool = False,
        resize_px: int | None = None,
        size_px: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        batch_size: int = 1,
        arguments: Mapping[str, Any] | None = None,
        class_name: str | None = None,
        ip_adapter: Mapping[str, Any] | None = None,
        lora: Mapping[str, Any] | None = None,
        dtype: str | None = None,
        device: str | None = None,
        revision: str | None = None,
    ) -> None:
        sizes = {"resize_px": resize_px, "size_px": size_px, "batch_size": batch_size}
        for name, value in (sizes | {"num_inference_steps": num_inference_steps}).items():
            if value is not None and value < 1:
                raise ValueError(f"`{name}` must be at least 1; got {value}.")
        self._given, self._image, self._several, self._resize_px = model, image, several, resize_px
        self._call = {
            "num_inference_steps": num_inference_steps,
            "guidance_scale": guidance_scale,
            "height": size_px,
            "width": size_px,
        }
        self.batch_size, self._arguments = batch_size, dict(arguments or {})
        self._loading = (class_name, ip_adapter, lora, dtype, device, revision)
        self.about = "the prompt, without the reference" if image is None else "the reference and the prompt"
        self._pipeline: Any = None

    @property
    def model(self) -> str:
        """What was given, or the pipeline's class."""
        return str(self._given) if isinstance(self._given, str | Path) else type(self._given).__name__

    @property
    def pipeline(self) -> Any:
        """The diffusers pipeline, loaded when it is first asked for.

        Raises:
            TypeError: if its call has no argument `image`.
        """
        if self._pipeline is None:
            loaded = self._load() if isinstance(self._given, str | Path) else self._given
            accepted = inspect.signature(loaded.__call__).parameters
            if self._image is not None and self._image not in accepted:
                pictures = [name for name in accepted if "image" in name and not name.startswith("num_")]
                raise TypeError(
                    f"The call of {type(loaded).__name__} has no argument {self._image!r}. Those with "
                    f"'image' in their names: {', '.join(pictures) or 'none'}."
                )
            loaded.set_progress_bar_config(disable=True)
            self._pipeline = loaded
        return self._pipeline

    def draw(self, jobs: Sequence[Job]) -> list[Image.Image]:
        """One picture a job.

        Raises:
            ValueError: if the pipeline returns another number of pictures.
        """
        import torch

        pipeline = self.pipeline
        given = {name: value for name, value in self._call.items() if value is not None} | self._arguments
        if self._image is not None:
            pictures: list[Any] = [
                [self._fitted(x) for x in job.case.references]
                if self._several
                else self._fitted(job.case.reference)
                for job in jobs
            ]
            given[self._image] = pictures[0] if len(jobs) == 1 else pictures
        prompts = [job.case.prompt for job in jobs]
        generators = [torch.Generator("cpu").manual_seed(job.seed) for job in jobs]
        with torch.no_grad():
            images = pipeline(
                prompt=prompts[0] if len(jobs) == 1 else prompts,
                generator=generators[0] if len(jobs) == 1 else generators,
                output_type="pil",
                **given,
            ).images
        if len(images) != len(jobs):
            raise ValueError(
                f"{type(pipeline).__name__} returned {len(images)} pictures for {len(jobs)} jobs."
            )
        return [image.convert("RGB") for image in images]

    def cut_prompts(self, prompts: Sequence[str]) -> list[str]:
        """Those that none of the pipeline's tokenizers takes whole."""
        return cut_by(self.pipeline, prompts, self._arguments.get("max_sequence_length"))

    def close(self) -> None:
        """Let go of a pipeline that was loaded here."""
        self._pipeline = None

    def _fitted(self, image: Image.Image) -> Image.Image:
        if self._resize_px is None:
            return image
        side = max(image.size)
        square = Image.new("RGB", (side, side), "white")
        square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
        return square.resize((self._resize_px, self._resize_px), Image.Resampling.LANCZOS)

    def _load(self) -> Any:
        import diffusers
        import torch

        class_name, ip_adapter, lora, dtype_name, device, revision = self._loading
        source = str(self._given)
        if source == "mini":
            from dsd import mini

            source = str(mini.path())
        elif not Path(source).expanduser().is_dir() and (source[:1] in "./~" or source.count("/") > 1):
            raise FileNotFoundError(f"There is no folder {source!r}. Give a diffusers folder, or a Hub id.")
        cls: Any = getattr(diffusers, class_name or "DiffusionPipeline", None)
        if not _is_pipeline(cls):
            raise LookupError(
                f"diffusers has no pipeline {class_name!r}. Give the name of one as `class_name`."
            )
        where = device or ("cuda" if torch.cuda.is_available() else "cpu")
        name = dtype_name or ("float32" if where == "cpu" else "bfloat16")
        dtype = getattr(torch, name, None)
        if not isinstance(dtype, torch.dtype):
            raise ValueError(f"Unknown dtype {name!r}. Use one such as 'float32', 'bfloat16' or 'float16'.")
        options = {"torch_dtype": dtype, "use_safetensors": True} | (
            {"revision": revision} if revision else {}
        )
        pipeline: Any = cls.from_pretrained(source, **options)
        if ip_adapter is not None:
            pipeline.load_ip_adapter(**ip_adapter)
        if lora is not None:
            pipeline.load_lora_weights(**lora)
        return pipeline.to(where)


def _is_pipeline(found: Any) -> bool:
    from diffusers import DiffusionPipeline

    return inspect.isclass(found) and issubclass(found, DiffusionPipeline)
