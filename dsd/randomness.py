"""Random numbers that follow from a seed and a purpose, and not from what was drawn before."""

import hashlib
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Generators = torch.Generator | Sequence[torch.Generator]
"""One for a whole batch, or one for each of its elements."""


def generator(device: torch.device, *purpose: object) -> torch.Generator:
    """A generator whose numbers follow from the purpose alone.

    Args:
        device: where it draws.
        purpose: a seed, and what tells this use of it from all others; anything with a stable `repr`.
    """
    digest = hashlib.blake2b(repr(purpose).encode(), digest_size=8).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest, "big") >> 1)


def draw(
    generators: Generators, count: int, one: Callable[[slice, torch.Generator], Tensor], dim: int = 0
) -> Tensor:
    """Random numbers for each element of a batch.

    With a generator for each element, an element's numbers do not depend on its neighbours, so that a batch
    may be cut into parts, for other processes or for accumulated gradients, and draws the same.

    Args:
        generators: see `Generators`.
        count: of elements.
        one: given which elements and a generator, draws numbers for them.
        dim: the axis of the elements in what `one` returns.

    Raises:
        ValueError: if there are several generators, but not one for each element.
    """
    if isinstance(generators, torch.Generator):
        return one(slice(0, count), generators)
    if len(generators) != count:
        raise ValueError(f"{len(generators)} generators for {count} elements. Give one, or one for each.")
    return torch.cat([one(slice(i, i + 1), each) for i, each in enumerate(generators)], dim=dim)
