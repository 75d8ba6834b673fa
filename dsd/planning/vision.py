"""A vision encoder's tokens, from its configuration alone where it has no weights here."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import AutoConfig, AutoModel

from dsd.conditioning import vision
from dsd.conditioning.ip_adapter import DEFAULT_ENCODER
from dsd.counting import CONFIGS

_NAME = "ip_adapter"
_HERE = {
    DEFAULT_ENCODER: CONFIGS / "siglip-so400m-patch14-384",
    "openai/clip-vit-large-patch14": CONFIGS / "clip-vit-large-patch14",
}
_FLUX_TEXT_WIDTH = 4096
_SIDE_PX = 64


def seen_tokens(
    spec: str | Mapping[str, Any], text_width: int, count: int
) -> tuple[str | Mapping[str, Any], Float[Tensor, "count m d"] | None]:
    """A spec whose encoder can be asked without weights, and tokens of ones in the shape that it returns.

    Args:
        spec: of any conditioning.
        text_width: of the base, which decides on the encoder where the spec names none.
        count: how many pictures.

    Returns:
        for conditionings other than `ip_adapter`, the spec as it is and None.

    Raises:
        FileNotFoundError, LookupError, OSError, TypeError: as `dsd.conditioning.vision.load`.
    """
    given = {"name": spec} if isinstance(spec, str) else dict(spec)
    if given.get("name") != _NAME:
        return spec, None
    form: Any = given.get("tokens", "patch")
    default = DEFAULT_ENCODER if text_width >= _FLUX_TEXT_WIDTH else "mini"
    encoder = given.get("encoder") or default
    if isinstance(encoder, str) and encoder in _HERE:
        encoder = str(_HERE[encoder])
    given["encoder"] = encoder
    model = encoder if isinstance(encoder, str) else encoder.get("model", "")
    folder = Path(str(model)).expanduser()
    shape: tuple[int, ...]
    if (folder / "config.json").is_file() and not any(folder.glob("*.safetensors")):
        shape = (_num_tokens(folder) if form == "patch" else 1, vision.width(encoder, form))
    else:
        blank = torch.zeros(1, 3, _SIDE_PX, _SIDE_PX)
        shape = tuple(vision.load(encoder, form)(blank, torch.device("cpu")).shape[1:])
    return given, torch.ones(count, *shape)


def _num_tokens(folder: Path) -> int:
    config = AutoConfig.from_pretrained(folder)
    config = getattr(config, "vision_config", config)
    with torch.device("meta"), torch.no_grad():
        net = AutoModel.from_config(config).eval()
        hidden = net(pixel_values=torch.empty(1, 3, config.image_size, config.image_size)).last_hidden_state
    return int(hidden.shape[1])
