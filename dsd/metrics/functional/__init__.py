"""The metrics as pure functions of tensors."""

from dsd.llm.rating import parse_rating
from dsd.metrics.functional.agreement import fisher_z_mean, krippendorff_alpha
from dsd.metrics.functional.alignment import human_alignment
from dsd.metrics.functional.copying import copy_paste, copy_paste_score
from dsd.metrics.functional.correlation import correlation
from dsd.metrics.functional.diversity import diversity, intra_prompt_diversity
from dsd.metrics.functional.gap import debias_gap
from dsd.metrics.functional.grouped import grouped_mean
from dsd.metrics.functional.identity import identity_auroc, identity_margin
from dsd.metrics.functional.image_similarity import image_similarity, reference_cosines
from dsd.metrics.functional.near_copies import near_copy_similarity
from dsd.metrics.functional.patches import best_similarity, masked_patch_similarity
from dsd.metrics.functional.ratings import cp_pf, judge_score
from dsd.metrics.functional.texts import strip_subject, text_image_similarity

__all__ = [
    "best_similarity",
    "copy_paste",
    "copy_paste_score",
    "correlation",
    "cp_pf",
    "debias_gap",
    "diversity",
    "fisher_z_mean",
    "grouped_mean",
    "human_alignment",
    "identity_auroc",
    "identity_margin",
    "image_similarity",
    "intra_prompt_diversity",
    "judge_score",
    "krippendorff_alpha",
    "masked_patch_similarity",
    "near_copy_similarity",
    "parse_rating",
    "reference_cosines",
    "strip_subject",
    "text_image_similarity",
]
