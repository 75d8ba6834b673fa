"""Metrics: `torchmetrics.Metric` classes, and in `dsd.metrics.functional` the functions they stand on.

Write your own by deriving from `GroupedMean` or `torchmetrics.Metric` and give it a name with
`@metrics.register("name")`, or in your package's entry-point group `dsd.metrics`.
"""

from typing import TYPE_CHECKING

from dsd.registry import Registry

if TYPE_CHECKING:
    from torchmetrics import Metric

    from dsd.metrics.copy_paste_score import CopyPasteScore
    from dsd.metrics.debias_gap import DebiasGap
    from dsd.metrics.embedding_identity import EmbeddingIdentity
    from dsd.metrics.grouped import GroupedMean, MeanScore
    from dsd.metrics.identity_auroc import IdentityAUROC
    from dsd.metrics.identity_margin import IdentityMargin
    from dsd.metrics.image_similarity import CLIPImageSimilarity, DINOSimilarity, ImageSimilarity
    from dsd.metrics.intra_prompt_diversity import IntraPromptDiversity
    from dsd.metrics.judge_score import CPPF, ConceptPreservation, JudgeScore, PromptFollowing
    from dsd.metrics.krippendorff_alpha import KrippendorffAlpha
    from dsd.metrics.masked_patch_similarity import MaskedPatchSimilarity
    from dsd.metrics.metric_human_alignment import MetricHumanAlignment
    from dsd.metrics.near_copy_rate import NearCopyRate
    from dsd.metrics.segmented_similarity import SegmentedSimilarity
    from dsd.metrics.text_image_similarity import TextImageSimilarity

__all__ = [
    "CPPF",
    "CLIPImageSimilarity",
    "ConceptPreservation",
    "CopyPasteScore",
    "DINOSimilarity",
    "DebiasGap",
    "EmbeddingIdentity",
    "GroupedMean",
    "IdentityAUROC",
    "IdentityMargin",
    "ImageSimilarity",
    "IntraPromptDiversity",
    "JudgeScore",
    "KrippendorffAlpha",
    "MaskedPatchSimilarity",
    "MeanScore",
    "MetricHumanAlignment",
    "NearCopyRate",
    "PromptFollowing",
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
        "clip_image_similarity": "dsd.metrics.image_similarity:CLIPImageSimilarity",
        "concept_preservation": "dsd.metrics.judge_score:ConceptPreservation",
        "copy_paste_score": "dsd.metrics.copy_paste_score:CopyPasteScore",
        "cp_pf": "dsd.metrics.judge_score:CPPF",
        "debias_gap": "dsd.metrics.debias_gap:DebiasGap",
        "dino_similarity": "dsd.metrics.image_similarity:DINOSimilarity",
        "embedding_identity": "dsd.metrics.embedding_identity:EmbeddingIdentity",
        "identity_auroc": "dsd.metrics.identity_auroc:IdentityAUROC",
        "identity_margin": "dsd.metrics.identity_margin:IdentityMargin",
        "image_similarity": "dsd.metrics.image_similarity:ImageSimilarity",
        "intra_prompt_diversity": "dsd.metrics.intra_prompt_diversity:IntraPromptDiversity",
        "judge_score": "dsd.metrics.judge_score:JudgeScore",
        "krippendorff_alpha": "dsd.metrics.krippendorff_alpha:KrippendorffAlpha",
        "masked_patch_similarity": "dsd.metrics.masked_patch_similarity:MaskedPatchSimilarity",
        "mean_score": "dsd.metrics.grouped:MeanScore",
        "metric_human_alignment": "dsd.metrics.metric_human_alignment:MetricHumanAlignment",
        "near_copy_rate": "dsd.metrics.near_copy_rate:NearCopyRate",
        "prompt_following": "dsd.metrics.judge_score:PromptFollowing",
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
        from dsd.metrics.grouped import GroupedMean

        return GroupedMean
    return registry.member(name)


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
