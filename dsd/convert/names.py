"""The names that Black Forest Labs gave FLUX.1's layers, which single files and ComfyUI use.

Diffusers keeps query, key and value apart where the original has one layer of all three, in single blocks
with the first layer of the MLP in it, and has the last norm's two halves the other way round.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

_OUTER = {
    "time_text_embed.timestep_embedder.linear_1": "time_in.in_layer",
    "time_text_embed.timestep_embedder.linear_2": "time_in.out_layer",
    "time_text_embed.text_embedder.linear_1": "vector_in.in_layer",
    "time_text_embed.text_embedder.linear_2": "vector_in.out_layer",
    "time_text_embed.guidance_embedder.linear_1": "guidance_in.in_layer",
    "time_text_embed.guidance_embedder.linear_2": "guidance_in.out_layer",
    "context_embedder": "txt_in",
    "x_embedder": "img_in",
    "norm_out.linear": "final_layer.adaLN_modulation.1",
    "proj_out": "final_layer.linear",
}
_DOUBLE = {
    "norm1.linear": ("img_mod.lin", 0),
    "norm1_context.linear": ("txt_mod.lin", 0),
    "attn.to_q": ("img_attn.qkv", 0),
    "attn.to_k": ("img_attn.qkv", 1),
    "attn.to_v": ("img_attn.qkv", 2),
    "attn.add_q_proj": ("txt_attn.qkv", 0),
    "attn.add_k_proj": ("txt_attn.qkv", 1),
    "attn.add_v_proj": ("txt_attn.qkv", 2),
    "attn.norm_q": ("img_attn.norm.query_norm", 0),
    "attn.norm_k": ("img_attn.norm.key_norm", 0),
    "attn.norm_added_q": ("txt_attn.norm.query_norm", 0),
    "attn.norm_added_k": ("txt_attn.norm.key_norm", 0),
    "attn.to_out.0": ("img_attn.proj", 0),
    "attn.to_add_out": ("txt_attn.proj", 0),
    "ff.net.0.proj": ("img_mlp.0", 0),
    "ff.net.2": ("img_mlp.2", 0),
    "ff_context.net.0.proj": ("txt_mlp.0", 0),
    "ff_context.net.2": ("txt_mlp.2", 0),
}
_SINGLE = {
    "norm.linear": ("modulation.lin", 0),
    "attn.to_q": ("linear1", 0),
    "attn.to_k": ("linear1", 1),
    "attn.to_v": ("linear1", 2),
    "proj_mlp": ("linear1", 3),
    "attn.norm_q": ("norm.query_norm", 0),
    "attn.norm_k": ("norm.key_norm", 0),
    "proj_out": ("linear2", 0),
}
_BLOCK = re.compile(r"(?P<kind>transformer|single_transformer)_blocks\.(?P<number>\d+)\.(?P<layer>.+)")
_SWAPPED = "final_layer.adaLN_modulation.1"


@dataclass(frozen=True, kw_only=True)
class Original:
    """A layer under its original name.

    Attributes:
        name: of the layer.
        parts: the layers of diffusers whose rows it holds, one after the other.
        swapped: whether its two halves of rows change places.
        scale: whether its weight is called `scale`: a norm.
    """

    name: str
    parts: tuple[str, ...]
    swapped: bool
    scale: bool


def originals(layers: Iterable[str]) -> list[Original]:
    """The original layers that hold all these layers of diffusers' `FluxTransformer2DModel`.

    Raises:
        ValueError: if one is no layer of it.
    """
    found: dict[str, dict[int, str]] = defaultdict(dict)
    for layer in layers:
        name, part = _place(layer)
        found[name][part] = layer
    return [
        Original(
            name=name,
            parts=tuple(parts[i] for i in sorted(parts)),
            swapped=name == _SWAPPED,
            scale=name.endswith(("query_norm", "key_norm")),
        )
        for name, parts in found.items()
    ]


def _place(layer: str) -> tuple[str, int]:
    """The original layer, and which part of it this one is."""
    if layer in _OUTER:
        return _OUTER[layer], 0
    if match := _BLOCK.fullmatch(layer):
        tables: Mapping[str, tuple[str, Mapping[str, tuple[str, int]]]] = {
            "transformer": ("double_blocks", _DOUBLE),
            "single_transformer": ("single_blocks", _SINGLE),
        }
        block, table = tables[match["kind"]]
        if match["layer"] in table:
            name, part = table[match["layer"]]
            return f"{block}.{match['number']}.{name}", part
    raise ValueError(
        f"{layer!r} is no layer of FLUX.1, so it has no name in single files and in ComfyUI. Export as "
        "'diffusers' instead."
    )
