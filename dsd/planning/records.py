"""What a plan says, as records without torch."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class Moment:
    """Bytes on one device at one moment of a step.

    Attributes:
        phase: "forward", "backward" or "optimiser".
        parts: bytes by part; see `Memory.PARTS`.
    """

    phase: str
    parts: Mapping[str, int]

    @property
    def total(self) -> int:
        """Of all parts."""
        return sum(self.parts.values())


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes on one device.

    The parts are: `weights`, frozen ones as they are stored, and buffers; `trained`, the adapters, the layers
    that the conditioning adds or widens, or the whole denoiser; `gradients`; `optimiser`, its state;
    `activations`, all else that operations make, with the batch and their temporary results; `exchange`, what
    the strategy needs: buckets of gradients (ddp), gathered blocks (fsdp).

    Attributes:
        peak: the most at one moment.
        at_peak: the parts at that moment; they add up to the peak.
        most: the most of each part at any moment.
        phase: of the peak.
        timeline: moments of the step in order, thinned out; the peak is one of them.
    """

    peak: int
    at_peak: Mapping[str, int]
    most: Mapping[str, int]
    phase: str
    timeline: tuple[Moment, ...] = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Training:
    """What training costs.

    Attributes:
        base_parameters: of the base's denoiser.
        added_parameters: that conditioning and adapters add.
        trained_parameters: those that are trained.
        num_tokens: of one sequence, text and image.
        forward_tflop: of one prediction for the batch of one device.
        step_tflop: of one step of one device.
        step_s: seconds of a step at the stated rate.
        pairs_per_s: of all devices.
        days: for all steps.
        device_hours: of all devices.
        usd: of all devices.
    """

    base_parameters: int
    added_parameters: int
    trained_parameters: int
    num_tokens: int
    forward_tflop: float
    step_tflop: float
    step_s: float
    pairs_per_s: float
    days: float
    device_hours: float
    usd: float


@dataclass(frozen=True, kw_only=True)
class Data:
    """What making the pairs costs.

    Attributes:
        pairs: that are kept.
        grids: that are drawn for them.
        candidates: pairs that are judged.
        grid_tflop: of one grid: all steps of the sampler, its caption encoded, the picture decoded.
        draw_device_hours: for all grids.
        draw_usd: likewise.
        judge_usd: for all candidates.
        encode_tflop: of one pair: both frames and the caption.
        encode_device_hours: for all pairs.
        encode_usd: likewise.
    """

    pairs: int
    grids: int
    candidates: int
    grid_tflop: float
    draw_device_hours: float
    draw_usd: float
    judge_usd: float
    encode_tflop: float
    encode_device_hours: float
    encode_usd: float


@dataclass(frozen=True, kw_only=True)
class Disk:
    """Bytes on disk.

    Attributes:
        target: of one pair's row in the cache of encodings.
        reference: of one reference's row.
        text: of one caption's row.
        references: how many rows of references there are at most.
        captions: how many rows of captions there are at most.
        cache: of the whole cache of encodings.
        pictures: of grids and pairs, at the stated bytes a pixel.
        checkpoint: of one checkpoint: what is trained, and the optimiser's state.
    """

    target: int
    reference: int
    text: int
    references: int
    captions: int
    cache: int
    pictures: int
    checkpoint: int


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a training would take.

    Attributes:
        setting: all arguments, with the ones that were left to their defaults.
        stated: what was taken as given instead of counted: rates, prices, shares.
        memory: of one device in a training step.
        device_bytes: that a device has.
        fits: whether peak and headroom are within that.
        training: what training costs.
        data: what making the pairs costs.
        disk: what is stored.
    """

    setting: Mapping[str, Any]
    stated: Mapping[str, Any]
    memory: Memory
    device_bytes: int
    fits: bool
    training: Training
    data: Data
    disk: Disk

    def as_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return asdict(self)
