"""The plan of a training: everything that is counted, with what is stated, as one record."""

from collections.abc import Mapping
from os import PathLike
from typing import Any, Literal

import torch

from dsd.backbones.base import Reference
from dsd.backbones.flux import FluxBackbone
from dsd.counting import Count, count, skeleton
from dsd.grids import Layout
from dsd.planning import stated
from dsd.planning.data import data_cost, disk, encode_tflop, grid_tflop
from dsd.planning.quantized import QUANTIZED, Quantize
from dsd.planning.records import GIB, Plan, Training
from dsd.planning.sharing import STRATEGIES, Strategy, shared
from dsd.planning.step import PARTS, TrackedStep, encoded_batch, fake_student, track
from dsd.planning.vision import seen_tokens
from dsd.student import Student

_ALL_PARTS = ("denoiser", "vae", "text")


def plan(
    base: str | PathLike[str] = "flux.1-dev",
    conditioning: str | Mapping[str, Any] = "parallel",
    *,
    lora: int | Mapping[str, Any] | None = None,
    train: Literal["full", "added"] = "full",
    batch: int = 1,
    size: int = 512,
    width: int | None = None,
    text_tokens: int = 512,
    references: int = 1,
    precision: Literal["bf16", "fp32"] = "bf16",
    quantize: Quantize | None = None,
    checkpointing: bool = True,
    devices: int = 1,
    strategy: Strategy | None = None,
    kernels: Literal["cuda", "cpu"] = "cuda",
    steps: int = 100_000,
    device: str = "h100",
    device_tflops: float | None = None,
    device_gib: float | None = None,
    device_usd_per_hour: float | None = None,
    mfu: float = stated.MFU,
    headroom: float = stated.HEADROOM,
    pairs: int = 400_000,
    layout: str = "2x2",
    pairs_per_grid: int | None = None,
    kept: float = stated.KEPT,
    draw_steps: int = 28,
    draw_mfu: float = stated.DRAW_MFU,
    judge_usd: float = stated.JUDGE_USD,
    png_bytes_per_pixel: float = stated.PNG_BYTES_PER_PIXEL,
) -> Plan:
    """Say what a training takes: memory, operations, time, money, disk. No weights are read.

    The step is the one of `Student` under `lightning.Trainer` in mixed precision, on cached encodings. For
    FLUX.1-dev this takes about a minute.

    Args:
        base: "flux.1-dev", "mini", or a folder as `FluxPipeline.save_pretrained` writes it, of which the
            configurations are read.
        conditioning: as `Student` takes it: a name or a spec.
        lora: rank of the adapters, or all arguments of `add_lora`; None for none.
        train: without `lora`: "full" or "added".
        batch: pairs on one device in one step.
        size: height of a frame, in pixels.
        width: of a frame, in pixels; by default square.
        text_tokens: to which captions are padded or cut, in training and in the cache.
        references: of each pair.
        precision: "bf16", frozen weights in bfloat16 and mixed precision; or "fp32".
        quantize: how the frozen linear layers are stored: "nf4", "int8" or "fp8"; None for as they are.
        checkpointing: gradient checkpointing.
        devices: how many.
        strategy: "single", "ddp" or "fsdp"; by default "single" for one device and "ddp" for several.
        kernels: whose rules of mixed precision and optimiser: "cuda" or "cpu".
        steps: of the training.
        device: a name in `dsd.planning.stated.DEVICES`, which gives the next three.
        device_tflops: dense rate of a device in TFLOP a second.
        device_gib: memory of a device.
        device_usd_per_hour: price of a device.
        mfu: share of that rate that training reaches.
        headroom: share of the peak that must stay free.
        pairs: that are to be kept.
        layout: of the grids, such as "2x2" panels of `size`.
        pairs_per_grid: candidates of a grid; by default all ordered pairs of its panels.
        kept: share of the candidates that curation keeps.
        draw_steps: steps of the teacher's sampler.
        draw_mfu: share of the rate that drawing and encoding reach.
        judge_usd: price of one judgement.
        png_bytes_per_pixel: of stored pictures.

    Raises:
        FileNotFoundError, LookupError: if there is no such base, conditioning or device.
        ValueError: for a choice that does not exist, a number out of its range, or choices that exclude each
            other.
    """
    setting: dict[str, Any] = dict(locals())
    height, width = size, width or size
    strategy = strategy or ("single" if devices == 1 else "ddp")
    grid_layout = Layout.parse(layout)
    panels = grid_layout.rows * grid_layout.columns
    pairs_per_grid = panels * (panels - 1) if pairs_per_grid is None else pairs_per_grid
    setting |= {"base": str(base), "width": width, "strategy": strategy, "pairs_per_grid": pairs_per_grid}
    _check(setting, panels)
    kind = _device(device)
    rate = kind.tflops[precision] if device_tflops is None else device_tflops
    memory_gib = kind.gib if device_gib is None else device_gib
    usd_per_hour = kind.usd_per_hour if device_usd_per_hour is None else device_usd_per_hour
    adapters = {"rank": lora} if isinstance(lora, int) else lora
    student: dict[str, Any] = {"lora": adapters, "train": train, "gradient_checkpointing": checkpointing}
    half_trained = strategy == "fsdp" and precision == "bf16"
    whole = _flux(base)
    assert whole.denoiser is not None
    spec, tokens = seen_tokens(conditioning, whole.denoiser.config.joint_attention_dim, batch * references)
    seen = None if tokens is None else _grouped(tokens, batch)
    sizes: dict[str, Any] = {
        "batch_size": batch, "text_tokens": text_tokens, "num_references": references, "reference": seen
    }  # fmt: skip

    grid = grid_tflop(whole, *_grid_size(grid_layout, height, width), draw_steps, text_tokens)
    fake = fake_student(_flux(base, "denoiser", "vae"), spec, precision, **student)
    encoded = encoded_batch(fake, precision, height, width, **sizes)
    fake.backbone.release("vae")  # training on the cache needs the denoiser alone
    encode = encode_tflop(whole, lambda: _encode(whole, fake, height, width, references, seen), text_tokens)
    found = count(base, spec, height=height, width=width, **sizes, **student)
    step = track(
        fake, encoded, autocast=precision == "bf16", kernels=kernels, quantize=quantize,
        half_trained=half_trained,
    )  # fmt: skip
    memory = shared(step, strategy, devices, half_trained)
    data = data_cost(
        pairs=pairs, pairs_per_grid=pairs_per_grid, kept=kept, grid=grid, encode=encode, judge_usd=judge_usd,
        tflops=rate * draw_mfu, usd_per_hour=usd_per_hour,
    )  # fmt: skip
    return Plan(
        setting=setting,
        stated={
            "device_tflops": rate, "device_gib": memory_gib, "device_usd_per_hour": usd_per_hour, "mfu": mfu,
            "headroom": headroom, "kept": kept, "draw_mfu": draw_mfu, "judge_usd": judge_usd,
            "png_bytes_per_pixel": png_bytes_per_pixel,
        },
        memory=memory,
        device_bytes=round(memory_gib * GIB),
        fits=memory.peak * (1 + headroom) <= memory_gib * GIB,
        training=_training(found, batch, devices, steps, rate * mfu, usd_per_hour),
        data=data,
        disk=disk(
            encoded, pairs=pairs, grids=data.grids, layout=grid_layout, frame=(height, width),
            png_bytes_per_pixel=png_bytes_per_pixel, checkpoint=_checkpoint_bytes(step, half_trained),
        ),
    )  # fmt: skip


