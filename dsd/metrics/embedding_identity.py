"""Identity by embeddings that come from elsewhere: faces, say."""

from collections.abc import Callable
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from dsd.metrics.functional.image_similarity import Reduction, check_reduction
from dsd.metrics.functional.patches import best_similarity
from dsd.metrics.grouped import GroupedMean
from dsd.metrics.images import read

Detector = Callable[[Image.Image], Any]


class EmbeddingIdentity(GroupedMean):
    """Mean over pictures of the cosine of the detection that is most like the reference.

    Face recognisers are pluggable: give their embeddings to `update`, or a function that makes them. A
    picture in which nothing was detected is missing: `nan_policy` says whether that is an error, left out, or
    0 (as XVerseBench counts it).

    Args:
        detector: a function from an RGB picture to (k, d) embeddings of what it detects; `update` then takes
            pictures.
        reduction: of several references, "mean" or "max".
        kwargs: of `dsd.metrics.GroupedMean` and `torchmetrics.Metric`.

    Raises:
        ValueError: for an unknown reduction, or as `GroupedMean`.

    Example:
        >>> import torch
        >>> metric = EmbeddingIdentity(nan_policy="skip")
        >>> faces = [torch.tensor([[0.0, 1.0], [1.0, 1.0]]), torch.zeros(0, 2)]
        >>> metric.update(faces, torch.tensor([[1.0, 0.0], [1.0, 0.0]]))
        >>> found = metric.compute()
        >>> found["score"], found["missing"]
        (tensor(0.7071), tensor(1))
    """

    plot_lower_bound: float = -1.0
    plot_upper_bound: float = 1.0

    def __init__(
        self, detector: Detector | None = None, reduction: Reduction = "mean", **kwargs: Any
    ) -> None:
        check_reduction(reduction)
        super().__init__(**kwargs)
        self.detector, self.reduction = detector, reduction

    def update(self, generated: Any, reference: Any, groups: Any = None, valid: Any = None) -> None:
        """Add embeddings, or pictures if there is a detector.

        Args:
            generated: (n, d) embeddings, or a list with the (k, d) of what was detected in each picture; k
                may be 0.
            reference: (n, d), or a list with a set (r, d) for each.
            groups: the name of each one's group, or one for all.
            valid: (n,) booleans: False where nothing was detected, whatever the row says.

        Raises:
            ValueError: if the lengths do not fit, or a reference has no embedding.
        """
        found, wanted = self._rows(generated, "generated"), self._rows(reference, "reference")
        if len(found) != len(wanted):
            raise ValueError(
                f"Got {len(found)} generated items and {len(wanted)} references; give one of each."
            )
        if empty := [i for i, rows in enumerate(wanted) if not len(rows) or bool(rows.isnan().any())]:
            raise ValueError(f"Reference {empty[0]} has no embedding: there is nothing to compare with.")
        if valid is not None:
            flags = torch.as_tensor(valid).flatten().tolist()
            if len(flags) != len(found):
                raise ValueError(f"Got {len(flags)} flags for {len(found)} items; give one for each.")
            found = [rows if flag else rows[:0] for rows, flag in zip(found, flags, strict=True)]
        self.add(best_similarity(found, wanted, self.reduction), groups)

    def _rows(self, given: Any, what: str) -> list[Tensor]:
        """(k, d) of each item."""
        if self.detector is not None:
            images = read(given, what)
            given = [None if image is None else self.detector(image) for image in images]
        if isinstance(given, Tensor) and given.ndim != 2:
            raise ValueError(f"Embeddings ({what}) are (n, d) or a list of (k, d); got {tuple(given.shape)}.")
        rows = [torch.zeros(0, 1) if x is None else torch.as_tensor(x).detach().cpu() for x in given]
        return [row[None] if row.ndim == 1 and len(row) else row.reshape(-1, row.shape[-1]) for row in rows]
