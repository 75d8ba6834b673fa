"""Backbones: what a denoiser family is; its text encoding, autoencoder, scheduler and the call of its
denoiser.

Write your own by deriving from `Backbone` and give it a name with `@backbones.register("name")`, or in your
package's entry-point group `dsd.backbones`.
"""

import importlib
from collections.abc import Mapping
from os import PathLike
from typing import TYPE_CHECKING, Any

from dsd.registry import Registry

if TYPE_CHECKING:
    from dsd.backbones.base import Backbone, Batch, RawBatch, Reference, Text
    from dsd.backbones.flux import FluxBackbone

__all__ = [
    "Backbone",
    "Batch",
    "FluxBackbone",
    "RawBatch",
    "Reference",
    "Text",
    "create",
    "get",
    "load",
    "names",
    "register",
    "registry",
    "spec",
]

registry: "Registry[Backbone]" = Registry(
    "backbones", base="dsd.backbones.base:Backbone", builtin={"flux": "dsd.backbones.flux:FluxBackbone"}
)
create = registry.create
get = registry.get
names = registry.names
register = registry.register
spec = registry.spec

_RECORDS = frozenset({"Batch", "RawBatch", "Reference", "Text"})


def load(base: "str | PathLike[str] | Mapping[str, Any] | Backbone", **defaults: Any) -> "Backbone":
    """The backbone that a user's `base` stands for.

    Args:
        base: "mini", a diffusers folder or a Hub id (all FLUX); a spec `{"name": ..., "base": ..., ...}`; or
            a backbone, which is returned as it is.
        defaults: constructor arguments that a spec does not give.
    """
    if isinstance(base, str | PathLike):
        return create({"name": "flux", "base": str(base), **defaults})
    if isinstance(base, Mapping):
        return create({**defaults, **base})
    return create(base)


def __getattr__(name: str) -> object:
    if name in _RECORDS:
        return getattr(importlib.import_module("dsd.backbones.base"), name)
    return registry.member(name)


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
