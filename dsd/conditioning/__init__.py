"""Conditioning: how the reference reaches the denoiser.

Write your own by deriving from `Conditioning` and give it a name with `@conditioning.register("name")`, or in
your package's entry-point group `dsd.conditioning`.
"""

import importlib
from typing import TYPE_CHECKING

from dsd.registry import Registry

if TYPE_CHECKING:
    from dsd.conditioning.base import Conditioning, Inputs
    from dsd.conditioning.concat import Concat
    from dsd.conditioning.controlnet import ControlNet
    from dsd.conditioning.ip_adapter import IPAdapter
    from dsd.conditioning.parallel import Parallel
    from dsd.conditioning.token_concat import TokenConcat

__all__ = [
    "Concat",
    "Conditioning",
    "ControlNet",
    "IPAdapter",
    "Inputs",
    "Parallel",
    "TokenConcat",
    "create",
    "get",
    "names",
    "register",
    "registry",
    "spec",
]

registry: "Registry[Conditioning]" = Registry(
    "conditioning",
    base="dsd.conditioning.base:Conditioning",
    builtin={
        "concat": "dsd.conditioning.concat:Concat",
        "controlnet": "dsd.conditioning.controlnet:ControlNet",
        "ip_adapter": "dsd.conditioning.ip_adapter:IPAdapter",
        "parallel": "dsd.conditioning.parallel:Parallel",
        "token_concat": "dsd.conditioning.token_concat:TokenConcat",
    },
)
create = registry.create
get = registry.get
names = registry.names
register = registry.register
spec = registry.spec


def __getattr__(name: str) -> object:
    if name == "Inputs":
        return importlib.import_module("dsd.conditioning.base").Inputs
    return registry.member(name)


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
