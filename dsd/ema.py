"""A running average of weights in training: smoother than the weights of any one step."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor


class Ema(nn.Module):
    """Exponential moving average of some parameters, with the usual warm-up of its decay.

    The averages are buffers: they move with the module they belong to, unless they are kept on the CPU, and
    lie in its checkpoints. Weights that are spread over processes (FSDP2) are averaged where they lie.

    Args:
        parameters: what is averaged; always given in the same order.
        decay: share of the average that stays at each update, in [0, 1). Early on less stays, (1 + n) / (10 +
            n) after n updates, so that the start is forgotten.
        device: "cpu" to keep the averages there, wherever the parameters are; None for beside them.

    Raises:
        ValueError: if the decay is outside [0, 1), or the device is another one.
    """

    num_updates: Tensor

    def __init__(self, parameters: Sequence[nn.Parameter], decay: float, device: str | None = None) -> None:
        super().__init__()
        if not 0 <= decay < 1:
            raise ValueError(
                f"The decay of the moving average must be in [0, 1); got {decay}. Usual: 0.99 to 0.9999."
            )
        if device not in ("cpu", None):
            raise ValueError(
                f"The moving average is kept on 'cpu' or beside the weights (None); got {device!r}."
            )
        self.decay = decay
        self.device = device
        self.register_buffer("num_updates", torch.zeros((), dtype=torch.int64, device="cpu"))
        self._count = 0
        for index, parameter in enumerate(parameters):
            self.register_buffer(f"average_{index}", parameter.detach().clone().to(device))

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
        averages = [_local(average) for average in self.averages]
        latest = [_local(p.detach()).to(a.device) for p, a in zip(parameters, averages, strict=True)]
        torch._foreach_lerp_(averages, latest, 1 - decay)

    @torch.no_grad()
    def swap(self, parameters: Sequence[nn.Parameter]) -> None:
        """Exchange parameters and averages, without copying where both are on one device; a second call
        exchanges them back.
        """
        for average, parameter in zip(self.averages, parameters, strict=True):
            if average.device == parameter.device and not isinstance(parameter, DTensor):
                average.data, parameter.data = parameter.data, average.data
                continue
            ours, theirs = _local(average), _local(parameter.detach())
            held = theirs.clone()
            theirs.copy_(ours)
            ours.copy_(held)

    @contextlib.contextmanager
    def in_place_of(self, parameters: Sequence[nn.Parameter]) -> Iterator[None]:
        """A context in which the parameters hold their averages."""
        self.swap(parameters)
        try:
            yield
        finally:
            self.swap(parameters)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Ema":
        if self.device is None:
            super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def _load_from_state_dict(self, *args: object, **kwargs: object) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._count = int(self.num_updates)


@contextlib.contextmanager
def averaged(ema: Ema | None, parameters: Sequence[nn.Parameter], optimizer: Any = None) -> Iterator[None]:
    """A context in which the parameters hold what is averaged of them.

    Args:
        ema: their running average, if there is one.
        parameters: as the average got them.
        optimizer: theirs; a schedule-free one shows its own average in `eval()` and hides it in `train()`.
    """
    free = optimizer is not None and all(
        callable(getattr(optimizer, name, None)) for name in ("train", "eval")
    )
    with contextlib.ExitStack() as stack:
        if free and any(group.get("train_mode") for group in optimizer.param_groups):
            optimizer.eval()
            stack.callback(optimizer.train)
        if ema is not None:
            stack.enter_context(ema.in_place_of(parameters))
        yield


def _local(x: Tensor) -> Tensor:
    """This process' part of a tensor that is spread over several."""
    return x.to_local() if isinstance(x, DTensor) else x
