"""A vision encoder reads the reference, and each double block of the denoiser attends to its tokens."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

import torch
from diffusers.models.embeddings import ImageProjection, IPAdapterPlusImageProjection
from diffusers.models.transformers.transformer_flux import FluxIPAdapterAttnProcessor
from safetensors.torch import load_file, save_file
from torch import nn

from dsd import pixels
from dsd.backbones.base import Backbone, Pixels, Reference, ReferencePixels, Text
from dsd.backbones.packing import grid_ids, pack
from dsd.conditioning import vision
from dsd.conditioning.base import Canvas, Conditioning, Inputs, Times, one_of

logger = logging.getLogger(__name__)

FILE = "ip_adapter.safetensors"
DEFAULT_ENCODER = "google/siglip-so400m-patch14-384"
_HEAD_WIDTH = 64
_FLUX_TEXT_WIDTH = 4096
_KEY_BIAS = "to_k_ip.0.bias"


class IPAdapter(Conditioning):
    r"""Tokens of a frozen vision encoder, brought to the width of the text by a small trained network, and in
    every double block a cross-attention of the image tokens to them.

    After block i, $h \leftarrow h + \mathrm{softmax}(q (c K_i)^T / \sqrt{d}) \, c V_i$, where q are the
    block's own queries before their rotation and c the projected tokens: diffusers'
    `FluxIPAdapterAttnProcessor`. $V_i$ starts at zero. The reference may have any shape, and there may be
    several; the encoder limits which details arrive.

    A reference of zeros ("no image") is encoder tokens of zeros, sent through the trained projection: a
    constant that `reference_dropout` teaches what drawing without a reference is. In stock pipelines it is
    `negative_ip_adapter_image_embeds` of zeros (not a black picture, which they take by default).

    Args:
        encoder: the frozen vision model, see `dsd.conditioning.vision`; None for SigLIP (so400m) where the
            base's text is as wide as FLUX.1's, and for the embedded "mini" where it is narrower.
        tokens: "patch" reads all of the encoder's patch tokens through a perceiver resampler,
            diffusers' `IPAdapterPlusImageProjection`. "pooled" reads one vector through a linear layer,
            `ImageProjection`, in the layout of XLabs that `FluxPipeline.load_ip_adapter` reads: quick to use
            in stock pipelines, but it carries little identity.
        num_tokens: how many tokens the blocks attend to; None for 16 from patches and 4 pooled. Pooled, 4 or
            16; stock pipelines read 16 only if the text is 4096 wide.
        depth: layers of the resampler.
        width: of the resampler, a multiple of 64; None for the encoder's own width, rounded up.
        fit: how the reference is cut before the encoder's own processing: "cover" and "contain" bring it into
            the target's frame, "keep" leaves it as it is.

    Raises:
        ValueError: for a choice that does not exist or a number out of its range.

    References:
        Ye et al., *IP-Adapter*, 2023, https://arxiv.org/abs/2308.06721; for FLUX.1 as XLabs' x-flux has it.
    """

    takes_several: ClassVar[bool] = True
    stock_pipeline = "FluxPipeline"

    def __init__(
        self,
        encoder: str | Mapping[str, Any] | None = None,
        tokens: vision.Form = "patch",
        num_tokens: int | None = None,
        depth: int = 2,
        width: int | None = None,
        fit: Literal["cover", "contain", "keep"] = "cover",
    ) -> None:
        super().__init__()
        self.form = cast(vision.Form, one_of("tokens", tokens, ("patch", "pooled")))
        self.num_tokens = {"patch": 16, "pooled": 4}[tokens] if num_tokens is None else num_tokens
        if tokens == "pooled" and self.num_tokens not in (4, 16):
            raise ValueError(f"Pooled, an IP-Adapter has 4 or 16 tokens; got num_tokens={num_tokens}.")
        if self.num_tokens < 1 or depth < 1 or (width is not None and (width < 1 or width % _HEAD_WIDTH)):
            raise ValueError(
                f"num_tokens={num_tokens}, depth={depth}, width={width}: all must be positive, and the width "
                f"a multiple of {_HEAD_WIDTH}."
            )
        self.encoder, self.depth, self.width = encoder, depth, width
        self.fit = one_of("fit", fit, list(_FITS))
        self.image_proj: nn.Module | None = None
        self._adapters: dict[str, nn.Module] = {}  # the denoiser's modules
        self._spec: vision.Spec | None = encoder
        self._vision: vision.VisionEncoder | None = None  # frozen, and no submodule: in no checkpoint

    def install(self, denoiser: nn.Module) -> None:
        """Put an attention processor into each double block, and make the projection.

        Raises:
            ValueError: if the denoiser has such processors already.
        """
        flux: Any = denoiser
        if any(isinstance(p, FluxIPAdapterAttnProcessor) for p in flux.attn_processors.values()):
            raise ValueError("The base has an IP-Adapter already. Unload it first (`unload_ip_adapter`).")
        text_width = flux.config.joint_attention_dim
        spec = self._choose_encoder(text_width)
        if self.form == "pooled" and self.num_tokens == 16 and text_width != 4096:
            logger.warning(
                "FluxPipeline.load_ip_adapter takes an adapter for one of 16 tokens only if the text is 4096 "
                "wide; here it is %d, so stock pipelines will refuse the saved file.",
                text_width,
            )
        projection = self._projection(vision.width(spec, self.form), text_width)
        processors = _new_processors(flux, self.num_tokens)
        with torch.no_grad():
            for module in processors.values():
                processor: Any = module
                processor.to_v_ip[0].weight.zero_()
                processor.to_v_ip[0].bias.zero_()
                processor.to_k_ip[0].bias.zero_()
        self._attach(flux, projection, processors)

    def restore(self, denoiser: nn.Module, folder: Path) -> None:
        """Load what `save` wrote, or another adapter in XLabs' layout under the same name.

        Raises:
            FileNotFoundError: if there is no such file in the folder.
            ValueError: if it is of the other form, or does not fit the denoiser.
        """
        flux: Any = denoiser
        path = folder / FILE
        if not path.is_file():
            raise FileNotFoundError(
                f"There is no {FILE} in {str(folder)!r}. Give a student that was saved with the conditioning "
                "'ip_adapter'."
            )
        state = load_file(path)
        form = "pooled" if "ip_adapter_proj_model.proj.weight" in state else "patch"
        if form != self.form:
            raise ValueError(f"{str(path)!r} is an adapter of the form tokens={form!r}, not {self.form!r}.")
        text_width = flux.config.joint_attention_dim
        try:
            if form == "pooled":
                rows, embed = state["ip_adapter_proj_model.proj.weight"].shape
                self.num_tokens = rows // text_width
            else:
                self.num_tokens = state["image_proj.latents"].shape[1]
                self.width, embed = state["image_proj.proj_in.weight"].shape
                self.depth = sum(name.endswith(".ln0.weight") for name in state)
            projection = self._projection(embed, text_width)
            processors = _new_processors(flux, self.num_tokens)
            holder = _holder(projection, processors)
            names = {_their_name(name, form): name for name in holder.state_dict()}
            holder.load_state_dict({names.get(name, name): value for name, value in state.items()})
        except (KeyError, RuntimeError) as error:
            raise ValueError(
                f"{str(path)!r} does not fit a denoiser with {flux.config.num_layers} double blocks of width "
                f"{flux.inner_dim} and text of width {text_width}: {error}"
            ) from error
        spec = self._choose_encoder(text_width)
        if (folder / "image_encoder").is_dir():  # the folder stands alone
            self._spec = vision.moved(spec, self.form, folder / "image_encoder", folder / "feature_extractor")
        self._attach(flux, projection, processors)

    def save(self, folder: Path) -> None:
        """Write projection and processors as one file.

        Pooled, `FluxPipeline.load_ip_adapter(folder, weight_name="ip_adapter.safetensors")` loads it. In
        patch form the blocks' layers have the same names, and the projection is a state dict of diffusers'
        `IPAdapterPlusImageProjection`, which its loader for FLUX.1 does not make.
        """
        state = _holder(self._projected, self._adapters).state_dict()
        tensors = {
            _their_name(name, self.form): value.detach().cpu().clone().contiguous()
            for name, value in state.items()
        }
        save_file(tensors, folder / FILE, metadata={"format": "pt"})

    def components(self) -> dict[str, Any]:
        """The vision encoder and its image processor, where a diffusers folder can hold them."""
        return dict(self._loaded.components)

    def trained(self, denoiser: nn.Module) -> dict[str, nn.Parameter]:
        """Projection and the processors' keys and values, but for the keys' biases: they shift all scores of
        a query alike, which a softmax does not see.
        """
        state = {f"image_proj.{name}": p for name, p in self._projected.named_parameters()}
        for block, processor in self._adapters.items():
            state |= {f"{block}.{name}": p for name, p in processor.named_parameters() if name != _KEY_BIAS}
        return state

    def fitted(self, reference: Pixels, height: int, width: int) -> pixels.FramePixels:
        """As `fit` says; the encoder's own processing follows in `encode`."""
        return _FITS[self.fit](reference, height, width)

    def encode(self, backbone: Backbone, reference: ReferencePixels) -> Reference:
        """The vision encoder's tokens, those of several references one after the other."""
        if self._spec is None:  # nothing is installed: only the cache is filled
            self._choose_encoder(backbone.encode_text([""]).tokens.shape[-1])
        count = reference.shape[1] if reference.ndim == 5 else 1
        flat = reference.flatten(0, 1) if reference.ndim == 5 else reference
        tokens = self._loaded(flat, backbone.device)
        return Reference(tokens=tokens.reshape(-1, count * tokens.shape[1], tokens.shape[2]))

    def inputs(
        self, x_t: Canvas, t: Times, reference: Reference, text: Text, guidance: float | Times = 1.0
    ) -> Inputs:
        """The noisy tokens, and the projected ones for the blocks' processors."""
        assert reference.tokens is not None
        tokens = reference.tokens
        autocast = torch.is_autocast_enabled(x_t.device.type)
        projection = self._projected
        tokens = tokens.to(tokens.dtype if autocast else next(projection.parameters()).dtype)
        if self.form == "pooled":
            projected = projection(tokens.flatten(0, 1)).unflatten(0, tokens.shape[:2]).flatten(1, 2)
        else:
            projected = projection(tokens)
        if not autocast:
            projected = projected.to(x_t.dtype)
        return Inputs(
            tokens=pack(x_t),
            ids=grid_ids(x_t.shape[-2], x_t.shape[-1], x_t.device),
            arguments={"joint_attention_kwargs": {"ip_hidden_states": [projected]}},
        )

    @property
    def _projected(self) -> nn.Module:
        if self.image_proj is None:
            raise ValueError("The IP-Adapter has no weights yet. Call `install` or `restore` first.")
        return self.image_proj

    @property
    def _loaded(self) -> vision.VisionEncoder:
        if self._vision is None:
            assert self._spec is not None
            self._vision = vision.load(self._spec, self.form)
        return self._vision

    def _choose_encoder(self, text_width: int) -> vision.Spec:
        if self._spec is None:
            self._spec = DEFAULT_ENCODER if text_width >= _FLUX_TEXT_WIDTH else "mini"
        return self._spec

    def _projection(self, embed: int, text_width: int) -> nn.Module:
        if self.form == "pooled":
            return ImageProjection(
                image_embed_dim=embed, cross_attention_dim=text_width, num_image_text_embeds=self.num_tokens
            )
        width = self.width or -(-embed // _HEAD_WIDTH) * _HEAD_WIDTH
        return IPAdapterPlusImageProjection(
            embed_dims=embed,
            output_dims=text_width,
            hidden_dims=width,
            depth=self.depth,
            dim_head=_HEAD_WIDTH,
            heads=width // _HEAD_WIDTH,
            num_queries=self.num_tokens,
        )

    def _attach(self, flux: Any, projection: nn.Module, processors: Mapping[str, nn.Module]) -> None:
        """Hand projection and processors over, in the denoiser's dtype and on its device."""
        for module in (projection, *processors.values()):
            module.to(flux.device, flux.dtype)
        self.image_proj = projection
        flux.set_attn_processor({**flux.attn_processors, **processors})
        self._adapters = dict(processors)


def _keep(picture: Pixels, height: int, width: int) -> pixels.FramePixels:
    return picture


_FITS = {**pixels.FITS, "keep": _keep}


def _new_processors(flux: Any, num_tokens: int) -> dict[str, nn.Module]:
    """A fresh processor for each double block, by the name that the denoiser has for it."""
    names = [name for name in flux.attn_processors if name.startswith("transformer_blocks.")]
    return {
        name: FluxIPAdapterAttnProcessor(
            hidden_size=flux.inner_dim,
            cross_attention_dim=flux.config.joint_attention_dim,
            num_tokens=(num_tokens,),
        )
        for name in names
    }


def _holder(projection: nn.Module, processors: Mapping[str, nn.Module]) -> nn.Module:
    """Projection and processors as one module, in the order of the blocks."""
    return nn.ModuleDict({"image_proj": projection, "blocks": nn.ModuleList(processors.values())})


def _their_name(ours: str, form: vision.Form) -> str:
    """The name in the file of a tensor of `_holder`: XLabs', or, for the resampler, diffusers' own."""
    kind, _, name = ours.partition(".")
    if kind == "image_proj":
        return f"ip_adapter_proj_model.{name.replace('image_embeds', 'proj')}" if form == "pooled" else ours
    block, layer, _, leaf = name.split(".")
    return f"double_blocks.{block}.processor.ip_adapter_double_stream_{layer[3]}_proj.{leaf}"
