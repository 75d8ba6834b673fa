"""Metrics: `torchmetrics.Metric` classes, and in `dsd.metrics.functional` the functions they stand on.

Write your own by deriving from `torchmetrics.Metric` and give it a name with `@metrics.register("name")`, or
in your package's entry-point group `dsd.metrics`.
"""

from typing import TYPE_CHECKING

from dsd.registry import Registry

if TYPE_CHECKING:
    from torchmetrics import Metric

    from dsd.metrics.debias_gap import DebiasGap
    from dsd.metrics.grouped import GroupedMean
    from dsd.metrics.image_similarity import ImageSimilarity
    from dsd.metrics.judge_score import CPPF, ConceptPreservation, JudgeScore, PromptFollowing
    from dsd.metrics.krippendorff_alpha import KrippendorffAlpha
    from dsd.metrics.metric_human_alignment import MetricHumanAlignment

__all__ = [
    "CPPF",
    "ConceptPreservation",
    "DebiasGap",
    "GroupedMean",
    "ImageSimilarity",
    "JudgeScore",
    "KrippendorffAlpha",
    "MetricHumanAlignment",
    "PromptFollowing",
    "create",
    "get",
    "names",
    "register",
    "registry",
    "spec",
]

registry: "Registry[Metric]" = Registry(
    "metrics",
    base="torchmetrics:Metric",
    builtin={
        "concept_preservation": "dsd.metrics.judge_score:ConceptPreservation",
        "cp_pf": "dsd.metrics.judge_score:CPPF",
        "debias_gap": "dsd.metrics.debias_gap:DebiasGap",
        "grouped_mean": "dsd.metrics.grouped:GroupedMean",
        "image_similarity": "dsd.metrics.image_similarity:ImageSimilarity",
        "judge_score": "dsd.metrics.judge_score:JudgeScore",
        "krippendorff_alpha": "dsd.metrics.krippendorff_alpha:KrippendorffAlpha",
        "metric_human_alignment": "dsd.metrics.metric_human_alignment:MetricHumanAlignment",
        "prompt_following": "dsd.metrics.judge_score:PromptFollowing",
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
