"""Metrics: `torchmetrics.Metric` classes, and in `dsd.metrics.functional` the functions they stand on.

Write your own by deriving from `torchmetrics.Metric` and give it a name with `@metrics.register("name")`, or
in your package's entry-point group `dsd.metrics`.
"""

from typing import TYPE_CHECKING

from dsd.registry import Registry

if TYPE_CHECKING:
    from torchmetrics import Metric

    from dsd.metrics.grouped import GroupedMean
    from dsd.metrics.image_similarity import ImageSimilarity

__all__ = ["GroupedMean", "ImageSimilarity", "create", "get", "names", "register", "registry", "spec"]

registry: "Registry[Metric]" = Registry(
    "metrics",
    base="torchmetrics:Metric",
    builtin={
        "grouped_mean": "dsd.metrics.grouped:GroupedMean",
        "image_similarity": "dsd.metrics.image_similarity:ImageSimilarity",
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
