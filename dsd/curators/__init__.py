"""Curators: which pairs to keep for training.

Write your own by deriving from `Curator` (one method, `judge`) and give it a name with
`@curators.register("name")`, or in your package's entry-point group `dsd.curators`.
"""

from typing import TYPE_CHECKING

from dsd.curators.base import Curator
from dsd.registry import Registry
from dsd.types import Pair, Verdict

if TYPE_CHECKING:
    from dsd.curators.embedding import EmbeddingCurator
    from dsd.curators.ensemble import EnsembleCurator
    from dsd.curators.heuristic import HeuristicCurator
    from dsd.curators.histogram import HistogramCurator
    from dsd.curators.vlm import VLMCurator

__all__ = [
    "Curator",
    "EmbeddingCurator",
    "EnsembleCurator",
    "HeuristicCurator",
    "HistogramCurator",
    "Pair",
    "VLMCurator",
    "Verdict",
    "create",
    "get",
    "names",
    "register",
    "registry",
    "spec",
]

registry: Registry[Curator] = Registry(
    "curators",
    base="dsd.curators.base:Curator",
    builtin={
        "embedding": "dsd.curators.embedding:EmbeddingCurator",
        "ensemble": "dsd.curators.ensemble:EnsembleCurator",
        "heuristic": "dsd.curators.heuristic:HeuristicCurator",
        "histogram": "dsd.curators.histogram:HistogramCurator",
        "vlm": "dsd.curators.vlm:VLMCurator",
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
