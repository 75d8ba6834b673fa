"""Feature extractors: pictures to embeddings whose cosine says how alike their subjects are.

Curators and metrics share them. A spec says which one:

- `"mini"`: the encoder inside dsd, which knows the characters of the small world and nothing else;
- `{"kind": "transformers", "model": ...}`: any vision model of transformers, such as "facebook/dinov2-small"
  or "openai/clip-vit-base-patch32", or a folder with one;
- `{"kind": "open_clip", "model": ..., "pretrained": ...}` and `{"kind": "timm", "model": ...}`: models of
  these packages;
- any function from a list of RGB pictures to an array or tensor (n, d);
- `{"kind": "module:build", **arguments}` or `"module:build"`: what makes such a function, imported by its
  name, so that a command line or a manifest can say it. It is given the arguments and, if it takes one, the
  `device`.
"""

import difflib
import importlib
import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from PIL import Image, ImageOps
from torch import Tensor, nn
from torch.nn import functional

from dsd import mini

Pooling = Literal["cls", "mean", "pooler", "projection"]
"""How the tokens of a transformers model become one vector: the class token; the mean of the others; the
model's own pooled output; or that, projected to where CLIP and SigLIP compare pictures with words."""

_REST = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
_CLASS_TOKENS = frozenset({"cls_token", "class_embedding"})

Forward = Callable[[list[Image.Image]], Any]
Spec = str | Mapping[str, Any] | Forward


class Extractor:
    """Pictures of any mode to embeddings of length 1, on the CPU.

    Args:
        forward: a function from RGB pictures to an array or tensor (n, d).
        name: what to call it in messages.
    """

    def __init__(self, forward: Forward, name: str) -> None:
        self._forward, self._name = forward, name

    def __repr__(self) -> str:
        return f"Extractor({self._name})"

    @torch.no_grad()
    def __call__(self, images: Sequence[Image.Image]) -> Float[Tensor, "n d"]:
        """One row a picture, in order.

        Raises:
            ValueError: if there is no picture, or what came back is no such table of finite numbers.
        """
        if not images:
            raise ValueError("No picture given to embed.")
        found = torch.as_tensor(self._forward([rgb(image) for image in images])).detach()
        embeddings = found.to("cpu", torch.float32)
        if embeddings.ndim != 2 or len(embeddings) != len(images):
            raise ValueError(
                f"{self._name} gave {tuple(embeddings.shape)} for {len(images)} pictures. "
                "It must give one row of numbers for each, (n, d)."
            )
        lengths = embeddings.norm(dim=-1)
        if not bool((lengths.isfinite() & (lengths > 0)).all()):
            raise ValueError(f"{self._name} gave a picture an embedding that is zero or not finite.")
        return functional.normalize(embeddings, dim=-1)


def load(extractor: Spec | Extractor = "mini", device: str | torch.device | None = None) -> Extractor:
    """The extractor that a spec stands for; see this module.

    Args:
        extractor: "mini", `{"kind": ..., **arguments}`, "module:build" or a function; an `Extractor` is
            returned as it is.
        device: where a model is to run; by default a GPU if there is one.

    Raises:
        LookupError: if there is no such kind.
        ImportError: if the module of a kind does not import: its own error, unchanged.
        TypeError: if an argument is unknown or missing, or the spec is of another type.
        FileNotFoundError, OSError: if there is no such model.
        ModuleNotFoundError: if the kind's package is not installed, with the command that installs it.
    """
    if isinstance(extractor, Extractor):
        return extractor
    if callable(extractor):
        return Extractor(extractor, getattr(extractor, "__qualname__", type(extractor).__name__))
    if not isinstance(extractor, str | Mapping):
        raise TypeError(
            'An extractor is "mini", {"kind": ..., **arguments} or a function from pictures to (n, d); '
            f"got {extractor!r} of type {type(extractor).__name__}."
        )
    arguments = {"kind": extractor} if isinstance(extractor, str) else dict(extractor)
    kind = arguments.pop("kind", None)
    build = _KINDS[kind] if kind in _KINDS else _imported(kind)
    parameters = {name: p for name, p in inspect.signature(build).parameters.items() if p.kind not in _REST}
    takes_device = parameters.pop("device", None) is not None
    allowed = list(parameters)
    needed = [name for name, p in parameters.items() if p.default is inspect.Parameter.empty]
    wrong = [f"has no argument {name!r}" for name in arguments if name not in allowed]
    wrong += [f"needs the argument {name!r}" for name in needed if name not in arguments]
    if wrong:
        raise TypeError(f"The extractor {kind!r} {wrong[0]}. Allowed: {', '.join(allowed) or 'none'}.")
    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    forward = build(**arguments, **({"device": where} if takes_device else {}))
    if not callable(forward):
        raise TypeError(
            f"The extractor {kind!r} made {forward!r} of type {type(forward).__name__}. It must make a "
            "function from a list of RGB pictures to (n, d)."
        )
    return Extractor(forward, f"the extractor {kind!r}")


