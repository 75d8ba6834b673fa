"""What no configuration tells: rates and prices. Every one is an argument of `plan`; these are the defaults.

Rates are dense ones of the makers' data sheets. Prices are round figures for rented devices, an assumption:
look up your own.
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Device:
    """A kind of device.

    Attributes:
        tflops: 10^12 operations a second in dense matrix products, by precision: "bf16" on tensor cores,
            "fp32" without them, which is what PyTorch does by default.
        gib: memory.
        usd_per_hour: an assumption.
    """

    tflops: Mapping[str, float]
    gib: float
    usd_per_hour: float


DEVICES: Mapping[str, Device] = {
    "a100-40": Device(tflops={"bf16": 312.0, "fp32": 19.5}, gib=40, usd_per_hour=1.2),
    "a100-80": Device(tflops={"bf16": 312.0, "fp32": 19.5}, gib=80, usd_per_hour=1.6),
    "h100": Device(tflops={"bf16": 989.4, "fp32": 66.9}, gib=80, usd_per_hour=2.5),
    "h200": Device(tflops={"bf16": 989.4, "fp32": 66.9}, gib=141, usd_per_hour=3.5),
    "l40s": Device(tflops={"bf16": 362.0, "fp32": 91.6}, gib=48, usd_per_hour=0.9),
    "rtx4090": Device(tflops={"bf16": 165.2, "fp32": 82.6}, gib=24, usd_per_hour=0.4),
}
"""By name: NVIDIA's data sheets of A100 SXM, H100 SXM, H200 SXM, L40S and GeForce RTX 4090."""

MFU = 0.40
"""Share of the rate that training reaches; 0.35 to 0.45 is usual for transformers of this size."""
DRAW_MFU = 0.45
"""Share of the rate that drawing and encoding reach: 4.5 to 5 s for a grid of 1024 px and 28 steps on one
H100."""
JUDGE_USD = 0.001
"""A judgement of a pair by gemini-2.5-flash at list price; gpt-4o is about five times as dear. `dsd curate
--dry-run` tells what your own curator would cost on your own pairs."""
KEPT = 0.5
"""Share of the candidates that curation keeps: 44.6 % and 59.5 % of the two collections of Subjects200K have
all of their judge's best scores."""
PNG_BYTES_PER_PIXEL = 1.5
"""A PNG of a photograph-like picture."""
HEADROOM = 0.1
"""Share of the peak that is left free for what is not counted: the device's context, kernels' workspaces,
gaps in the allocator."""
