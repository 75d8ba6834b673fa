"""FLUX.1 and everything of its shape, over stock diffusers and transformers classes."""

import copy
import functools
import hashlib
import json
import math
import warnings
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from os import PathLike
from typing import Any, ClassVar

import numpy as np
import torch
from diffusers import AutoencoderKL, FluxPipeline, FluxTransformer2DModel
from jaxtyping import Float
from torch import Tensor, nn

from dsd import flow
from dsd import quantization as quantizing
from dsd.backbones.base import Backbone, Latents, Pixels, Text
from dsd.backbones.origin import dtype_of, folder_or_id
from dsd.backbones.times import exact_times

_COMPONENTS = {
    "denoiser": ("transformer",),
    "vae": ("vae",),
    "text": ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"),
}
_FROZEN = ("vae", "text_encoder", "text_encoder_2")
_MAX_TEXT_TOKENS = 512
_CAPTION = "{caption}"
_ATTENTION = r"attn\.(to_q|to_k|to_v|to_out\.0|add_q_proj|add_k_proj|add_v_proj|to_add_out)"
_REST = r"norm\.linear|norm1\.linear|norm1_context\.linear|ff(_context)?\.net\.(0\.proj|2)|proj_mlp|proj_out"


class FluxBackbone(Backbone):
    """A FLUX.1 model: `FluxTransformer2DModel`, `AutoencoderKL`, CLIP and T5 text encoders, a flow-matching
    scheduler.

    Weights are read from safetensors files only. Parts that are not asked for load when they are first
    needed.

    Args:
        base: a folder as `FluxPipeline.save_pretrained` writes it, an id on the Hugging Face Hub, or "mini"
            for the small model inside dsd.
        dtype: of all weights, such as "bfloat16".
        parts: what to load now: any of "denoiser", "vae" and "text".
        local_files_only: never ask the Hub, only its cache on this machine.
        denoiser: folder of a transformer to use instead of the base's, such as a trained one.
        max_text_tokens: T5 tokens that captions are padded or cut to, at most 512, as many as FLUX.1-dev
            knows; short captions with fewer train and draw faster. None: as many as the tokenizer allows.
        prompt: what the text encoders are told, with "{caption}" where the caption stands. A base that draws
            grids keeps an identity better when it is told of one: "a 1x2 grid of one subject: {caption}".
        quantization: store the denoiser in fewer bits; see `dsd.quantization.SCHEMES`.

    Raises:
        ValueError: if `max_text_tokens` is not in that range, `prompt` has no place for the caption, or there
            is no such quantization.
        ModuleNotFoundError: if `quantization` needs a package that is not installed.
        FileNotFoundError: if the folder does not exist or holds no pipeline.
        LookupError: if the Hub and its cache do not have the model.
    """

    denoiser: FluxTransformer2DModel | None
    vae: AutoencoderKL | None
    text_encoder: nn.Module | None
    text_encoder_2: nn.Module | None
    lora_targets: ClassVar[Mapping[str, str]] = {
        "attention": rf"(single_)?transformer_blocks\.\d+\.{_ATTENTION}",
        "blocks": rf"(single_)?transformer_blocks\.\d+\.({_ATTENTION}|{_REST})",
    }
    pixels_per_token: ClassVar[int] = 16
    pixels_per_latent: ClassVar[int] = 8

    def __init__(
        self,
        base: str,
        dtype: str | torch.dtype = "float32",
        parts: Sequence[str] = ("denoiser", "vae", "text"),
        local_files_only: bool = False,
        denoiser: str | None = None,
        max_text_tokens: int | None = None,
        prompt: str = _CAPTION,
        quantization: str | Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if max_text_tokens is not None and not 1 <= max_text_tokens <= _MAX_TEXT_TOKENS:
            raise ValueError(f"max_text_tokens must be from 1 to {_MAX_TEXT_TOKENS}; got {max_text_tokens}.")
        if prompt.count(_CAPTION) != 1:
            raise ValueError(f"`prompt` must hold {_CAPTION!r} once; got {prompt!r}.")
        self.base, self.prompt = str(base), prompt
        self.max_text_tokens = max_text_tokens
        self.dtype = dtype_of(dtype)
        if quantization is not None:
            quantizing.check(quantization)
        self.quantization = quantization
        self.local_files_only = local_files_only
        self.denoiser_folder = denoiser
        self.denoiser = self.vae = self.text_encoder = self.text_encoder_2 = None
        self.tokenizer: Any = None
        self.tokenizer_2: Any = None
        self.scheduler: Any = None
        self.load(*parts)

    @classmethod
    def from_pretrained(cls, base: str | PathLike[str], **arguments: Any) -> "FluxBackbone":
        """The same as the constructor, by the name that users of diffusers know."""
        return cls(str(base), **arguments)

    def load(self, *parts: str) -> None:
        """Load those of "denoiser", "vae" and "text" that are not there yet.

        Raises:
            ValueError: if there is no such part.
        """
        for part in parts:
            if part not in _COMPONENTS:
                raise ValueError(f"A FLUX model has no part {part!r}. Allowed: {', '.join(_COMPONENTS)}.")
        missing = [
            name for part in parts for name in _COMPONENTS[part] if getattr(self, _attribute(name)) is None
        ]
        if not missing and self.scheduler is not None:
            return
        skipped: dict[str, Any] = {
            name: None for names in _COMPONENTS.values() for name in names if name not in missing
        }
        device = self.device
        source = folder_or_id(self.base)
        with torch.inference_mode(False), warnings.catch_warnings():
            # diffusers 0.42 calls the argument `dtype`, earlier ones know `torch_dtype` alone.
            warnings.filterwarnings("ignore", ".*torch_dtype. is deprecated", FutureWarning)
            if "transformer" in missing and self.denoiser_folder is not None:
                skipped["transformer"] = self._transformer(self.denoiser_folder)
            try:
                if "transformer" in missing and self.quantization is not None:
                    skipped.setdefault("transformer", self._transformer(source, subfolder="transformer"))
                pipe = FluxPipeline.from_pretrained(
                    source,
                    torch_dtype=self.dtype,
                    use_safetensors=True,
                    local_files_only=self.local_files_only,
                    image_encoder=None,
                    feature_extractor=None,
                    **skipped,
                )
            except OSError as error:
                raise LookupError(
                    f"Cannot load {', '.join(missing) or 'the scheduler'} of {source!r}: {error} "
                    "Give a folder that FluxPipeline.save_pretrained wrote, with safetensors weights, or an "
                    "id on the Hugging Face Hub that you may read."
                ) from error
            self.scheduler = self.scheduler or pipe.scheduler
            for name in missing:
                component = getattr(pipe, name)
                if isinstance(component, nn.Module):
                    component = component.to(device).requires_grad_(False).eval()
                setattr(self, _attribute(name), component)

    def _transformer(self, source: str, **where: Any) -> FluxTransformer2DModel:
        if self.quantization is not None:
            where["quantization_config"] = quantizing.config(self.quantization, self.dtype)
        return FluxTransformer2DModel.from_pretrained(
            source,
            torch_dtype=self.dtype,
            use_safetensors=True,
            local_files_only=self.local_files_only,
            **where,
        )

    @property
    def loaded(self) -> frozenset[str]:
        """Those of "denoiser", "vae" and "text" that are there."""
        return frozenset(
            part
            for part, names in _COMPONENTS.items()
            if all(getattr(self, _attribute(name)) is not None for name in names)
        )

    def release(self, *parts: str) -> None:
        """Forget those parts, to free memory; they load again when they are needed."""
        for part in parts:
            for name in _COMPONENTS[part]:
                setattr(self, _attribute(name), None)

    def to(self, *args: Any, **kwargs: Any) -> "FluxBackbone":
        """Move or convert what is loaded, as `torch.nn.Module.to`; what loads later gets the same dtype."""
        dtype = torch._C._nn._parse_to(*args, **kwargs)[1]
        self.dtype = dtype or self.dtype
        return super().to(*args, **kwargs)

    def train(self, mode: bool = True) -> "FluxBackbone":
        """Put the denoiser in training mode; the frozen parts stay in evaluation mode."""
        super().train(mode)
        for name in _FROZEN:
            module = getattr(self, name)
            if module is not None:
                module.eval()
        return self

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """Channels, height and width of the latents of a frame of that many pixels."""
        assert self.denoiser is not None, "load the denoiser first"
        channels = (self.denoiser.config.out_channels or self.denoiser.config.in_channels) // 4
        return channels, height // self.pixels_per_latent, width // self.pixels_per_latent

    @property
    def device(self) -> torch.device:
        """Where the parts are, or are brought to work; the CPU if none is loaded."""
        return self.execution_device or next(
            (parameter.device for parameter in self.parameters()), torch.device("cpu")
        )

    @torch.no_grad()
    def encode_image(self, pixels: Pixels) -> Latents:
        """Pixels in [-1, 1], of a size that divides by 16, to shifted and scaled latents (the mode)."""
        self.load("vae")
        assert self.vae is not None
        latents = self.vae.encode(
            pixels.to(self.execution_device or self.vae.device, self.vae.dtype)
        ).latent_dist.mode()
        scaled: Tensor = (latents - self.vae.config.shift_factor) * self.vae.config.scaling_factor
        return scaled

    @torch.no_grad()
    def decode(self, latents: Latents) -> Pixels:
        """Shifted and scaled latents to pixels, about in [-1, 1]."""
        self.load("vae")
        assert self.vae is not None
        latents = latents.to(self.execution_device or self.vae.device, self.vae.dtype)
        latents = latents / self.vae.config.scaling_factor + self.vae.config.shift_factor
        pixels: Tensor = self.vae.decode(latents, return_dict=False)[0]
        return pixels

    @torch.no_grad()
    def encode_text(self, captions: Sequence[str]) -> Text:
        """Captions, put into `prompt`, to T5 tokens, padded or cut to `max_text_tokens`, and a pooled CLIP
        embedding, by `FluxPipeline.encode_prompt`. An empty one stays empty.
        """
        self.load("text")
        length = min(self.max_text_tokens or _MAX_TEXT_TOKENS, self.tokenizer_2.model_max_length)
        tokens, pooled, _ = self._stock_text.encode_prompt(
            prompt=[caption and self.prompt.replace(_CAPTION, caption) for caption in captions],
            device=self.device,
            max_sequence_length=length,
        )
        return Text(tokens=tokens, pooled=pooled)

    @property
    def _stock_text(self) -> FluxPipeline:
        """The stock pipeline, sharing our text encoders and nothing else."""
        texts = {name: getattr(self, name) for name in _COMPONENTS["text"]}
        return FluxPipeline(scheduler=self.scheduler, vae=None, transformer=None, **texts)

    def call(
        self,
        tokens: Float[Tensor, "b n d"],
        t: Float[Tensor, " b"],
        text: Text,
        ids: Float[Tensor, "n 3"],
        guidance: float | Float[Tensor, " b"] = 1.0,
        **extra: Any,
    ) -> Float[Tensor, "b n k"]:
        """Run the transformer, times and guidance in float32; see `Backbone.call`."""
        assert self.denoiser is not None, "load the denoiser first"
        told = None
        if self.denoiser.config.guidance_embeds:
            told = torch.as_tensor(guidance, dtype=torch.float32, device=tokens.device).expand(len(tokens))
        with exact_times(self.denoiser, t, told):
            output: Tensor = self.denoiser(
                hidden_states=tokens,
                timestep=t,
                guidance=told,
                pooled_projections=text.pooled,
                encoder_hidden_states=text.tokens,
                txt_ids=ids.new_zeros(text.tokens.shape[1], 3),
                img_ids=ids,
                return_dict=False,
                **extra,
            )[0]
        return output

    def prediction(self, name: str) -> AbstractContextManager[None]:
        """Diffusers' `cache_context`."""
        assert self.denoiser is not None, "load the denoiser first"
        return self.denoiser.cache_context(name)

    def schedule(self, num_steps: int, num_tokens: int, device: torch.device) -> Any:
        """A fresh scheduler for that many steps; FLUX.1's time shift follows the number of image tokens."""
        scheduler = copy.deepcopy(self.scheduler)
        sigmas = np.linspace(1.0, 1 / num_steps, num_steps)
        scheduler.set_timesteps(sigmas=sigmas, mu=self._mu(num_tokens), device=device)
        return scheduler

    def time_shift(self, num_tokens: int) -> float:
        """How far the schedule for that many image tokens is moved towards noise."""
        settings = self.scheduler.config
        return math.exp(self._mu(num_tokens)) if settings.use_dynamic_shifting else float(settings.shift)

    def _mu(self, num_tokens: int) -> float:
        settings = self.scheduler.config
        return flow.mu_for(
            num_tokens,
            base_tokens=settings.get("base_image_seq_len", 256),
            max_tokens=settings.get("max_image_seq_len", 4096),
            base_shift=settings.get("base_shift", 0.5),
            max_shift=settings.get("max_shift", 1.15),
        )

    @property
    def settings(self) -> dict[str, Any]:
        """The length of the text and the prompt, if they were given."""
        given = {} if self.max_text_tokens is None else {"max_text_tokens": self.max_text_tokens}
        return given if self.prompt == _CAPTION else {**given, "prompt": self.prompt}

    def components(self) -> dict[str, Any]:
        """All parts by the names that `FluxPipeline` gives them, loaded if need be."""
        self.load(*_COMPONENTS)
        names = [name for names in _COMPONENTS.values() for name in names]
        return {"scheduler": self.scheduler, **{name: getattr(self, _attribute(name)) for name in names}}

    @functools.cached_property
    def revision(self) -> str:
        """20 hexadecimal characters over weights and configurations of autoencoder and text encoders, the
        tokenizers, the length of the text and the prompt.
        """
        self.load("vae", "text")
        digest = hashlib.sha256()
        for name in _FROZEN:
            module: Any = getattr(self, name)
            config = module.config.to_dict() if hasattr(module.config, "to_dict") else dict(module.config)
            config = {k: v for k, v in config.items() if not k.startswith("_") and "version" not in k}
            digest.update(json.dumps([name, config], sort_keys=True, default=str).encode())
            for key, value in sorted(module.state_dict().items()):
                digest.update(f"{key} {value.dtype} {tuple(value.shape)}".encode())
                digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        for tokenizer in (self.tokenizer, self.tokenizer_2):
            words = sorted(tokenizer.get_vocab().items())
            digest.update(json.dumps([words, tokenizer.model_max_length]).encode())
        if self.max_text_tokens is not None:
            digest.update(f"max_text_tokens {self.max_text_tokens}".encode())
        if self.prompt != _CAPTION:
            digest.update(f"prompt {self.prompt}".encode())
        return digest.hexdigest()[:20]


def _attribute(component: str) -> str:
    return "denoiser" if component == "transformer" else component
