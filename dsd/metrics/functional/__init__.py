"""The metrics as pure functions of tensors."""

from dsd.metrics.functional.grouped import grouped_mean
from dsd.metrics.functional.image_similarity import image_similarity

__all__ = ["grouped_mean", "image_similarity"]
