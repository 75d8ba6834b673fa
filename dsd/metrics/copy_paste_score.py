"""Whether pictures are nearer to their reference than to another true view of the subject."""

from typing import Any

import torch
from torch import Tensor

from dsd.metrics.embedded import EmbeddedMean
from dsd.metrics.functional.copying import copy_paste_parts
from dsd.metrics.images import read


class CopyPasteScore(EmbeddedMean):
    """Mean over pictures of how much nearer each is to its reference than to another true view of the
    subject, from -1 to 1; see `dsd.metrics.functional.copy_paste`. A copy of the reference has 1; lower is
    better.

    Args:
        extractor: which network, as `dsd.extractors.load` takes it.
        min_truth_similarity: pictures whose cosine with the truth is below are left out and counted as
            `gated`.
        kwargs: of `dsd.metrics.GroupedMean` and `torchmetrics.Metric`.

    Raises:
        LookupError, TypeError: for an extractor that does not exist.
    """

    higher_is_better: bool = False
    plot_lower_bound: float = -1.0
    plot_upper_bound: float = 1.0
    cosines: Tensor
    seen: Tensor
    gated: Tensor

    def __init__(
        self, extractor: Any = "dreambooth", min_truth_similarity: float | None = None, **kwargs: Any
    ) -> None:
        super().__init__(extractor, **kwargs)
        self.min_truth_similarity = min_truth_similarity
        self.add_state("cosines", torch.zeros(2, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("seen", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("gated", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, generated: Any, truth: Any, reference: Any, groups: Any = None) -> None:
        """Add pictures, other true views of their subjects, and references.

        Args:
            generated: n pictures, as `dsd.metrics.images.read` takes them; None where one is missing.
            truth: as many photographs of the same subjects that the generator was not given.
            reference: as many that it was given.
            groups: the name of each one's group, or one for all.

        Raises:
            TypeError, ValueError: if the lengths do not fit, or a picture cannot be read.
        """
        images = read(generated)
        others = [read(x, name) for x, name in ((truth, "truth"), (reference, "reference"))]
        if {len(x) for x in others} != {len(images)}:
            raise ValueError(
                f"Got {len(images)} generated pictures, {len(others[0])} truths and {len(others[1])} "
                "references; "
                "give one of each."
            )
        if any(image is None for some in others for image in some):
            raise ValueError("A truth or reference is None: there is nothing to compare with.")
        if not images:
            return
        rows, views, given = self.embed(images), self.embed(others[0]), self.embed(others[1])
        if bool(rows.isnan().all()):
            rows = views * torch.nan
        values, to_truth, to_reference, gated = copy_paste_parts(
            rows, views, given, self.min_truth_similarity
        )
        names = None if groups is None else self.names_of(groups, len(images))
        self.add(values[~gated], None if names is None else [names[i] for i in (~gated).nonzero().flatten()])
        known = torch.stack([to_truth, to_reference]).nan_to_num().sum(1)
        self.cosines = self.cosines + known.to(self.cosines)
        self.seen = self.seen + int((~to_truth.isnan()).sum())
        self.gated = self.gated + int(gated.sum())

    def compute(self) -> dict[str, Tensor]:
        """As `GroupedMean.compute`; the mean cosines `truth_similarity` and `reference_similarity`, gated
        pictures included; and `gated`.
        """
        found = super().compute()
        to_truth, to_reference = (self.cosines / self.seen).float()
        return {
            **found,
            "truth_similarity": to_truth,
            "reference_similarity": to_reference,
            "gated": self.gated,
        }
