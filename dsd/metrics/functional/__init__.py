"""The metrics as pure functions of tensors."""

from dsd.metrics.functional.copying import copy_paste, copy_paste_score
from dsd.metrics.functional.diversity import diversity, intra_prompt_diversity
from dsd.metrics.functional.grouped import grouped_mean
from dsd.metrics.functional.identity import identity_auroc, identity_margin
from dsd.metrics.functional.image_similarity import image_similarity, reference_cosines
from dsd.metrics.functional.near_copies import near_copy_similarity
from dsd.metrics.functional.patches import best_similarity, masked_patch_similarity
from dsd.metrics.functional.texts import strip_subject, text_image_similarity

__all__ = [
    "best_similarity",
    "copy_paste",
    "copy_paste_score",
    "diversity",
    "grouped_mean",
    "identity_auroc",
    "identity_margin",
    "image_similarity",
    "intra_prompt_diversity",
    "masked_patch_similarity",
    "near_copy_similarity",
    "reference_cosines",
    "strip_subject",
    "text_image_similarity",
]
