"""What diffusers' controls cost in exactness on a student: error against plain, seconds a picture.

    python benchmarks/inference.py STUDENT reference.png "a prompt"

The error is the root mean square over pixels in [0, 1], and the largest, both against the plain pictures of
the same seeds.
"""

import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from diffusers import FasterCacheConfig, FirstBlockCacheConfig, TaylorSeerCacheConfig
from PIL import Image

from dsd import DSDPipeline

Change = Callable[[DSDPipeline], Any]
STEPS, SEEDS = 28, (0, 1, 2, 3)
GUIDED: dict[str, Any] = {"image_guidance": 2.0, "text_guidance": 1.5}


def faster(pipe: DSDPipeline) -> Any:
    """FasterCache for FLUX: its attention layers by name, no unconditional half of the batch."""
    return FasterCacheConfig(
        spatial_attention_block_skip_range=2,
        spatial_attention_timestep_skip_range=(-1, 681),
        spatial_attention_block_identifiers=(
            r"^transformer_blocks.*attn",
            r"^single_transformer_blocks.*attn",
        ),
        attention_weight_callback=lambda _: 0.3,
        is_guidance_distilled=True,
        current_timestep_callback=lambda: pipe.current_timestep,
    )


def cpu_offload(pipe: DSDPipeline) -> None:
    """Model offload with main memory as the device: hooks without transfers."""
    pipe.enable_model_cpu_offload(device="cpu")


def fp8(pipe: DSDPipeline) -> None:
    """Weights stored in 8 bits, computed in float32."""
    pipe.transformer.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)


def taylor(interval: int) -> Any:
    """TaylorSeer with factors in float32."""
    return TaylorSeerCacheConfig(cache_interval=interval, taylor_factors_dtype=torch.float32)


def first_block(threshold: float) -> Change:
    """The first block's change decides whether the others are run."""
    return lambda pipe: pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold))


ROWS: list[tuple[str, Change, dict[str, Any]]] = [
    ("model offload", cpu_offload, {}),
    ("group offload", lambda p: p.enable_group_offload(torch.device("cpu"), offload_type="leaf_level"), {}),
    ("fp8 storage", fp8, {}),
    ("attention `_native_math`", lambda p: p.transformer.set_attention_backend("_native_math"), {}),
    ("first-block cache, 0.05", first_block(0.05), {}),
    ("first-block cache, 0.15", first_block(0.15), {}),
    ("FasterCache", lambda p: p.transformer.enable_cache(faster(p)), {}),
    ("TaylorSeer, every 2nd", lambda p: p.transformer.enable_cache(taylor(2)), {}),
    ("TaylorSeer, every 5th", lambda p: p.transformer.enable_cache(taylor(5)), {}),
    ("guided in one call", lambda p: None, {**GUIDED, "batch_guidance": True}),
    ("guided, first-block cache, 0.05", first_block(0.05), GUIDED),
    ("guided, interval 0.2 to 0.8", lambda p: None, {**GUIDED, "guidance_interval": (0.2, 0.8)}),
]


def main() -> None:
    """Print a table in Markdown."""
    student, picture, prompt = sys.argv[1:]
    reference = Image.open(picture)

    def drawn(pipe: DSDPipeline, **arguments: Any) -> tuple[torch.Tensor, float]:
        pipe.set_progress_bar_config(disable=True)
        start = time.perf_counter()
        generators = [torch.Generator().manual_seed(seed) for seed in SEEDS]
        images = pipe(
            reference,
            prompt,
            num_images_per_prompt=len(SEEDS),
            generator=generators,
            num_inference_steps=STEPS,
            output_type="pt",
            **arguments,
        ).images
        return images, (time.perf_counter() - start) / len(SEEDS)

    pipe = DSDPipeline.from_pretrained(student)
    drawn(pipe)  # the first call is slower
    plain = {True: drawn(pipe, **GUIDED), False: drawn(pipe)}
    sys.stdout.write("| | RMS | largest | s a picture | plain |\n|---|---|---|---|---|\n")
    for name, change, arguments in ROWS:
        pipe = DSDPipeline.from_pretrained(student)
        change(pipe)
        images, seconds = drawn(pipe, **arguments)
        wanted, before = plain[bool(arguments)]
        off = (images - wanted).abs()
        rms, largest = float(off.square().mean().sqrt()), float(off.max())
        sys.stdout.write(f"| {name} | {rms:.2g} | {largest:.2g} | {seconds:.2f} | {before:.2f} |\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
