"""Metrics: `torchmetrics.Metric` classes, and in `dsd.metrics.functional` the functions they stand on.

Write your own by deriving from `GroupedMean` or `torchmetrics.Metric` and give it a name with
`@metrics.register("name")`, or in your package's entry-point group `dsd.metrics`.
"""

from typing import TYPE_CHECKING

from dsd.registry import Registry

if TYPE_CHECKING:
    from torchmetrics import Metric

    from dsd.metrics.debias_gap import DebiasGap
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
    from dsd.metrics.copy_paste_score import CopyPasteScore
    from dsd.metrics.embedding_identity import EmbeddingIdentity
    from dsd.metrics.grouped import GroupedMean, MeanScore
    from dsd.metrics.identity_auroc import IdentityAUROC
    from dsd.metrics.identity_margin import IdentityMargin
    from dsd.metrics.image_similarity import CLIPImageSimilarity, DINOSimilarity, ImageSimilarity
    from dsd.metrics.intra_prompt_diversity import IntraPromptDiversity
    from dsd.metrics.masked_patch_similarity import MaskedPatchSimilarity
    from dsd.metrics.near_copy_rate import NearCopyRate
    from dsd.metrics.segmented_similarity import SegmentedSimilarity
    from dsd.metrics.text_image_similarity import TextImageSimilarity

__all__ = [
    "CLIPImageSimilarity",
    "CopyPasteScore",
    "DINOSimilarity",
    "EmbeddingIdentity",
    "IdentityAUROC",
    "IdentityMargin",
    "IntraPromptDiversity",
    "MaskedPatchSimilarity",
    "MeanScore",
    "NearCopyRate",
    "SegmentedSimilarity",
    "TextImageSimilarity",
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
        "image_similarity": "dsd.metrics.image_similarity:ImageSimilarity",
        "judge_score": "dsd.metrics.judge_score:JudgeScore",
        "krippendorff_alpha": "dsd.metrics.krippendorff_alpha:KrippendorffAlpha",
        "metric_human_alignment": "dsd.metrics.metric_human_alignment:MetricHumanAlignment",
        "prompt_following": "dsd.metrics.judge_score:PromptFollowing",
        "clip_image_similarity": "dsd.metrics.image_similarity:CLIPImageSimilarity",
        "copy_paste_score": "dsd.metrics.copy_paste_score:CopyPasteScore",
        "dino_similarity": "dsd.metrics.image_similarity:DINOSimilarity",
        "embedding_identity": "dsd.metrics.embedding_identity:EmbeddingIdentity",
        "identity_auroc": "dsd.metrics.identity_auroc:IdentityAUROC",
        "identity_margin": "dsd.metrics.identity_margin:IdentityMargin",
        "intra_prompt_diversity": "dsd.metrics.intra_prompt_diversity:IntraPromptDiversity",
        "masked_patch_similarity": "dsd.metrics.masked_patch_similarity:MaskedPatchSimilarity",
        "mean_score": "dsd.metrics.grouped:MeanScore",
        "near_copy_rate": "dsd.metrics.near_copy_rate:NearCopyRate",
        "segmented_similarity": "dsd.metrics.segmented_similarity:SegmentedSimilarity",
        "text_image_similarity": "dsd.metrics.text_image_similarity:TextImageSimilarity",
    },
)
create = registry.create
get = registry.get
names = registry.names
register = registry.register
spec = registry.spec


def __getattr__(name: str) -> object:
    if name == "GroupedMean":
    
        return GroupedMean
    return registry.member(name)


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