def _flux(base: str | PathLike[str], *parts: str) -> FluxBackbone:
    backbone = skeleton(base, parts=parts or _ALL_PARTS)
    assert isinstance(backbone, FluxBackbone)
    return backbone


def _encode(
    backbone: FluxBackbone, student: Student, height: int, width: int, references: int, seen: Reference | None
) -> None:
    """The pictures of a pair on the meta device; a vision encoder's tokens are not counted."""
    with torch.device("meta"):
        blank = torch.empty(1, 3, height, width)
        pixels = student.conditioning.prepare([blank] * references, height, width)
        if seen is None:
            student.conditioning.encode(backbone, pixels)
        student.conditioning.encode_target(backbone, pixels, blank)


def _grouped(tokens: torch.Tensor, batch: int) -> Reference:
    """Those of all references of a pair one after the other."""
    return Reference(tokens=tokens.reshape(batch, -1, tokens.shape[-1]))


def _grid_size(layout: Layout, height: int, width: int) -> tuple[int, int]:
    return layout.rows * height, layout.columns * width


def _training(
    found: Count, batch: int, devices: int, steps: int, tflops: float, usd_per_hour: float
) -> Training:
    step_s = found.step_tflop / tflops
    hours = steps * step_s / 3600
    return Training(
        base_parameters=found.base_parameters,
        added_parameters=found.added_parameters,
        trained_parameters=found.trained_parameters,
        num_tokens=found.num_tokens,
        forward_tflop=found.forward_tflop,
        step_tflop=found.step_tflop,
        step_s=step_s,
        pairs_per_s=batch * devices / step_s,
        days=hours / 24,
        device_hours=hours * devices,
        usd=hours * devices * usd_per_hour,
    )


