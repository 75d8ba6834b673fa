"""How the devices of a training share its memory."""

import itertools
from collections.abc import Sequence
from typing import Literal

from dsd.memory import OTHER
from dsd.planning.records import Memory, Moment
from dsd.planning.step import BACKWARD, OPTIMISER, PARTS, TrackedStep

Strategy = Literal["single", "ddp", "fsdp"]
STRATEGIES = ("single", "ddp", "fsdp")
EXCHANGE = "exchange"
_FLOAT32_BYTES = 4
_GATHERED = 2  # blocks at a time: the one in use and the next one, fetched ahead
_TIMELINE = 400


def shared(step: TrackedStep, strategy: Strategy, devices: int, half_trained: bool) -> Memory:
    """A tracked step as each device has it.

    - single: as it is.
    - ddp: every device holds everything, and buckets as large as the gradients, through which they travel.
    - fsdp: weights, what is trained, gradients and the optimiser's state are divided; two blocks and what
      lies outside blocks are gathered at a time, and in the backward pass two blocks' whole gradients.

    Args:
        step: of one device that holds everything.
        strategy: one of these.
        devices: how many.
        half_trained: whether the step was tracked with what is trained in bfloat16; the divided parts are
            float32 all the same.
    """
    moments = [_moment(phase, parts, step, strategy, devices, half_trained) for phase, parts in step.moments]
    moments = [moment for moment in moments if moment.phase]
    peak = max(moments, key=lambda moment: moment.total)
    return Memory(
        peak=peak.total,
        at_peak=peak.parts,
        most={part: max(moment.parts[part] for moment in moments) for part in peak.parts},
        phase=peak.phase,
        timeline=_thinned(moments),
    )


def _moment(
    phase: str, sizes: Sequence[int], step: TrackedStep, strategy: Strategy, devices: int, half_trained: bool
) -> Moment:
    parts = dict(zip(PARTS, sizes, strict=True))
    exchange = 0
    if strategy == "ddp":
        exchange = _FLOAT32_BYTES * step.num_trained
    elif strategy == "fsdp":
        wider = 2 if half_trained else 1
        for part in ("trained", "gradients", "optimiser", *([OTHER] if phase == OPTIMISER else [])):
            parts[part] = -(-parts[part] * wider // devices)
        parts["weights"] = -(-parts["weights"] // devices)
        if phase != OPTIMISER:
            exchange = _GATHERED * step.block_bytes + step.rest_bytes
        if phase == BACKWARD:
            exchange += _GATHERED * step.block_trained * (2 if half_trained else _FLOAT32_BYTES)
    return Moment(phase=phase, parts={**parts, EXCHANGE: exchange})


def _thinned(moments: Sequence[Moment]) -> tuple[Moment, ...]:
    """The largest moment of each of some stretches of the step; no stretch lies in two phases."""
    length = max(1, -(-len(moments) // _TIMELINE))
    found: list[Moment] = []
    for _, group in itertools.groupby(moments, lambda moment: moment.phase):
        phase = list(group)
        stretches = [phase[start : start + length] for start in range(0, len(phase), length)]
        found += [max(stretch, key=lambda moment: moment.total) for stretch in stretches]
    return tuple(found)
