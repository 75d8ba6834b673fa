"""A running average of weights in training: smoother than the weights of any one step."""

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn


class Ema(nn.Module):
    """Exponential moving average of some parameters, with the usual warm-up of its decay.

    The averages are buffers: they move with the module they belong to and lie in its checkpoints.

    Args:
        parameters: what is averaged; always given in the same order.
        decay: share of the average that stays at each update, in [0, 1). Early on less stays, (1 + n) / (10 +
            n) after n updates, so that the start is forgotten.

    Raises:
        ValueError: if the decay is outside [0, 1).
    """

    num_updates: Tensor

    def __init__(self, parameters: Sequence[nn.Parameter], decay: float) -> None:
        super().__init__()
        if not 0 <= decay < 1:
            raise ValueError(
                f"The decay of the moving average must be in [0, 1); got {decay}. Usual: 0.99 to 0.9999."
            )
        self.decay = decay
        self.register_buffer("num_updates", torch.zeros((), dtype=torch.int64, device="cpu"))
        self._count = 0
        for index, parameter in enumerate(parameters):
            self.register_buffer(f"average_{index}", parameter.detach().clone())

    @property
    def averages(self) -> list[Tensor]:
        """The averages, in the parameters' order."""
        return [
            buffer for name, buffer in self._buffers.items() if name != "num_updates" and buffer is not None
        ]

    @torch.no_grad()
    def update(self, parameters: Sequence[nn.Parameter]) -> None:
        """Move the averages towards the parameters; call it once after each step of the optimiser."""
        decay = min(self.decay, (1 + self._count) / (10 + self._count))
        self._count += 1
        self.num_updates.fill_(self._count)
        torch._foreach_lerp_(self.averages, [parameter.detach() for parameter in parameters], 1 - decay)

    @torch.no_grad()
    def swap(self, parameters: Sequence[nn.Parameter]) -> None:
        """Exchange parameters and averages without copying; a second call exchanges them back."""
        for average, parameter in zip(self.averages, parameters, strict=True):
            held = average.data
            average.data = parameter.data
            parameter.data = held

    @contextlib.contextmanager
    def in_place_of(self, parameters: Sequence[nn.Parameter]) -> Iterator[None]:
        """A context in which the parameters hold their averages."""
        self.swap(parameters)
        try:
            yield
        finally:
            self.swap(parameters)

    def _load_from_state_dict(self, *args: object, **kwargs: object) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._count = int(self.num_updates)