def _checkpoint_bytes(step: TrackedStep, half_trained: bool) -> int:
    sizes = dict(zip(PARTS, step.moments[0][1], strict=True))
    return (sizes["trained"] + sizes["optimiser"]) * (2 if half_trained else 1)


def _device(name: str) -> stated.Device:
    if name not in stated.DEVICES:
        raise LookupError(
            f"No rates are known of the device {name!r}. Known: {', '.join(stated.DEVICES)}; for another "
            "give one of these with `device_tflops`, `device_gib` and `device_usd_per_hour` of your own."
        )
    return stated.DEVICES[name]


def _check(setting: Mapping[str, Any], panels: int) -> None:
    for name, allowed in (
        ("precision", ("bf16", "fp32")), ("quantize", (None, *QUANTIZED)), ("strategy", STRATEGIES),
        ("kernels", ("cuda", "cpu")),
    ):  # fmt: skip
        if setting[name] not in allowed:
            shown = ", ".join(repr(value) for value in allowed if value is not None)
            raise ValueError(f"Unknown {name}={setting[name]!r}. Allowed: {shown}.")
    if panels < 2:
        raise ValueError(f"A grid needs at least 2 panels to give a pair; got layout={setting['layout']!r}.")
    for name in ("batch", "size", "width", "text_tokens", "references", "devices", "steps", "pairs",
                 "pairs_per_grid", "draw_steps"):  # fmt: skip
        if setting[name] < 1:
            raise ValueError(f"`{name}` must be at least 1; got {setting[name]}.")
    for name in ("size", "width"):
        if setting[name] % FluxBackbone.pixels_per_token:
            raise ValueError(
                f"`{name}` must be a multiple of {FluxBackbone.pixels_per_token} px; got {setting[name]}."
            )
    for name in ("mfu", "kept", "draw_mfu"):
        if not 0 < setting[name] <= 1:
            raise ValueError(f"`{name}` is a share, above 0 and at most 1; got {setting[name]}.")
    for name in ("device_tflops", "device_gib"):
        if setting[name] is not None and setting[name] <= 0:
            raise ValueError(f"`{name}` must be above 0; got {setting[name]}.")
    for name in ("judge_usd", "png_bytes_per_pixel", "headroom", "device_usd_per_hour"):
        if setting[name] is not None and setting[name] < 0:
            raise ValueError(f"`{name}` must be at least 0; got {setting[name]}.")
    if setting["strategy"] == "single" and setting["devices"] > 1:
        raise ValueError(f"{setting['devices']} devices need the strategy 'ddp' or 'fsdp'; got 'single'.")
    if setting["pairs_per_grid"] > panels * (panels - 1):
        raise ValueError(
            f"A {setting['layout']} grid gives at most {panels * (panels - 1)} pairs; got pairs_per_grid="
            f"{setting['pairs_per_grid']}. Give fewer, or a larger `layout`."
        )
    if setting["quantize"] and setting["lora"] is None and setting["train"] == "full":
        raise ValueError(
            f"quantize={setting['quantize']!r} needs a frozen base, and train='full' trains it. "
            "Give `lora`, or train='added'."
        )
