"""Which precision trains faster on this machine, and which suits a model."""

import time
from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import functional

_ROWS, _WIDTH = 1024, 256
_TRIES = 5


def fast_precision() -> str:
    """The `precision` of a `Trainer`: "bf16-mixed" where bfloat16 is faster than float32, else "32-true".

    Processors without instructions for bfloat16 imitate them, many times slower than float32; so on a CPU
    some multiplications of both kinds are timed, in well under a second.
    """
    if torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"
    return "bf16-mixed" if _seconds(torch.bfloat16) < _seconds(torch.float32) else "32-true"


def check(parameters: Iterable[Tensor], precision: str) -> None:
    """Refuse a training whose weights are of several dtypes without mixed precision.

    Args:
        parameters: all that compute together.
        precision: of the `Trainer`.

    Raises:
        ValueError: if they do not go together.
    """
    dtypes = {str(parameter.dtype).removeprefix("torch.") for parameter in parameters}
    if len(dtypes) > 1 and precision in ("32-true", "64-true"):
        raise ValueError(
            f"The weights are {' and '.join(sorted(dtypes))}: the base is not float32, and what is trained "
            "is. Pass lightning.Trainer(precision='bf16-mixed'), or dtype='float32' to the student."
        )


@torch.no_grad()
def _seconds(dtype: torch.dtype) -> float:
    """The least of some timings of a linear layer."""
    rows, weight = torch.ones(_ROWS, _WIDTH, dtype=dtype), torch.ones(_WIDTH, _WIDTH, dtype=dtype)
    timings = []
    for _ in range(_TRIES):
        started = time.perf_counter()
        functional.linear(rows, weight)
        timings.append(time.perf_counter() - started)
    return min(timings)
