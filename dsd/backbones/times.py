"""Times and guidance kept in float32, whatever a model computes in."""

import contextlib
from collections.abc import Iterator
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn


@contextlib.contextmanager
def exact_times(
    model: nn.Module, t: Float[Tensor, " b"], guidance: Float[Tensor, " b"] | None = None
) -> Iterator[None]:
    """A context in which a FLUX model of diffusers embeds these times and guidance as they are.

    Stock classes round both to the dtype of their hidden states and multiply by 1000 afterwards. In bfloat16
    (8 bits) a time of 750 becomes 752 and a guidance of 3500 becomes 3504, while the quickest wave of their
    embedding has a period of 6.3. Autocast rounds float32 inputs just so. In float32 this changes nothing.

    Args:
        model: a diffusers model whose submodule `time_text_embed` gets (time, pooled text) or (time,
            guidance, pooled text), such as `FluxTransformer2DModel` and `FluxControlNetModel`.
        t: in [0, 1].
        guidance: as the model's `forward` gets it; None for a model without.
    """
    embedder: Any = model
    exact = [value.float() * 1000 for value in (t, guidance) if value is not None]

    def replace(module: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        assert len(given) == len(exact) + 1, "the model and its call differ on guidance"
        return (*exact, given[-1])

    handle = embedder.time_text_embed.register_forward_pre_hook(replace)
    try:
        yield
    finally:
        handle.remove()
