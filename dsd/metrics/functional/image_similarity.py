"""The metrics as pure functions of tensors."""

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

__all__ = ["image_similarity"]


def image_similarity(generated: Float[Tensor, "n d"], reference: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    r"""Mean cosine of the embeddings of generated pictures and of their references, $\frac1n \sum_i \cos(g_i,
    r_i)$.

    Args:
        generated: embeddings of generated pictures, of any length.
        reference: embeddings of what each should be alike.

    Returns:
        a number in [-1, 1].

    Raises:
        ValueError: when there is no pair.

    Example:
        >>> import torch
        >>> image_similarity(torch.tensor([[1.0, 0.0], [1.0, 1.0]]), torch.tensor([[2.0, 0.0], [0.0, 1.0]]))
        tensor(0.8536)
    """
    if len(generated) == 0:
        raise ValueError("No pair of embeddings given: the mean of no similarity is not defined.")
    return functional.cosine_similarity(generated, reference, dim=-1).mean()
