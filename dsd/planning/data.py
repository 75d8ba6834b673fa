"""What making and storing the pairs takes: drawing and encoding counted on the meta device, rows as they are
written.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from dsd.backbones.base import Batch, Text
from dsd.backbones.flux import FluxBackbone
from dsd.backbones.packing import grid_ids, pack
from dsd.counting import tflop
from dsd.data.encodings import Encoding, encodings
from dsd.grids import Layout
from dsd.planning.records import Data, Disk

_ID_BYTES = 20


def grid_tflop(backbone: FluxBackbone, height: int, width: int, num_steps: int, text_tokens: int) -> float:
    """TFLOP of one picture: the caption encoded, all steps of the sampler, the latents decoded.

    Args:
        backbone: on the meta device, with all parts, and as it was loaded: without conditioning or adapters.
        height: in pixels.
        width: in pixels.
        num_steps: of the sampler.
        text_tokens: length of the caption.
    """
    assert backbone.denoiser is not None
    config = backbone.denoiser.config
    with torch.device("meta"), torch.no_grad():
        latents = torch.empty(1, *backbone.latent_shape(height, width))
        text = Text(
            tokens=torch.empty(1, text_tokens, config.joint_attention_dim),
            pooled=torch.empty(1, config.pooled_projection_dim),
        )
        time = torch.ones(1)

    def step() -> Tensor:
        ids = grid_ids(*latents.shape[-2:])
        return backbone.call(pack(latents), time, text, ids)

    with torch.no_grad():
        drawn = num_steps * tflop(step) + tflop(lambda: backbone.decode(latents))
        return drawn + text_tflop(backbone, text_tokens)


def text_tflop(backbone: FluxBackbone, text_tokens: int) -> float:
    """TFLOP of a caption in both text encoders."""
    total = 0.0
    for name, length in (("text_encoder", None), ("text_encoder_2", text_tokens)):
        encoder: Any = getattr(backbone, name)
        length = length or encoder.config.max_position_embeddings
        ids = torch.zeros(1, length, dtype=torch.long, device="meta")
        with torch.no_grad():
            total += tflop(lambda ids=ids, encoder=encoder: encoder(input_ids=ids))  # type: ignore[misc]
    return total


def encode_tflop(backbone: FluxBackbone, encode: Any, text_tokens: int) -> float:
    """TFLOP of a pair in the cache of encodings: its pictures and its caption.

    Args:
        backbone: on the meta device, with all parts.
        encode: what encodes the pictures of one pair.
        text_tokens: length of the caption.
    """
    with torch.no_grad():
        return tflop(encode) + text_tflop(backbone, text_tokens)


def data_cost(
    *,
    pairs: int,
    pairs_per_grid: int,
    kept: float,
    grid: float,
    encode: float,
    judge_usd: float,
    tflops: float,
    usd_per_hour: float,
) -> Data:
    """Numbers and costs of drawing, judging and encoding.

    Args:
        pairs: that are to be kept.
        pairs_per_grid: candidates of one grid.
        kept: share of the candidates that curation keeps.
        grid: TFLOP of one grid.
        encode: TFLOP of encoding one pair.
        judge_usd: of one judgement.
        tflops: what a device really does in a second.
        usd_per_hour: of a device.
    """
    grids = math.ceil(pairs / (pairs_per_grid * kept))
    candidates = grids * pairs_per_grid
    draw_hours, encode_hours = (x / tflops / 3600 for x in (grids * grid, pairs * encode))
    return Data(
        pairs=pairs,
        grids=grids,
        candidates=candidates,
        grid_tflop=grid,
        draw_device_hours=draw_hours,
        draw_usd=draw_hours * usd_per_hour,
        judge_usd=candidates * judge_usd,
        encode_tflop=encode,
        encode_device_hours=encode_hours,
        encode_usd=encode_hours * usd_per_hour,
    )


def disk(
    batch: Batch,
    *,
    pairs: int,
    grids: int,
    layout: Layout,
    frame: tuple[int, int],
    png_bytes_per_pixel: float,
    checkpoint: int,
) -> Disk:
    """What is stored.

    Args:
        batch: one pair, encoded, in the type in which it is stored.
        pairs: that are kept and encoded.
        grids: that are drawn.
        layout: of a grid.
        frame: (height, width) of a panel, in pixels.
        png_bytes_per_pixel: of pictures.
        checkpoint: bytes of a checkpoint.
    """
    target = row_bytes({"target": batch.target[0]})
    reference = row_bytes(_tensors(batch.reference))
    text = row_bytes(_tensors(batch.text))
    drawn = grids * layout.rows * layout.columns
    panels = min(pairs, drawn)  # each is one reference and has one caption
    # Once in the grids, once in the pairs, where the pairs of one grid share their panels.
    pixels = 2 * drawn * frame[0] * frame[1]
    return Disk(
        target=target,
        reference=reference,
        text=text,
        references=panels,
        captions=panels + 1,  # the empty one, for guidance
        cache=pairs * target + panels * reference + (panels + 1) * text,
        pictures=round(pixels * png_bytes_per_pixel),
        checkpoint=checkpoint,
    )


def row_bytes(tensors: Mapping[str, Tensor]) -> int:
    """Size of a row of the cache with these tensors: the row itself, as the stage `encode` makes it."""
    (row,) = encodings("plan").to_rows([Encoding(id="0" * _ID_BYTES, tensors=tensors)])
    return len(row["tensors"]) + 3 * _ID_BYTES


def _tensors(record: Any) -> dict[str, Tensor]:
    return {name: x[0].contiguous() for name, x in vars(record).items() if isinstance(x, Tensor)}
