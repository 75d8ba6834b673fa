"""Knowing before paying."""

import inspect
import sys
from collections.abc import Mapping
from typing import Any, Literal

_HERE = frozenset({"out", "json"})


def plan(
    base: str = "flux.1-dev",
    conditioning: str | Mapping[str, Any] = "parallel",
    lora: int | Mapping[str, Any] | None = None,
    train: Literal["full", "added"] = "full",
    batch: int = 1,
    size: int = 512,
    width: int | None = None,
    text_tokens: int = 512,
    references: int = 1,
    precision: Literal["bf16", "fp32"] = "bf16",
    quantize: Literal["nf4", "int8", "fp8"] | None = None,
    checkpointing: bool = True,
    devices: int = 1,
    strategy: Literal["single", "ddp", "fsdp"] | None = None,
    kernels: Literal["cuda", "cpu"] = "cuda",
    steps: int = 100_000,
    device: str = "h100",
    device_tflops: float | None = None,
    device_gib: float | None = None,
    device_usd_per_hour: float | None = None,
    mfu: float | None = None,
    headroom: float | None = None,
    pairs: int = 400_000,
    layout: str = "2x2",
    pairs_per_grid: int | None = None,
    kept: float | None = None,
    draw_steps: int = 28,
    draw_mfu: float | None = None,
    judge_usd: float | None = None,
    png_bytes_per_pixel: float | None = None,
    out: str | None = None,
    json: bool = False,
) -> str:
    """Say what a training takes before it is paid for: memory, operations, time, money, disk.

    Memory and operations are counted on the real configuration without weights; rates, prices and shares are
    stated by options, and their defaults in `dsd.planning.stated`. Nothing is downloaded.

    Args:
        base: "flux.1-dev", "mini", or a diffusers folder, of which the configurations are read.
        conditioning: a name or a spec.
        lora: rank of the adapters, or all their arguments; none by default.
        train: without `lora`: everything, or what the conditioning adds.
        batch: pairs on one device in one step.
        size: height of a frame in pixels.
        width: of a frame in pixels; square by default.
        text_tokens: to which captions are padded or cut.
        references: of each pair.
        precision: "bf16" for mixed precision with frozen weights in bfloat16, or "fp32".
        quantize: how the frozen linear layers are stored; as they are by default.
        checkpointing: gradient checkpointing.
        devices: how many.
        strategy: single, ddp or fsdp; ddp for several devices by default.
        kernels: whose rules of mixed precision and optimiser.
        steps: of the training.
        device: whose rate, memory and price: a100-40, a100-80, h100, h200, l40s or rtx4090.
        device_tflops: dense rate of a device in TFLOP a second, instead.
        device_gib: memory of a device in GiB, instead.
        device_usd_per_hour: price of a device, instead.
        mfu: share of the rate that training reaches; 0.4 by default.
        headroom: share of the peak that must stay free; 0.1 by default.
        pairs: that are to be kept.
        layout: of the grids.
        pairs_per_grid: candidates of a grid; all ordered pairs of its panels by default.
        kept: share of the candidates that curation keeps; 0.5 by default.
        draw_steps: steps of the teacher's sampler.
        draw_mfu: share of the rate that drawing and encoding reach; 0.45 by default.
        judge_usd: price of one judgement; 0.001 by default.
        png_bytes_per_pixel: of stored pictures; 1.5 by default.
        out: a folder for plan.json, plan.md and plan.png.
        json: print the plan as JSON instead of tables.

    Raises:
        FileNotFoundError, LookupError: if there is no such base, conditioning or device.
        ValueError: for a number out of its range, or choices that exclude each other.
        OSError: if `out` cannot be written.
    """
    given = {name: value for name, value in locals().items() if name not in _HERE}
    from rich.console import Console

    from dsd import planning
    from dsd.planning import report
    from dsd.quiet import quiet_loading

    defaults = {name: p.default for name, p in inspect.signature(planning.plan).parameters.items()}
    given = {name: defaults[name] if value is None else value for name, value in given.items()}
    with Console(stderr=True).status("Counting a training step"), quiet_loading():
        found = planning.plan(**given)
    if out is not None:
        folder = planning.write(found, out)
    if json:
        return report.as_json(found).rstrip()
    Console(file=sys.stdout).print(report.rich(found))
    return "" if out is None else f"plan.json, plan.md and plan.png are in {folder}"
