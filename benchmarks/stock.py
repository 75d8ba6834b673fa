"""How each conditioning's design is run by the stock classes alone."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dsd import Student
from dsd.backbones import Text
from dsd.pixels import from_pixels

FRAME = 192
GUIDANCE = 3.5


@dataclass(frozen=True)
class Setting:
    """A conditioning and how its design is run without dsd.

    Attributes:
        spec: of the conditioning.
        predict: (student, noisy tokens, their ids, times, ready-made reference, text) to the output tokens.
        draw: (stock pipeline, reference in [-1, 1], common arguments) to pictures.
    """

    spec: Mapping[str, Any]
    predict: Callable[[Student, Tensor, Tensor, Tensor, Tensor, Text], Tensor]
    draw: Callable[..., Tensor]


def _flux(
    flux: Any, x: Tensor, ids: Tensor, t: Tensor, text: Text, name: str = "transformer", **extra: Any
) -> Any:
    output = flux(
        hidden_states=x,
        timestep=t,
        guidance=t.new_full((len(x),), GUIDANCE),
        pooled_projections=text.pooled,
        encoder_hidden_states=text.tokens,
        txt_ids=ids.new_zeros(text.tokens.shape[1], 3),
        img_ids=ids,
        return_dict=False,
        **extra,
    )
    return output if name == "controlnet" else output[0]


def by_channel(student: Student, x: Tensor, ids: Tensor, t: Tensor, seen: Tensor, text: Text) -> Tensor:
    """As FluxControlPipeline."""
    return _flux(student.denoiser, torch.cat([x, seen], dim=-1), ids, t, text)


def by_sequence(student: Student, x: Tensor, ids: Tensor, t: Tensor, seen: Tensor, text: Text) -> Tensor:
    """As FluxKontextPipeline."""
    beside = ids.clone()
    beside[:, 0] = 1
    output = _flux(student.denoiser, torch.cat([x, seen], dim=1), torch.cat([ids, beside]), t, text)
    return output[:, : x.shape[1]]


def by_controlnet(student: Student, x: Tensor, ids: Tensor, t: Tensor, seen: Tensor, text: Text) -> Tensor:
    """As FluxControlNetPipeline."""
    network: Any = student.conditioning.controlnet
    double, single = _flux(network, x, ids, t, text, "controlnet", controlnet_cond=seen)
    residuals = {"controlnet_block_samples": double, "controlnet_single_block_samples": single}
    return _flux(student.denoiser, x, ids, t, text, **residuals)


def by_attention(student: Student, x: Tensor, ids: Tensor, t: Tensor, seen: Tensor, text: Text) -> Tensor:
    """As FluxPipeline with an IP-Adapter."""
    projection: Any = student.conditioning.image_proj
    kwargs = {"ip_hidden_states": [projection(seen[:, 0])]}
    return _flux(student.denoiser, x, ids, t, text, joint_attention_kwargs=kwargs)


def draw_frames(pipe: Any, reference: Tensor, **arguments: Any) -> Tensor:
    """Two frames by FluxControlPipeline; the second is the answer."""
    arguments["width"] *= 2
    control = torch.cat([reference, torch.full_like(reference, -1.0)], dim=-1)
    return pipe(control_image=control, **arguments).images.chunk(2, dim=-1)[1]


def draw_control(pipe: Any, reference: Tensor, **arguments: Any) -> Tensor:
    """One frame by FluxControlPipeline or FluxControlNetPipeline."""
    return pipe(control_image=reference, **arguments).images


def draw_kontext(pipe: Any, reference: Tensor, **arguments: Any) -> Tensor:
    """By FluxKontextPipeline, in the reference's own size."""
    size = {"max_area": FRAME * FRAME, "_auto_resize": False}
    return pipe(image=reference / 2 + 0.5, **size, **arguments).images


def draw_adapter(pipe: Any, reference: Tensor, **arguments: Any) -> Tensor:
    """By FluxPipeline with `load_ip_adapter`; the embedded encoder names its output otherwise than CLIP."""
    pixels = pipe.feature_extractor(images=from_pixels(reference), return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        tokens = pipe.image_encoder(pixels).pooler_output.flatten(1)[:, None]
    embeds = {"ip_adapter_image_embeds": [tokens]}
    embeds["negative_ip_adapter_image_embeds"] = [torch.zeros_like(tokens)]
    return pipe(**embeds, **arguments).images


SETTINGS = {
    "parallel": Setting({"name": "parallel"}, by_channel, draw_frames),
    "concat": Setting({"name": "concat"}, by_channel, draw_control),
    "token_concat": Setting({"name": "token_concat"}, by_sequence, draw_kontext),
    "controlnet": Setting({"name": "controlnet"}, by_controlnet, draw_control),
    "ip_adapter": Setting(
        {"name": "ip_adapter", "encoder": "mini", "tokens": "pooled"}, by_attention, draw_adapter
    ),
}
