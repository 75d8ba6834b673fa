"""Likeness of the subject alone, cut out of its surroundings."""

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from dsd.metrics.embedded import EmbeddedMean
from dsd.metrics.functional.image_similarity import Reduction, check_reduction
from dsd.metrics.functional.patches import best_similarity, cut
from dsd.metrics.images import read, read_sets


class SegmentedSimilarity(EmbeddedMean):
    """Mean over pictures of the likeness of the region that is most like the reference; as XVerseBench has
    it.

    Regions come from any detector or segmenter. Each is cut out, padded to a square and embedded. A picture
    in which nothing was detected is missing: `nan_policy` says whether that is an error, left out, or 0.

    Args:
        extractor: which network, as `dsd.extractors.load` takes it.
        reduction: of several references, "mean" or "max".
        fill: colour (red, green, blue) of what is outside.
        kwargs: of `dsd.metrics.GroupedMean` and `torchmetrics.Metric`.

    Raises:
        LookupError, TypeError: for an extractor that does not exist.
        ValueError: for an unknown reduction, or as `GroupedMean`.
    """

    plot_lower_bound: float = -1.0
    plot_upper_bound: float = 1.0

    def __init__(
        self,
        extractor: Any = "dreambooth",
        reduction: Reduction = "mean",
        fill: Sequence[int] = (255, 255, 255),
        **kwargs: Any,
    ) -> None:
        check_reduction(reduction)
        super().__init__(extractor, **kwargs)
        if len(fill) != 3 or not all(0 <= x <= 255 for x in fill):
            raise ValueError(f"`fill` is three numbers from 0 to 255; got {fill}.")
        self.reduction, self.fill = reduction, (int(fill[0]), int(fill[1]), int(fill[2]))

    def update(
        self,
        generated: Any,
        reference: Any,
        regions: Any,
        reference_regions: Any = None,
        groups: Any = None,
    ) -> None:
        """Add pictures, references, and where subjects are.

        Args:
            generated: n pictures, as `dsd.metrics.images.read` takes them; None where one is missing.
            reference: as many pictures, or a list with a set of pictures for each.
            regions: of each generated picture, what was detected: (k, 4) boxes (left, top, right, bottom) in
                pixels, or (k, height, width) masks; k may be 0.
            reference_regions: where the subject is in each reference, one box (4,) or mask (height, width)
                each; the whole picture by default. With sets, a list for each.
            groups: the name of each one's group, or one for all.

        Raises:
            TypeError, ValueError: if the lengths or sizes do not fit, a region is empty, or a picture cannot
                be read.
        """
        images = read(generated)
        sets, _ = read_sets(reference, len(images))
        found = [torch.as_tensor(x) for x in regions]
        if len(found) != len(images):
            raise ValueError(f"Got regions of {len(found)} pictures for {len(images)}; give k of each.")
        if reference_regions is not None:
            sets = [self._cut_set(some, x) for some, x in zip(sets, reference_regions, strict=True)]
        references = [self.embed(some) for some in sets]
        size = references[0].shape[1] if references else 1
        detections = [self._detections(image, x, size) for image, x in zip(images, found, strict=True)]
        self.add(best_similarity(detections, references, self.reduction), groups)

    def _cut_set(self, images: Sequence[Image.Image], regions: Any) -> list[Image.Image]:
        given = regions if isinstance(regions, list | tuple) and len(images) == len(regions) else [regions]
        return [cut(x, torch.as_tensor(region), self.fill) for x, region in zip(images, given, strict=True)]

    def _detections(self, image: Image.Image | None, regions: Tensor, size: int) -> Tensor:
        if image is None or not len(regions):
            return torch.zeros(0, size)
        return self.embed([cut(image, region, self.fill) for region in regions])
