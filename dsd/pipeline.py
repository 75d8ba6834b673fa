"""Inference in the manner of diffusers: a reference and a prompt in, pictures out."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any, Literal

import torch
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor
from tqdm.auto import tqdm

from dsd import conditioning as conditionings
from dsd.backbones.base import Backbone, Latents, Reference, ReferencePixels, Text
from dsd.conditioning.base import Conditioning
from dsd.controls import StockControls
from dsd.convert.loading import load_backbone, open_folder
from dsd.export import CARD
from dsd.guidance import Guidance
from dsd.pixels import ImageLike, OutputType, from_pixels, read_sets
from dsd.requests import checked_generators, checked_negatives, checked_prompts, pairing

logger = logging.getLogger(__name__)

StepCallback = Callable[
    ["DSDPipeline", int, torch.Tensor, dict[str, torch.Tensor]], dict[str, torch.Tensor] | None
]


@dataclass
class DSDPipelineOutput(BaseOutput):
    """What the pipeline returns.

    Attributes:
        images: the pictures, in the order of the prompts, those of one prompt side by side: a list of PIL
            images, an array (b, h, w, 3) or a tensor (b, 3, h, w) in [0, 1], or latents (b, c, h, w).
        references: the frames that were drawn beside them, if both were asked for; they repeat the reference.
    """

    images: Any
    references: Any = None


class DSDPipeline(StockControls):
    """A trained student at work; `from_pretrained` is the usual way to one.

    Args:
        backbone: with the conditioning installed in its denoiser.
        conditioning: how the reference reaches the denoiser.
        frame_size: (height, width) of a frame in pixels, for calls that say nothing else.
    """

    def __init__(
        self, backbone: Backbone, conditioning: Conditioning, frame_size: tuple[int, int] | None = None
    ) -> None:
        self.backbone = backbone
        self.conditioning = conditioning
        self.frame_size = frame_size
        self._progress: dict[str, Any] = {}

    @classmethod
    def from_pretrained(
        cls,
        folder: str | PathLike[str],
        *,
        torch_dtype: torch.dtype | str = torch.float32,
        conditioning: Any = None,
        frame_size: tuple[int, int] | None = None,
        base: str | PathLike[str] | None = None,
        local_files_only: bool = False,
    ) -> "DSDPipeline":
        """Load what `Student.save_pretrained`, `dsd convert` or `dsd export` wrote, another stock folder with
        a trained conditioning, or the published weights as they are. Adapters in a file of their own are
        merged in memory.

        Args:
            folder: a folder or a Hub id.
            torch_dtype: of all weights.
            conditioning: name or spec, for folders that do not say it (those without a `dsd.json`).
            frame_size: (height, width) in pixels instead of the one in the folder.
            base: whose autoencoder and text encoders to use, and whose denoiser for exported adapters,
                instead of the folder's own or of the base that it names; for the published weights that is
                FLUX.1-dev.
            local_files_only: never ask the Hub.

        Raises:
            FileNotFoundError: if there is no such folder, or it needs a base that it does not name.
            ValueError: if the conditioning is not known or does not fit the denoiser, or files are damaged or
                of another base.
        """
        opened = open_folder(folder, local_files_only)
        spec = conditioning or opened.card.get("conditioning")
        if spec is None:
            raise ValueError(
                f"{str(folder)!r} has no {CARD}, so its conditioning is unknown. Pass conditioning=, one of "
                f"{', '.join(conditionings.names())}."
            )
        method = conditionings.create(spec)
        backbone = load_backbone(opened, base, torch_dtype, local_files_only)
        assert backbone.denoiser is not None
        method.restore(backbone.denoiser, opened.folder)
        size = frame_size or opened.card.get("frame_size")
        return cls(backbone, method, None if size is None else (size[0], size[1]))

    def to(self, *args: Any, **kwargs: Any) -> "DSDPipeline":
        """Move all parts, as `torch.nn.Module.to`."""
        self.backbone.to(*args, **kwargs)
        self.conditioning.to(*args, **kwargs)
        return self

    def set_progress_bar_config(self, **kwargs: Any) -> None:
        """Arguments of the `tqdm` bar, such as `disable=True`."""
        self._progress = kwargs

    @torch.no_grad()
    def __call__(
        self,
        image: ImageLike | Sequence[ImageLike] | Sequence[Sequence[ImageLike]],
        prompt: str | Sequence[str],
        *,
        num_inference_steps: int = 28,
        guidance_scale: float = 3.5,
        image_guidance: float = 1.0,
        text_guidance: float = 1.0,
        negative_prompt: str | Sequence[str] | None = None,
        guidance_skip_steps: int = 2,
        guidance_interval: tuple[float, float] = (0.0, 1.0),
        batch_guidance: bool | Literal["auto"] = False,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        seed: int | None = None,
        height: int | None = None,
        width: int | None = None,
        num_images_per_prompt: int = 1,
        latents: Latents | None = None,
        callback_on_step_end: StepCallback | None = None,
        output_type: OutputType = "pil",
        return_both_frames: bool = False,
    ) -> DSDPipelineOutput:
        """Draw the subject of a reference as a prompt says.

        One reference with several prompts, several references with one prompt, or as many of each, pair by
        pair.

        Args:
            image: the reference or references; see `dsd.pixels.read` for what it may be, and the conditioning
                for how it comes to the frame's size. A list of lists gives each picture several references,
                [[a, b], [c, d]], where the conditioning takes them.
            prompt: what to draw, one or several.
            num_inference_steps: steps of the sampler.
            guidance_scale: what a guidance-distilled denoiser is told; costs nothing.
            image_guidance: above 1, the reference is followed more closely; see `Guidance`.
            text_guidance: above 1, the prompt is followed more closely; see `Guidance`.
            negative_prompt: what text guidance leads away from, instead of the empty prompt: one, or one for
                each prompt.
            guidance_skip_steps: how many of the first steps go without image and text guidance.
            guidance_interval: (low, high): steps whose time is outside go without; 1 is noise.
            batch_guidance: make all predictions of a guided step in one call of the denoiser; "auto": as long
                as memory suffices.
            generator: one for all noise, or one for each picture; with one each, a picture does not depend on
                its neighbours in the batch.
            seed: instead of generators: picture i is drawn from a generator seeded by seed + i.
            height: of a frame, in pixels, a multiple of 16; by default the size of training.
            width: of a frame, likewise.
            num_images_per_prompt: pictures for each prompt.
            latents: the initial noise of the canvas, instead of drawing it.
            callback_on_step_end: called with (pipeline, step, timestep, {"latents": canvas}) after each step;
                the canvas it returns under "latents", if any, goes on.
            output_type: "pil", "np", "pt" or "latent".
            return_both_frames: return the reference's frame too, where the conditioning draws one.

        Raises:
            TypeError: if image or prompt is of the wrong type.
            ValueError: if a prompt is empty, counts do not fit, or a size is impossible.
        """
        prompts = checked_prompts(prompt)
        height, width = self._checked_size(height, width)
        if num_inference_steps < 1 or num_images_per_prompt < 1:
            raise ValueError(
                "num_inference_steps and num_images_per_prompt must be at least 1; got "
                f"{num_inference_steps} and {num_images_per_prompt}."
            )
        if output_type not in ("pil", "np", "pt", "latent"):
            raise ValueError(f"Unknown output_type {output_type!r}. Allowed: 'pil', 'np', 'pt', 'latent'.")
        if return_both_frames and "reference" not in self.conditioning.frames:
            raise ValueError(
                f"{type(self.conditioning).__name__} draws the target frame only: no return_both_frames."
            )
        guidance = Guidance(
            image=image_guidance,
            text=text_guidance,
            skip_steps=guidance_skip_steps,
            interval=guidance_interval,
            batched=batch_guidance,
        )
        negatives = checked_negatives(negative_prompt, len(prompts))
        if negative_prompt is not None and not guidance.needs_empty:
            logger.warning("negative_prompt does nothing without text guidance: give text_guidance above 1.")
        if guidance.active and guidance_skip_steps >= num_inference_steps:
            logger.warning(
                "image_guidance and text_guidance do nothing: guidance_skip_steps (%d) covers all %d steps.",
                guidance_skip_steps,
                num_inference_steps,
            )

        if guidance.active:
            self._check_cache()
        with self._working() as device:
            pixels = self._prepared(image, height, width)
            pictures, captions = pairing(len(pixels), len(prompts), num_images_per_prompt)
            reference = self.conditioning.encode(self.backbone, pixels.to(device))[pictures]
            del pixels  # not needed again, and large beside what sampling holds
            text, empty = self._encode_text(prompts, captions, negatives if guidance.needs_empty else None)
            generators = checked_generators(generator, seed, len(captions), device)
            x = noise = self._noise(reference, text, height, width, generators, latents)

            num_tokens = (
                x[0, 0].numel() * self.backbone.pixels_per_latent**2 // self.backbone.pixels_per_token**2
            )
            scheduler = self.backbone.schedule(num_inference_steps, num_tokens, device)

            def predict(
                x_t: Latents, t: torch.Tensor, reference: Reference, text: Text, name: str
            ) -> Latents:
                with self.backbone.prediction(name):
                    return self.conditioning.velocity(self.backbone, x_t, t, reference, text, guidance_scale)

            for step, timestep in enumerate(tqdm(scheduler.timesteps, **self._progress)):
                self.current_timestep = timestep
                t = timestep.expand(len(x)).float() / scheduler.config.num_train_timesteps
                x = self.conditioning.known(x, t, reference, noise)
                velocity = guidance.velocity(predict, step, x, t, reference, text, empty)
                x = scheduler.step(velocity, timestep, x, return_dict=False)[0]
                if callback_on_step_end is not None:
                    x = (callback_on_step_end(self, step, timestep, {"latents": x}) or {}).get("latents", x)

            x = self.conditioning.known(x, torch.zeros_like(t), reference, noise)
            frames: dict[str, Any] = self.conditioning.split(x)
            if output_type != "latent":
                decoded = self.conditioning.decode(self.backbone, x)
                frames = {name: from_pixels(frame, output_type) for name, frame in decoded.items()}
            return DSDPipelineOutput(
                images=frames["target"], references=frames["reference"] if return_both_frames else None
            )

    def _checked_size(self, height: int | None, width: int | None) -> tuple[int, int]:
        default = self.frame_size or (None, None)
        height, width = height or default[0], width or default[1]
        if height is None or width is None:
            raise ValueError("The size of a frame is not known. Pass height= and width= in pixels.")
        unit = self.backbone.pixels_per_token
        if height < unit or width < unit or height % unit or width % unit:
            raise ValueError(
                f"A frame of {width} x {height} px does not divide into {unit} px tokens. Nearest: "
                f"{max(unit, round(width / unit) * unit)} x {max(unit, round(height / unit) * unit)}."
            )
        return height, width

    def _prepared(self, image: Any, height: int, width: int) -> ReferencePixels:
        """The references of all pictures, brought to the size in which the conditioning wants them."""
        prepared = [
            self.conditioning.prepare([pixels[None] for pixels in references], height, width)
            for references in read_sets(image)
        ]
        shapes = {tuple(pixels.shape[1:]) for pixels in prepared}
        if len(shapes) > 1:
            raise ValueError(
                f"The references of one call must be alike in number and size; got {sorted(shapes)} (their "
                "number if there are several, channels, height, width). Draw them one by one, or choose a "
                "`fit` that brings them to one size."
            )
        return torch.cat(prepared)

    def _encode_text(
        self, prompts: list[str], captions: list[int], negatives: list[str] | None
    ) -> tuple[Text, Text | None]:
        """Each prompt once, then as often as it is used; and what guidance leads away from, if needed."""
        unique = list(dict.fromkeys([*prompts, *(negatives or [])]))
        encoded = self.backbone.encode_text(unique)
        text = encoded[[unique.index(prompts[i]) for i in captions]]
        if negatives is None:
            return text, None
        return text, encoded[[unique.index(negatives[i]) for i in captions]]

    def _noise(
        self,
        reference: Reference,
        text: Text,
        height: int,
        width: int,
        generators: torch.Generator | list[torch.Generator] | None,
        latents: Latents | None,
    ) -> Latents:
        """Noise of the canvas' shape, drawn as stock pipelines draw it."""
        frame = self.backbone.latent_shape(height, width)
        device, dtype = self.backbone.device, text.tokens.dtype
        shape = self.conditioning.canvas(
            reference, torch.zeros(len(text), *frame, device=device, dtype=dtype)
        ).shape
        if latents is None:
            noise: Latents = randn_tensor(shape, generator=generators, device=device, dtype=dtype)
            return noise
        if latents.shape != shape:
            raise ValueError(f"The initial noise must be {tuple(shape)}; got {tuple(latents.shape)}.")
        return latents.to(device, dtype)
