"""How long each cell of a comparison trains: marks of equal steps and of equal compute, and what fits a time.

All are trained past both marks in one go: the learning rate is constant and a running average is judged, so
that a snapshot in mid-training is as good as a training that ends there.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

EQUAL_STEPS, EQUAL_COMPUTE = "steps", "compute"
MARKS = (EQUAL_STEPS, EQUAL_COMPUTE)
LEAST_STEPS = 4
_LEAST_SHARE = 0.15  # of the time for training, however long the rest takes


@dataclass(frozen=True, kw_only=True)
class Probe:
    """What one backend costs, measured and counted before any cell.

    Attributes:
        step_tflop: of a training step, counted.
        forward_tflop: of the prediction for a batch, counted.
        formula_tflop: the same by formula.
        num_tokens: of one sequence.
        step_s: seconds of a training step on this machine.
        picture_s: seconds to draw a picture.
        peak_bytes: of live tensors in a training step.
        base_parameters: of the base's denoiser.
        added_parameters: of what conditioning and adapters add.
        trained_parameters: of what is trained.
        student: arguments of `Student` that say what is trained.
        trained: the same in words.
    """

    step_tflop: float
    forward_tflop: float
    formula_tflop: float
    num_tokens: int
    step_s: float
    picture_s: float
    peak_bytes: int
    base_parameters: int
    added_parameters: int
    trained_parameters: int
    student: Mapping[str, Any]
    trained: str


def marks(steps: int, step_tflop: Mapping[str, float]) -> dict[str, dict[str, int]]:
    """After how many steps each backend is judged.

    Equal steps are `steps` for all. Equal compute is what `steps` steps of the dearest backend cost; each of
    the others is given as many steps as come nearest to that.

    Args:
        steps: at the mark of equal steps.
        step_tflop: of one step of each backend.

    Raises:
        ValueError: if a number is not above 0.
    """
    if steps < 1 or not step_tflop or min(step_tflop.values()) <= 0:
        raise ValueError(f"Steps and their costs must be above 0; got {steps} steps of {dict(step_tflop)}.")
    compute = steps * max(step_tflop.values())
    return {
        name: {EQUAL_STEPS: steps, EQUAL_COMPUTE: round(compute / cost)} for name, cost in step_tflop.items()
    }


def steps_for(seconds: float, probes: Mapping[str, Probe], seeds: int, rest_s: float) -> int:
    """The number of equal steps for which all cells together take a given time.

    Args:
        seconds: for everything that is still to do.
        probes: of each backend.
        seeds: cells of each backend.
        rest_s: seconds for all that is not training.

    Returns:
        at least `LEAST_STEPS`.
    """
    training = max(_LEAST_SHARE * seconds, seconds - rest_s)
    dearest = max(probe.step_tflop for probe in probes.values())
    per_step = seeds * sum(probe.step_s * dearest / probe.step_tflop for probe in probes.values())
    return max(LEAST_STEPS, int(training / per_step))
