"""A second network reads the reference and adds residuals to the denoiser's blocks."""

import logging
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import FluxControlNetModel
from torch import nn
from torch.nn import functional

from dsd import pixels
from dsd.backbones.base import Backbone, Pixels, Reference, ReferencePixels, Text
from dsd.backbones.packing import grid_ids, pack
from dsd.backbones.times import exact_times
from dsd.conditioning.base import Canvas, Conditioning, Inputs, Times, one_of

logger = logging.getLogger(__name__)

Fit = Literal["contain", "cover", "centre"]
FOLDER = "controlnet"
# diffusers ignores what a config says of the arguments in this list, which are those that a model was made
# without. Nothing must be ignored but the one that a ControlNet does not have.
_EXPLICIT: dict[str, Any] = {"_use_default_values": ["out_channels"]}


class ControlNet(Conditioning):
    r"""A `FluxControlNetModel` beside the denoiser: copies of its first blocks, which see the noisy tokens,
    the caption, the time and the reference's latents, and answer with one residual for each of their blocks.

    $h_0 = W_x x_t + Z c$; residual $r_i = Z_i h_i$ is added after the denoiser's blocks
    $i \lceil N / n \rceil, ..., (i + 1) \lceil N / n \rceil - 1$. All $Z$ start at zero. The reference enters
    token on token, so it must have the target's size (`fit`), and what is copied best is what is aligned.

    A reference of zeros ("no image") is latents of zeros: the network then runs on the noisy tokens and the
    caption alone, and what it adds is what `reference_dropout` has taught it for pairs whose reference is
    hidden. It is silent only before training; the base without it is the stock pipeline's
    `controlnet_conditioning_scale=0`.

    Args:
        num_layers: double blocks of the network, each with a residual; None for 4, or for as many as the base
            has if these are fewer. Blocks beyond the base's start at random instead of as copies.
        num_single_layers: likewise single blocks; None for 10.
        fit: how a reference of another shape comes into the target's frame: "contain" shows all of it between
            black bars (letterboxed), "cover" cuts it around its centre, "centre" does the same without
            scaling, with black around what is smaller.

    Raises:
        ValueError: if a number is negative or both are 0, or there is no such `fit`.

    References:
        Zhang et al., *Adding Conditional Control to Text-to-Image Diffusion Models*, 2023,
        https://arxiv.org/abs/2302.05543; for FLUX.1 in the form of InstantX and diffusers.
    """

    stock_pipeline = "FluxControlNetPipeline"
    controlnet: FluxControlNetModel | None

    def __init__(
        self, num_layers: int | None = None, num_single_layers: int | None = None, fit: Fit = "contain"
    ) -> None:
        super().__init__()
        given = [number for number in (num_layers, num_single_layers) if number is not None]
        if any(number < 0 for number in given) or given == [0, 0]:
            raise ValueError(
                f"A ControlNet of {num_layers} double and {num_single_layers} single blocks adds nothing. "
                "Give numbers of at least 0 that are not both 0."
            )
        self.num_layers, self.num_single_layers = num_layers, num_single_layers
        self.fit = one_of("fit", fit, list(_FITS))
        self.controlnet = None

    def install(self, denoiser: nn.Module) -> None:
        """Make the network from the denoiser's own dimensions and weights; the denoiser stays as it is.

        Raises:
            ValueError: if the denoiser has further input channels, or the network is there already.
        """
        flux: Any = denoiser
        config = flux.config
        if self.controlnet is not None:
            raise ValueError("This ControlNet is installed already. Create another one for another denoiser.")
        if config.out_channels not in (None, config.in_channels):
            raise ValueError(
                f"The base has {config.in_channels} input and {config.out_channels} output channels: it is "
                "no text-to-image model, or a conditioning is installed already. Give a base with as many of "
                "both."
            )
        double, single = self.num_layers, self.num_single_layers
        flux.register_to_config(**_EXPLICIT)
        network = FluxControlNetModel.from_transformer(
            flux,
            num_layers=min(4, config.num_layers) if double is None else double,
            num_single_layers=min(10, config.num_single_layers) if single is None else single,
            attention_head_dim=config.attention_head_dim,
            num_attention_heads=config.num_attention_heads,
        )
        self.controlnet = nn.Module.to(network, flux.device, flux.dtype)

    def restore(self, denoiser: nn.Module, folder: Path) -> None:
        """Load the network that `save` wrote, or another `FluxControlNetModel`, in the denoiser's dtype.

        Raises:
            FileNotFoundError: if there is none in the folder.
            ValueError: if it is of another kind or another size than the denoiser.
        """
        flux: Any = denoiser
        path = folder / FOLDER
        if not path.is_dir():
            raise FileNotFoundError(
                f"There is no folder {FOLDER!r} in {str(folder)!r}. Give a student that was saved with the "
                "conditioning 'controlnet', or a folder of FluxControlNetPipeline.save_pretrained."
            )
        network = FluxControlNetModel.from_pretrained(path, torch_dtype=flux.dtype, use_safetensors=True)
        if network.union or network.input_hint_block is not None:
            raise ValueError(
                f"The network in {str(path)!r} needs a control mode or reads pixels (`num_mode`, "
                "`conditioning_embedding_channels`); only ControlNets of one mode over latents are supported."
            )
        names = ("in_channels", "attention_head_dim", "num_attention_heads", "joint_attention_dim")
        theirs, ours = ({name: model.config[name] for name in names} for model in (network, flux))
        if theirs != ours:
            raise ValueError(f"The network in {str(path)!r} has {theirs}, but the denoiser has {ours}.")
        self.controlnet = network.to(flux.device)

    def save(self, folder: Path) -> None:
        """Write the network as `FluxControlNetPipeline` and `FluxControlNetModel` read it."""
        self._network.save_pretrained(folder / FOLDER, safe_serialization=True)

    def components(self) -> dict[str, Any]:
        """The network, by the stock pipeline's name for it."""
        return {"controlnet": self._network}

    def enable_gradient_checkpointing(self) -> None:
        """Let the network trade time for memory in training."""
        self._network.enable_gradient_checkpointing()

    def trained(self, denoiser: nn.Module) -> dict[str, nn.Parameter]:
        """The network's parameters, but those that no gradient can reach.

        These are the last text branch, where no single block follows, and, where the denoiser's number of
        blocks does not fit the network's, residuals that diffusers never reads; of the latter a warning is
        logged.
        """
        reached = _reached(self._network, denoiser)
        unread = [
            f"{kind}.{i}"
            for kind in ("controlnet_blocks", "controlnet_single_blocks")
            for i in range(len(getattr(self._network, kind)))
            if f"{kind}.{i}.weight" not in reached
        ]
        if unread:
            logger.warning(
                "diffusers spreads n residuals over N blocks in runs of ceil(N / n), so that this denoiser "
                "never reads %s. Take fewer layers.",
                ", ".join(unread),
            )
        return {
            f"{FOLDER}.{name}": parameter
            for name, parameter in self._network.named_parameters()
            if name in reached
        }

    def fitted(self, reference: Pixels, height: int, width: int) -> pixels.FramePixels:
        """In a frame of the target's size."""
        return _FITS[self.fit](reference, height, width)

    def encode(self, backbone: Backbone, reference: ReferencePixels) -> Reference:
        """Latents of the reference."""
        return Reference(latents=backbone.encode_image(reference))

    def inputs(
        self, x_t: Canvas, t: Times, reference: Reference, text: Text, guidance: float | Times = 1.0
    ) -> Inputs:
        """The noisy tokens, and the network's residuals for them.

        Raises:
            ValueError: if the reference's latents are not of the canvas' size.
        """
        assert reference.latents is not None
        if reference.latents.shape != x_t.shape:
            raise ValueError(
                f"A ControlNet needs a reference of the canvas' size: the reference's latents are "
                f"{tuple(reference.latents.shape)} and the canvas {tuple(x_t.shape)}. "
                "Bring the reference to the target's frame first, as `prepare` does."
            )
        network = self._network
        autocast = torch.is_autocast_enabled(x_t.device.type)
        dtype = x_t.dtype if autocast else network.dtype
        tokens, ids = pack(x_t), grid_ids(x_t.shape[-2], x_t.shape[-1], x_t.device)
        told = None
        if network.config.guidance_embeds:
            told = torch.as_tensor(guidance, dtype=torch.float32, device=x_t.device).expand(len(x_t))
        with exact_times(network, t, told):
            residuals = network(
                hidden_states=tokens.to(dtype),
                controlnet_cond=pack(reference.latents).to(dtype),
                timestep=t,
                guidance=told,
                pooled_projections=text.pooled.to(dtype),
                encoder_hidden_states=text.tokens.to(dtype),
                txt_ids=ids.new_zeros(text.tokens.shape[1], 3),
                img_ids=ids,
                return_dict=False,
            )
        if not autocast:  # else a float32 residual would promote the denoiser's bfloat16 states
            residuals = [x and [residual.to(x_t.dtype) for residual in x] for x in residuals]
        return Inputs(
            tokens=tokens,
            ids=ids,
            arguments={
                "controlnet_block_samples": residuals[0],
                "controlnet_single_block_samples": residuals[1],
            },
        )

    @property
    def _network(self) -> FluxControlNetModel:
        if self.controlnet is None:
            raise ValueError("The ControlNet has no network yet. Call `install` or `restore` first.")
        return self.controlnet


