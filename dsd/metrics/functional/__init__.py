"""The metrics as pure functions of tensors."""

from dsd.llm.rating import parse_rating
from dsd.metrics.functional.agreement import fisher_z_mean, krippendorff_alpha
from dsd.metrics.functional.alignment import human_alignment
from dsd.metrics.functional.correlation import correlation
from dsd.metrics.functional.gap import debias_gap
from dsd.metrics.functional.grouped import grouped_mean
from dsd.metrics.functional.image_similarity import image_similarity
from dsd.metrics.functional.ratings import cp_pf, judge_score

__all__ = [
    "correlation",
    "cp_pf",
    "debias_gap",
    "fisher_z_mean",
    "grouped_mean",
    "human_alignment",
    "image_similarity",
    "judge_score",
    "krippendorff_alpha",
    "parse_rating",
]
