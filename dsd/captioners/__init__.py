"""Captioners: what is said of a pair's target, which the student learns to draw from it.

Write your own by deriving from `Captioner` (one method, `caption`) and give it a name with
`@captioners.register("name")`, or in your package's entry-point group `dsd.captioners`.
"""

from typing import TYPE_CHECKING

from dsd.captioners.base import Captioner
from dsd.registry import Registry
from dsd.types import Pair

if TYPE_CHECKING:
    from dsd.captioners.panel import PanelCaptioner
    from dsd.captioners.vlm import VLMCaptioner

__all__ = [
    "Captioner",
    "Pair",
    "PanelCaptioner",
    "VLMCaptioner",
    "create",
    "get",
    "names",
    "register",
    "registry",
    "spec",
]

registry: Registry[Captioner] = Registry(
    "captioners",
    base="dsd.captioners.base:Captioner",
    builtin={
        "panel": "dsd.captioners.panel:PanelCaptioner",
        "vlm": "dsd.captioners.vlm:VLMCaptioner",
    },
)
create = registry.create
get = registry.get
names = registry.names
register = registry.register
spec = registry.spec


def __getattr__(name: str) -> object:
    return registry.member(name)


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