def _centre(picture: Pixels, height: int, width: int) -> pixels.FramePixels:
    """Unscaled in the middle: cut where it is larger than the frame, black around it where smaller."""
    h, w = picture.shape[-2:]
    top, left = (height - h) // 2, (width - w) // 2  # negative: so much is cut off
    return functional.pad(picture, (left, width - w - left, top, height - h - top), value=pixels.BLACK)


_FITS = {**pixels.FITS, "centre": _centre}


def _reached(network: FluxControlNetModel, denoiser: nn.Module) -> set[str]:
    """Names of the network's parameters that the denoiser's output depends on.

    They are found by a backward pass of random models with as many blocks, but of the smallest width, so that
    diffusers' own rules decide.
    """
    flux: Any = denoiser
    small = {
        "in_channels": 4,
        "attention_head_dim": 8,
        "num_attention_heads": 1,
        "joint_attention_dim": 4,
        "pooled_projection_dim": 4,
        "axes_dims_rope": (4, 2, 2),
        **_EXPLICIT,
    }
    with torch.random.fork_rng(devices=[]), torch.device("cpu"), torch.enable_grad():
        torch.manual_seed(0)
        copy = FluxControlNetModel.from_config({**network.config, **small})
        plain = type(flux).from_config({**flux.config, **small})
        for layer in (copy.controlnet_x_embedder, *copy.controlnet_blocks, *copy.controlnet_single_blocks):
            layer.reset_parameters()  # they start at zero, where nothing is reached
        given = {
            "hidden_states": torch.randn(1, 2, 4),
            "encoder_hidden_states": torch.randn(1, 2, 4),
            "pooled_projections": torch.randn(1, 4),
            "timestep": torch.rand(1),
            "guidance": torch.rand(1) if copy.config.guidance_embeds else None,
            "img_ids": torch.rand(2, 3),
            "txt_ids": torch.zeros(2, 3),
            "return_dict": False,
        }
        double, single = copy(controlnet_cond=torch.randn(1, 2, 4), **given)
        output = plain(**given, controlnet_block_samples=double, controlnet_single_block_samples=single)[0]
        output.square().sum().backward()
    return {name for name, p in copy.named_parameters() if p.grad is not None and bool(p.grad.any())}
