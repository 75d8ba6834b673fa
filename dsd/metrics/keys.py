"""Names of items as numbers, so that torchmetrics can gather them from other processes."""

import hashlib
from collections.abc import Iterable, Mapping

import torch
from jaxtyping import Int
from torch import Tensor


def hashed(names: Iterable[object]) -> Int[Tensor, " names"]:
    """The first 8 bytes of each name's BLAKE2 hash: among a million names, two are alike once in 40 million
    times.

    Example:
        >>> hashed(["cat-0", "cat-1"]).unique().shape
        torch.Size([2])
    """
    digests = (hashlib.blake2b(str(name).encode(), digest_size=8).digest() for name in names)
    numbers = [int.from_bytes(digest, "little", signed=True) for digest in digests]
    return torch.tensor(numbers, dtype=torch.int64)


def listed(names: object, count: int, what: str) -> list[object]:
    """One name for each of `count` items: a list, a tensor or an array of them, or one for all.

    Raises:
        ValueError: if there are not as many.
    """
    if isinstance(names, str | int):
        return [names] * count
    found = names.tolist() if hasattr(names, "tolist") else list(names)  # type: ignore[call-overload]
    if not isinstance(found, list):
        return [found] * count
    if len(found) != count:
        raise ValueError(f"Got {len(found)} {what} for {count} items; give one for each.")
    return found


def check_once(keys: Int[Tensor, " items"], names: Mapping[int, str], what: str) -> None:
    """Refuse an item that is there twice.

    Args:
        keys: from `hashed`.
        names: what was hashed, as far as it is known.
        what: what an item has of each.

    Raises:
        ValueError: with the first of them.
    """
    found, counts = torch.unique(keys, return_counts=True)
    if twice := found[counts > 1].tolist():
        name = names.get(twice[0], "one added by another process")
        raise ValueError(
            f"{len(twice)} items have several {what}, the first {name!r}. Add each once, or take their mean "
            "before."
        )


def joined(
    one: Int[Tensor, " a"], other: Int[Tensor, " b"]
) -> tuple[int, Int[Tensor, " a"], Int[Tensor, " b"]]:
    """The place of each key of two columns in the union of both, and how large that is."""
    union, place = torch.unique(torch.cat([one, other]), return_inverse=True)
    return len(union), place[: len(one)], place[len(one) :]
