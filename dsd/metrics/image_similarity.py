"""CLIP-I, DINO and the like: how alike generated pictures and their references are to a network."""

from typing import Any

from dsd.metrics.embedded import EmbeddedMean
from dsd.metrics.functional.image_similarity import Reduction, check_reduction, reference_cosines
from dsd.metrics.images import read, read_sets

_CLIP = {"dreambench++": "dreambench++/clip", "siglip2": "siglip2"}
_DINO = {"dreambooth": "dreambooth", "dreambench++": "dreambench++/dino", "dinov2": "dinov2"}


class ImageSimilarity(EmbeddedMean):
    r"""Mean cosine of the embeddings of generated pictures and references, $\frac1n \sum_i \cos(g_i, r_i)$.

    Copying the reference scores 1, so read it beside something that a copy fails: `CopyPasteScore`,
    `NearCopyRate`. Real photographs of one subject reach .774 with DreamBooth's DINO
    (https://arxiv.org/abs/2208.12242): more than that is no better.

    Args:
        extractor: which network, as `dsd.extractors.load` takes it: "mini", a preset such as "dreambooth",
            "dreambench++/clip", "dinov2" or "siglip2", any model, or any function from pictures to (n, d).
        reduction: of several references: "mean" of the similarities, as DreamBooth has it, or "max".
        kwargs: of `dsd.metrics.GroupedMean`: `groups`, `average`, `weights`, `nan_policy`, `scale`; and of
            `torchmetrics.Metric`.

    Raises:
        LookupError, TypeError: for an extractor that does not exist.
        ValueError: for an unknown reduction, or as `GroupedMean`.
    """

    plot_lower_bound: float = -1.0
    plot_upper_bound: float = 1.0

    def __init__(self, extractor: Any = "mini", reduction: Reduction = "mean", **kwargs: Any) -> None:
        check_reduction(reduction)
        super().__init__(extractor, **kwargs)
        self.reduction = reduction

    def update(self, generated: Any, reference: Any, groups: Any = None, reference_index: Any = None) -> None:
        """Add pictures and what each should be alike.

        Args:
            generated: n pictures, as `dsd.metrics.images.read` takes them; None where one is missing.
            reference: as many pictures, or a list with a set of pictures for each.
            groups: the name of each one's group, or one for all.
            reference_index: (n,) numbers; then `reference` holds each picture or set once, and these say
                which belongs to each.

        Raises:
            TypeError, ValueError: if the lengths do not fit, or a picture cannot be read.
        """
        images = read(generated)
        sets, numbers = read_sets(reference, len(images), reference_index)
        rows = self.embed(images)
        flat = self.extractor([image for some in sets for image in some]) if sets else rows
        of_set = list(flat.split([len(some) for some in sets]))
        if not len(rows) or bool(rows.isnan().all()):  # no picture to tell how long a row is
            rows = flat.new_full((len(images), flat.shape[1]), float("nan"))
        self.add(reference_cosines(rows, [of_set[i] for i in numbers], self.reduction), groups)


class CLIPImageSimilarity(ImageSimilarity):
    """`ImageSimilarity` by a CLIP-like network (CLIP-I).

    Args:
        preset: "dreambench++" (ViT-B/32 of OpenAI, projected; 224 px, bicubic, centre crop) or "siglip2"
            (so400m/14; 384 px, squashed, bicubic).
        model: a folder with the weights, or a name of its own for them.
        library: "transformers", or "open_clip" for "dreambench++".
        kwargs: of `ImageSimilarity`.

    Raises:
        LookupError: for an unknown preset.
    """

    def __init__(
        self,
        preset: str = "dreambench++",
        model: str | None = None,
        library: str = "transformers",
        **kwargs: Any,
    ) -> None:
        super().__init__(_preset(_CLIP, preset, model, library), **kwargs)


class DINOSimilarity(ImageSimilarity):
    """`ImageSimilarity` by the class token of a DINO.

    Args:
        preset: "dreambooth" (DINO ViT-S/16), "dreambench++" (DINO ViT-S/8), both with the official DINO's
            transform (256 px, bicubic, centre crop 224 px), or "dinov2" (DINOv2 ViT-S/14, as transformers
            prepares pictures).
        model: a folder with the weights, or a name of its own for them.
        library: "transformers", or "timm" for the first two.
        kwargs: of `ImageSimilarity`.

    Raises:
        LookupError: for an unknown preset.
    """

    def __init__(
        self,
        preset: str = "dreambooth",
        model: str | None = None,
        library: str = "transformers",
        **kwargs: Any,
    ) -> None:
        super().__init__(_preset(_DINO, preset, model, library), **kwargs)


def _preset(known: dict[str, str], preset: str, model: str | None, library: str) -> dict[str, Any]:
    if preset not in known:
        raise LookupError(f"Unknown preset {preset!r}. Known: {', '.join(known)}.")
    given = {"model": model, "library": None if library == "transformers" else library}
    return {"kind": known[preset], **{name: value for name, value in given.items() if value is not None}}
