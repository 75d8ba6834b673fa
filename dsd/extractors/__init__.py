"""Feature extractors: pictures to embeddings whose cosine says how alike their subjects are.

Curators and metrics share them. A spec says which one:

- `"mini"`: the encoder inside dsd, which knows the characters of the small world and nothing else;
- a preset, a published protocol's network with its exact transform: `"dreambooth"`, `"dreambench++/clip"`,
  `"dreambench++/dino"`, `"dinov2"`, `"siglip2"`; see `dsd.extractors.presets`;
- `{"kind": "transformers", "model": ...}`: any vision model of transformers, such as "facebook/dinov2-small"
  or "openai/clip-vit-base-patch32", or a folder with one;
- `{"kind": "open_clip", "model": ..., "pretrained": ...}` and `{"kind": "timm", "model": ...}`: models of
  these packages;
- any function from a list of RGB pictures to an array or tensor (n, d);
- `{"kind": "module:build", **arguments}` or `"module:build"`: what makes such a function, imported by its
  name, so that a command line or a manifest can say it. It is given the arguments and, if it takes one, the
  `device`.

The three kinds of packages take a `transform` instead of their own: one of `dsd.extractors.TRANSFORMS` by
name, or its fields.
"""

import difflib
import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch

from dsd.extractors import networks
from dsd.extractors.base import Extractor, Forward, rgb
from dsd.extractors.networks import Network, Pooling
from dsd.extractors.presets import PRESETS
from dsd.extractors.transforms import TRANSFORMS, Transform

__all__ = [
    "PRESETS",
    "TRANSFORMS",
    "Extractor",
    "Forward",
    "Network",
    "Pooling",
    "Spec",
    "Transform",
    "check",
    "load",
    "rgb",
]

_REST = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)

Spec = str | Mapping[str, Any] | Forward


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
    build, arguments, takes_device = _resolved(extractor)
    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    forward = build(**arguments, **({"device": where} if takes_device else {}))
    kind = _kind(extractor)
    if not callable(forward):
        raise TypeError(
            f"The extractor {kind!r} made {forward!r} of type {type(forward).__name__}. It must make a "
            "function from a list of RGB pictures to (n, d)."
        )
    return Extractor(forward, f"the extractor {kind!r}")


def check(extractor: str | Mapping[str, Any]) -> None:
    """Refuse a spec that can be seen to be wrong before a network is loaded.

    Raises:
        LookupError, ImportError, TypeError: as `load`.
    """
    _resolved(extractor)


def _kind(extractor: str | Mapping[str, Any]) -> Any:
    return extractor if isinstance(extractor, str) else extractor.get("kind")


def _resolved(extractor: str | Mapping[str, Any]) -> tuple[Callable[..., Forward], dict[str, Any], bool]:
    """What builds it, the arguments, and whether a device is one."""
    kind = _kind(extractor)
    arguments = {} if isinstance(extractor, str) else {k: v for k, v in extractor.items() if k != "kind"}
    build = _KINDS[kind] if kind in _KINDS else _imported(kind)
    parameters = {name: p for name, p in inspect.signature(build).parameters.items() if p.kind not in _REST}
    takes_device = parameters.pop("device", None) is not None
    allowed = list(parameters)
    needed = [name for name, p in parameters.items() if p.default is inspect.Parameter.empty]
    wrong = [f"has no argument {name!r}" for name in arguments if name not in allowed]
    wrong += [f"needs the argument {name!r}" for name in needed if name not in arguments]
    if wrong:
        raise TypeError(f"The extractor {kind!r} {wrong[0]}. Allowed: {', '.join(allowed) or 'none'}.")
    return build, arguments, takes_device


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


_KINDS: dict[str, Callable[..., Forward]] = {
    "mini": networks.small_world,
    "transformers": networks.transformers,
    "open_clip": networks.open_clip,
    "timm": networks.timm,
    **{name: preset.build for name, preset in PRESETS.items()},
}
