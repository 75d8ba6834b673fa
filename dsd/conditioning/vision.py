"""Frozen vision models that turn a reference into tokens.

A spec says which one:

- `"mini"`: the encoder inside dsd, which knows the characters of the small world and nothing else;
- a folder or an id on the Hub with any vision model of transformers (of a two-tower model such as SigLIP, its
  vision tower), or `{"kind": "transformers", "model": ..., "layer": ..., "revision": ...}`;
- `{"kind": "timm", "model": ..., "pretrained": ...}`, where the model may be "local-dir:FOLDER" or
  "hf-hub:ID".
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

from dsd import mini
from dsd.pixels import Pixels, from_pixels

Form = Literal["patch", "pooled"]
Spec = str | Mapping[str, Any]

_ALLOWED = {
    "transformers": {"model", "layer", "revision", "local_files_only", "processor"},
    "timm": {"model", "pretrained"},
}


@dataclass(frozen=True, kw_only=True)
class VisionEncoder:
    """A frozen model with its image processing.

    Attributes:
        model: in float32 and evaluation mode.
        prepare: pictures to the model's input.
        forward: the model's input to tokens, one for a pooled vector.
        width: length of a token.
        components: model and processor, by the names that `FluxPipeline` has for them; empty for packages
            whose models a diffusers folder does not hold.
    """

    model: nn.Module
    prepare: Callable[[list[Image.Image]], Tensor]
    forward: Callable[[Tensor], Float[Tensor, "b m d"]]
    width: int
    components: Mapping[str, Any]

    @torch.no_grad()
    def __call__(self, pixels: Pixels, device: torch.device) -> Float[Tensor, "b m d"]:
        """Pixels in [-1, 1] to tokens. They pass through 8-bit pictures, so that the model's own processor
        sees what it would see in a stock pipeline.
        """
        if not _is_offloaded(self.model):  # else its hooks bring it, or a part of it at a time
            self.model.to(device)
        return self.forward(self.prepare(from_pixels(pixels, "pil")).to(device))


def _is_offloaded(model: nn.Module) -> bool:
    """Whether hooks of accelerate or diffusers say where its weights are."""
    hooks = ("_hf_hook", "_diffusers_hook")
    return any(getattr(module, name, None) is not None for module in model.modules() for name in hooks)


def load(spec: Spec, form: Form) -> VisionEncoder:
    """The encoder that a spec stands for.

    Args:
        spec: see this module.
        form: "patch" for a token for each patch, the class token among them if there is one; "pooled" for the
            model's one vector: of CLIP, the projected one.

    Raises:
        LookupError: if there is no such kind.
        TypeError: if an argument is unknown or missing.
        ValueError: if the model lacks what is asked for.
        FileNotFoundError, OSError: if there is no such model.
        ModuleNotFoundError: if timm is asked for and not installed.
    """
    kind, arguments = _parsed(spec, form)
    return _timm(form, **arguments) if kind == "timm" else _transformers(form, **arguments)


def width(spec: Spec, form: Form) -> int:
    """Length of the encoder's tokens; of a transformers model only the configuration is read.

    Raises:
        LookupError, TypeError, FileNotFoundError, OSError: as `load`.
    """
    kind, arguments = _parsed(spec, form)
    if kind == "timm":
        return _timm(form, **arguments).width
    return _width(_vision_config(arguments), form, arguments.get("layer", -1))


def moved(spec: Spec, form: Form, model: Path, processor: Path) -> Spec:
    """The same encoder from other folders, one with the model, one with its processor. One of timm stays
    where it is.

    Raises:
        LookupError, TypeError: as `load`.
    """
    kind, arguments = _parsed(spec, form)
    if kind == "timm":
        return spec
    kept = {"layer": arguments["layer"]} if "layer" in arguments else {}
    return {"model": str(model), "processor": str(processor), **kept}


def _parsed(spec: Spec, form: Form) -> tuple[str, dict[str, Any]]:
    if not isinstance(spec, str | Mapping):
        raise TypeError(
            'An encoder is "mini", a folder, a Hub id or {"kind": ..., "model": ...}; got '
            f"{spec!r} of type {type(spec).__name__}."
        )
    if spec == "mini":
        # 4 x 4 tokens of the last stage but one: the last has 2 x 2 left.
        spec = {"model": str(mini.identity_encoder_path()), **({"layer": -2} if form == "patch" else {})}
    arguments = {"model": spec} if isinstance(spec, str) else dict(spec)
    kind = arguments.pop("kind", "transformers")
    if kind not in _ALLOWED:
        raise LookupError(f"No encoder is of the kind {kind!r}. Known: {', '.join(_ALLOWED)}.")
    unknown = sorted(arguments.keys() - _ALLOWED[kind])
    if unknown or "model" not in arguments:
        problem = f"has no argument {unknown[0]!r}" if unknown else "needs the argument 'model'"
        raise TypeError(f"The encoder {kind!r} {problem}. Allowed: {', '.join(sorted(_ALLOWED[kind]))}.")
    layer = arguments.get("layer", -1)
    if not isinstance(layer, int) or layer >= 0:
        raise ValueError(f"`layer` counts from the last: -1, -2, ...; got {layer!r}.")
    return kind, arguments


def _source(arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {name: arguments[name] for name in ("revision", "local_files_only") if name in arguments}


def _vision_config(arguments: Mapping[str, Any]) -> Any:
    from transformers import AutoConfig

    model = str(arguments["model"])
    if not Path(model).expanduser().is_dir() and (model.startswith((".", "/", "~")) or model.count("/") > 1):
        raise FileNotFoundError(
            f"There is no folder {model!r}. Give one with a vision model of transformers, or a Hub id such "
            "as 'google/siglip-so400m-patch14-384'."
        )
    config = AutoConfig.from_pretrained(model, **_source(arguments))
    return getattr(config, "vision_config", config)


def _width(config: Any, form: Form, layer: int) -> int:
    if form == "pooled" and config.model_type == "clip_vision_model":
        return int(config.projection_dim)
    sizes = getattr(config, "hidden_sizes", None)  # of a convolutional network, stage by stage
    if sizes is None:
        return int(config.hidden_size)
    if form == "patch" and -layer > len(sizes):
        raise ValueError(f"The model has {len(sizes)} stages; there is no layer {layer}.")
    return int(sizes[layer if form == "patch" else -1])


def _transformers(
    form: Form, *, model: str, layer: int = -1, processor: str | None = None, **source: Any
) -> VisionEncoder:
    from transformers import AutoImageProcessor, AutoModel, CLIPVisionModelWithProjection

    config = _vision_config({"model": model, **source})
    projects = form == "pooled" and config.model_type == "clip_vision_model"
    loader: Any = CLIPVisionModelWithProjection if projects else AutoModel
    net, report = loader.from_pretrained(
        model, config=config, output_loading_info=True, dtype=torch.float32, **source
    )
    net = net.eval().requires_grad_(False)
    lacking = sorted(key for key in report["missing_keys"] if form == "pooled" or "pool" not in key)
    if lacking:  # transformers makes them up
        raise ValueError(
            f"{str(model)!r} lacks weights of {type(net).__name__} that the form {form!r} needs, such as "
            f"{lacking[0]!r}. Give another model, or the other form: 'patch' or 'pooled'."
        )
    images = AutoImageProcessor.from_pretrained(processor or model, **source)

    def prepare(pictures: list[Image.Image]) -> Tensor:
        pixels: Tensor = images(images=pictures, return_tensors="pt")["pixel_values"]
        return pixels

    def forward(pixels: Tensor) -> Tensor:
        output = net(pixel_values=pixels, output_hidden_states=form == "patch" and layer != -1)
        if projects:
            return output.image_embeds[:, None]
        if form == "pooled":
            if output.get("pooler_output") is None:
                raise ValueError(f"{str(model)!r} pools nothing. Use the form 'patch'.")
            return output.pooler_output.flatten(1)[:, None]
        return _sequence(output.last_hidden_state if layer == -1 else output.hidden_states[layer], True)

    return VisionEncoder(
        model=net,
        prepare=prepare,
        forward=forward,
        width=_width(config, form, layer),
        components={"image_encoder": net, "feature_extractor": images},
    )


def _timm(form: Form, *, model: str, pretrained: bool = True) -> VisionEncoder:
    try:
        import timm
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "An encoder of the kind 'timm' needs a package that is not installed. "
            "Install it: pip install 'diffusion-self-distillation[timm]'"
        ) from error
    net: Any = timm.create_model(model, pretrained=pretrained, num_classes=0)
    net = net.float().eval().requires_grad_(False)
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(net), is_training=False)

    def prepare(pictures: list[Image.Image]) -> Tensor:
        return torch.stack([transform(picture) for picture in pictures])

    def forward(pixels: Tensor) -> Tensor:
        if form == "pooled":
            return net(pixels)[:, None]
        features = net.forward_features(pixels)
        return _sequence(features, features.shape[1] == net.num_features)

    return VisionEncoder(
        model=net, prepare=prepare, forward=forward, width=int(net.num_features), components={}
    )


def _sequence(features: Tensor, channels_first: bool) -> Float[Tensor, "b m d"]:
    """Tokens as they are; a map as tokens row by row."""
    if features.ndim == 3:
        return features
    return features.flatten(2).transpose(1, 2) if channels_first else features.flatten(1, 2)
