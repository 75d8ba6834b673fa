"""Likeness of parts: patches of a subject, and regions cut out of pictures."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor
from torch.nn import functional

from dsd.metrics.functional.image_similarity import Reduction, normalized, reference_cosines


def masked_patch_similarity(
    generated: Float[Tensor, "q d"], reference: Float[Tensor, "p d"], mask: Bool[Tensor, " p"]
) -> Float[Tensor, ""]:
    r"""Of each patch of the subject, its likeness to whichever patch of the other picture is most like it:
    $\frac{1}{|F|} \sum_{p \in F} \max_q \cos(r_p, g_q)$, as MaSC has it (https://arxiv.org/abs/2605.22469).

    Where the subject stands does not matter, nor what is around it.

    Args:
        generated: embeddings of the patches of the generated picture.
        reference: of the reference.
        mask: which patches of the reference show the subject.

    Returns:
        a number in [-1, 1]; NaN if no patch shows the subject.

    Raises:
        ValueError: if the generated picture has no patch.

    Example:
        >>> import torch
        >>> patches = torch.eye(3)
        >>> masked_patch_similarity(patches.flip(0), patches, torch.tensor([True, True, False]))
        tensor(1., dtype=torch.float64)
    """
    if not len(generated):
        raise ValueError("The generated picture has no patch.")
    subject = normalized(reference[mask])
    if not len(subject):
        return subject.new_tensor(torch.nan)
    return (subject @ normalized(generated).T).amax(1).mean()


def on_grid(masks: Float[Tensor, "n height width"], rows: int, columns: int) -> Bool[Tensor, "n patches"]:
    """Which patches a mask covers: it is scaled to the grid, bilinear with antialiasing, and more than .5
    counts.

    Example:
        >>> import torch
        >>> mask = torch.zeros(1, 8, 8)
        >>> mask[:, :, :4] = 1
        >>> on_grid(mask, 2, 2)
        tensor([[ True, False,  True, False]])
    """
    scaled = functional.interpolate(masks[:, None].float(), (rows, columns), mode="bilinear", antialias=True)
    return (scaled[:, 0] > 0.5).flatten(1)


def best_similarity(
    detections: Sequence[Float[Tensor, "_ _"]],
    references: Float[Tensor, "n d"] | Sequence[Float[Tensor, "_ _"]],
    reduction: Reduction = "mean",
) -> Float[Tensor, " n"]:
    """The likeness of the detection in each picture that is most like its reference; NaN where nothing was
    detected.

    Args:
        detections: embeddings of what was detected in each picture: faces, crops.
        references: one row each, or a set for each.
        reduction: of a detection's similarities with a set.

    Raises:
        ValueError: if the lengths do not fit, a set is empty, or there is no such reduction.

    Example:
        >>> import torch
        >>> faces = [torch.tensor([[0.0, 1.0], [1.0, 1.0]]), torch.zeros(0, 2)]
        >>> best_similarity(faces, torch.tensor([[1.0, 0.0], [1.0, 0.0]]))
        tensor([0.7071,    nan], dtype=torch.float64)
    """
    if len(detections) != len(references):
        raise ValueError(f"Got detections in {len(detections)} pictures and {len(references)} references.")
    best = []
    for found, reference in zip(detections, references, strict=True):
        some = reference[None] if reference.ndim == 1 else reference
        cosines = reference_cosines(found, [some] * len(found), reduction)
        kept = cosines[~cosines.isnan()]
        best.append(kept.max() if len(kept) else found.new_tensor(torch.nan, dtype=torch.float64))
    return torch.stack(best) if best else torch.zeros(0, dtype=torch.float64)


def cut(image: Image.Image, region: Tensor, fill: tuple[int, int, int] = (255, 255, 255)) -> Image.Image:
    """A region of an RGB picture, padded to a square around its middle.

    Args:
        image: an RGB picture.
        region: a box (left, top, right, bottom) in pixels, cut at the picture's border; or a mask (height,
            width) of its size, whose box is cut out and whose outside is filled.
        fill: colour of what is outside.

    Raises:
        ValueError: if the region is empty or of another shape.
    """
    if region.ndim == 2:
        if region.shape != (image.height, image.width):
            raise ValueError(
                f"A mask must have the picture's height and width, {image.height} and {image.width}; got "
                f"{tuple(region.shape)}."
            )
        inside = region > 0.5 if region.is_floating_point() else region.bool()
        if not inside.any():
            raise ValueError("A mask is empty: leave it out if nothing was detected.")
        shape = Image.fromarray(inside.cpu().numpy().astype("uint8") * 255)
        image = Image.composite(image, Image.new("RGB", image.size, fill), shape)
        rows, columns = (inside.any(axis).nonzero().flatten().tolist() for axis in (1, 0))
        box = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
    elif region.shape == (4,):
        left, top, right, bottom = (round(float(x)) for x in region)
        box = (max(0, left), max(0, top), min(image.width, right), min(image.height, bottom))
    else:
        raise ValueError(f"A region is a box (4,) or a mask (height, width); got {tuple(region.shape)}.")
    if box[0] >= box[2] or box[1] >= box[3]:
        raise ValueError(
            f"The box {region.tolist()} holds nothing of a picture of {image.width} x {image.height} px. "
            "Boxes are "
            "(left, top, right, bottom)."
        )
    found = image.crop(box)
    side = max(found.size)
    square = Image.new("RGB", (side, side), fill)
    square.paste(found, ((side - found.width) // 2, (side - found.height) // 2))
    return square