def _imported(kind: Any) -> Callable[..., Forward]:
    """What `"module:build"` names."""
    module, colon, name = str(kind).partition(":")
    if not colon:
        near = difflib.get_close_matches(str(kind), _KINDS, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise LookupError(
            f"No extractor is of the kind {kind!r}.{hint} Known: {', '.join(_KINDS)}, and 'module:build'."
        )
    build: Callable[..., Forward] | None = getattr(importlib.import_module(module), name, None)
    if not callable(build):
        raise LookupError(f"The module {module!r} has no function {name!r} that makes an extractor.")
    return build


def rgb(image: Image.Image) -> Image.Image:
    """A picture as RGB: turned as its orientation tag says, transparency laid over white.

    Raises:
        ValueError: if its mode has no fixed range of values.
    """
    if image.mode.startswith("I") or image.mode == "F":
        raise ValueError(
            f"A picture of mode {image.mode!r} has no fixed range of values. Convert it to 'L' or 'RGB'."
        )
    image = ImageOps.exif_transpose(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _mini(*, device: torch.device) -> Forward:
    return _transformers(str(mini.identity_encoder_path()), pooling="pooler", device=device)


def _transformers(
    model: str | Path,
    pooling: str | None = None,
    revision: str | None = None,
    local_files_only: bool = False,
    *,
    device: torch.device,
) -> Forward:
    """A vision model of transformers with its image processor.

    `pooling` is by default the projection where there is one, else the class token where there is one, else
    the model's own pooled output, as of a convolutional network.
    """
    if pooling is not None and pooling not in get_args(Pooling):
        raise ValueError(f"Unknown pooling {pooling!r}. Allowed: {', '.join(get_args(Pooling))}.")
    _check_folder(str(model))
    from transformers import AutoImageProcessor, AutoModel

    source = {"revision": revision, "local_files_only": local_files_only}
    processor = AutoImageProcessor.from_pretrained(model, **source)
    whole, report = AutoModel.from_pretrained(model, output_loading_info=True, **source)
    whole = whole.float().eval().to(device)
    projects = hasattr(whole, "get_image_features")
    vision = whole.vision_model if projects else whole
    prefix = _prefix(vision)
    pooled = pooling or ("projection" if projects else "cls" if _CLASS_TOKENS & set(prefix) else "pooler")
    _check_pooling(pooled, str(model), projects, prefix, report["missing_keys"])

    def forward(images: list[Image.Image]) -> Tensor:
        pixels = processor(images=images, return_tensors="pt")["pixel_values"].to(device)
        if pooled == "projection":
            features = whole.get_image_features(pixel_values=pixels)
            return features if isinstance(features, Tensor) else features.pooler_output  # transformers 4, 5
        output = vision(pixel_values=pixels)
        if pooled == "pooler":
            return output.pooler_output.flatten(1)
        tokens = output.last_hidden_state
        if tokens.ndim == 4:  # a convolutional network's map
            tokens = tokens.flatten(2).transpose(1, 2)
        return tokens[:, 0] if pooled == "cls" else tokens[:, sum(prefix.values()) :].mean(1)

    return forward


def _check_folder(model: str) -> None:
    path = Path(model).expanduser()
    if not path.is_dir() and (model.startswith((".", "/", "~")) or model.count("/") > 1):
        raise FileNotFoundError(
            f"There is no folder {model!r}. Give one with a vision model of transformers, or a Hub id "
            "such as 'facebook/dinov2-small'."
        )


def _prefix(vision: nn.Module) -> dict[str, int]:
    """How many tokens of each kind stand before those of the patches."""
    names = (*_CLASS_TOKENS, "distillation_token", "register_tokens")
    found = {name.rpartition(".")[2]: parameter for name, parameter in vision.named_parameters()}
    return {name: found[name].shape[1] if found[name].ndim == 3 else 1 for name in names if name in found}


def _check_pooling(
    pooling: str, model: str, projects: bool, prefix: Mapping[str, int], missing: Collection[str]
) -> None:
    if pooling == "projection" and not projects:
        raise ValueError(f"{model} projects nothing. Give the pooling 'cls', 'mean' or 'pooler'.")
    if pooling == "cls" and not _CLASS_TOKENS & set(prefix):
        raise ValueError(f"{model} has no class token. Give the pooling 'mean' or 'pooler'.")
    needed = [name for name in missing if pooling == "pooler" or "pooler" not in name]
    if needed:  # transformers would make them up
        raise ValueError(
            f"{model} lacks weights that the pooling {pooling!r} needs, such as {sorted(needed)[0]!r}. "
            "Give another pooling, such as 'cls'."
        )


def _open_clip(model: str, pretrained: str | None = None, *, device: torch.device) -> Forward:
    try:
        import open_clip
    except ModuleNotFoundError as error:
        raise _not_installed("open_clip") from error
    if pretrained is None and ":" not in model:  # open_clip would make the weights up
        tags = open_clip.list_pretrained_tags_by_model(model)
        raise ValueError(
            f"The extractor 'open_clip' needs `pretrained`: a file of weights or, for {model!r}, one of "
            f"{', '.join(tags) or 'none'}."
        )
    net, _, transform = open_clip.create_model_and_transforms(model, pretrained=pretrained, device=device)
    net.eval()

    def forward(images: list[Image.Image]) -> Tensor:
        features: Tensor = net.encode_image(torch.stack([transform(image) for image in images]).to(device))
        return features

    return forward


def _timm(model: str, pretrained: bool = True, *, device: torch.device) -> Forward:
    try:
        import timm
    except ModuleNotFoundError as error:
        raise _not_installed("timm") from error
    net = timm.create_model(model, pretrained=pretrained, num_classes=0).eval().to(device)
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(net), is_training=False)

    def forward(images: list[Image.Image]) -> Tensor:
        features: Tensor = net(torch.stack([transform(image) for image in images]).to(device))
        return features

    return forward


def _not_installed(extra: str) -> ModuleNotFoundError:
    return ModuleNotFoundError(
        f"The extractor {extra!r} needs a package that is not installed. "
        f"Install it: pip install 'diffusion-self-distillation[{extra}]'"
    )


_KINDS: dict[str, Callable[..., Forward]] = {
    "mini": _mini,
    "transformers": _transformers,
    "open_clip": _open_clip,
    "timm": _timm,
}
