"""Engines: where the work of a stage runs. A stage makes the same rows on every engine.

Write your own by deriving from `dsd.engines.base.Engine` (one method, `run`) and give it a name with
`@engines.register("name")`, or in your package's entry-point group `dsd.engines`.
"""

from typing import TYPE_CHECKING

from dsd.engines.fill import StageSummary, fill
from dsd.engines.progress import progress_bar
from dsd.registry import Registry

if TYPE_CHECKING:
    from dsd.engines.base import Engine
    from dsd.engines.local import LocalEngine
    from dsd.engines.ray_data import RayEngine

__all__ = [
    "Engine",
    "LocalEngine",
    "RayEngine",
    "StageSummary",
    "create",
    "fill",
    "get",
    "names",
    "progress_bar",
    "register",
    "registry",
    "spec",
]

registry: "Registry[Engine]" = Registry(
    "engines",
    base="dsd.engines.base:Engine",
    builtin={"local": "dsd.engines.local:LocalEngine", "ray": "dsd.engines.ray_data:RayEngine"},
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
