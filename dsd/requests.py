"""What a call of the pipeline was asked for, checked and paired."""

from collections.abc import Sequence
from typing import Any

import torch


def checked_prompts(prompt: Any) -> list[str]:
    """Prompts as a list.

    Raises:
        TypeError: if they are no strings.
        ValueError: if one is empty.
    """
    prompts = [prompt] if isinstance(prompt, str) else prompt
    if not isinstance(prompts, Sequence) or not all(isinstance(text, str) for text in prompts):
        raise TypeError(f"A prompt must be a string or a list of strings; got {prompt!r}.")
    if not prompts or not all(text.strip() for text in prompts):
        raise ValueError(f"A prompt is empty: {prompt!r}. Say what to draw, such as 'it sits on a beach'.")
    return list(prompts)


def checked_negatives(negative: Any, count: int) -> list[str]:
    """A negative prompt for each prompt; the empty one by default.

    Raises:
        TypeError: if they are no strings.
        ValueError: if their number does not fit.
    """
    found = [negative or ""] * count if negative is None or isinstance(negative, str) else negative
    if not isinstance(found, Sequence) or not all(isinstance(text, str) for text in found):
        raise TypeError(f"A negative prompt must be a string or a list of strings; got {negative!r}.")
    if len(found) != count:
        raise ValueError(f"{len(found)} negative prompts for {count} prompts. Give one, or as many.")
    return list(found)


def pairing(num_images: int, num_prompts: int, copies: int) -> tuple[list[int], list[int]]:
    """Which reference and which prompt each picture is drawn from.

    Raises:
        ValueError: if their numbers do not fit.
    """
    count = max(num_images, num_prompts)
    if num_images not in (1, count) or num_prompts not in (1, count):
        raise ValueError(
            f"{num_images} references do not go with {num_prompts} prompts. "
            "Give one of either, or as many of both."
        )
    pairs = [(i % num_images, i % num_prompts) for i in range(count) for _ in range(copies)]
    return [image for image, _ in pairs], [prompt for _, prompt in pairs]


def checked_generators(
    generator: torch.Generator | Sequence[torch.Generator] | None,
    seed: int | None,
    count: int,
    device: torch.device,
) -> torch.Generator | list[torch.Generator] | None:
    """One generator for all noise, or one for each picture.

    Raises:
        ValueError: if both are given, or their number does not fit.
    """
    if generator is not None and seed is not None:
        raise ValueError("Give either `generator` or `seed`, not both.")
    if seed is not None:
        return [torch.Generator(device).manual_seed(seed + i) for i in range(count)]
    if generator is None or isinstance(generator, torch.Generator):
        return generator
    if len(generator) != count:
        raise ValueError(
            f"{len(generator)} generators for {count} pictures. Give one, or one for each picture."
        )
    return list(generator)
