"""Latents to FLUX tokens and back: 2x2 patches of latents, row by row, channel-major inside a token.

By the static helpers of diffusers' `FluxPipeline`, so that our tokens are its tokens.
"""

import functools

import torch
from diffusers import FluxPipeline
from jaxtyping import Float
from torch import Tensor


def pack(latents: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n d"]:
    """Latents to tokens: n = h w / 4, d = 4 c. Height and width must be even."""
    b, c, h, w = latents.shape
    tokens: Tensor = FluxPipeline._pack_latents(latents, b, c, h, w)
    return tokens


def unpack(tokens: Float[Tensor, "b n d"], height: int, width: int) -> Float[Tensor, "b c h w"]:
    """Tokens back to latents of `height` x `width`."""
    latents: Tensor = FluxPipeline._unpack_latents(tokens, height, width, 1)
    return latents


@functools.lru_cache(maxsize=64)
def grid_ids(height: int, width: int, device: torch.device | None = None) -> Float[Tensor, "n 3"]:
    """Position ids (0, row, column) of the tokens of latents of `height` x `width`. Kept: do not write into
    them.
    """
    with torch.inference_mode(
        False
    ):  # kept for training too, where tensors made in inference mode are refused
        ids: Tensor = FluxPipeline._prepare_latent_image_ids(
            1, height // 2, width // 2, device or torch.device("cpu"), torch.float32
        )
    return ids
