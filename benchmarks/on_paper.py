"""400,000 pairs and 40 million on paper: what `dsd plan` counted, and what `benchmarks/scale.py` measured.

    python benchmarks/on_paper.py runs/benchmarks/scale.json

The figures of FLUX.1-dev are those that docs/plan.md shows with its command; rates and prices are those of
`dsd.planning.stated`. What a run takes beyond the measured sizes lies on the line through the two largest.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dsd.data.writer import TableWriter
from dsd.planning import stated
from dsd.planning.data import data_cost

DAYS = {400_000: 1, 40_000_000: 14}
"""In which the data is to be made."""
DEVICES, PAIRS_A_GRID = 8, 12
GRID_TFLOP, ENCODE_TFLOP = 2_098, 9.466
STEP_PAIRS_S = 26.3  # of eight H100s
TARGET_KIB, REFERENCE_KIB, CAPTION_KIB = 128.1, 256.1, 4_097.7 / 4  # a caption of 128 tokens, not of 512
PICTURE_KIB = 195.31 * 2**20 / 400_000  # grids and pairs, of a kept pair
ENTRY_BYTES = 330  # of a shard in a manifest
EXTRAPOLATED = ("open for training", "plan a resume", "filter by policy")


def line(measures: list[Mapping[str, Any]], task: str, value: str, rows: int) -> float:
    """A measured value at a number of rows: on the line through the two largest sizes.

    Raises:
        ValueError: if fewer than two sizes were measured.
    """
    some = sorted((m["rows"], m[value]) for m in measures if m["task"] == task)
    if len(some) < 2:
        raise ValueError(
            f"{task!r} was measured at {len(some)} sizes; two are needed. Run benchmarks/scale.py."
        )
    (low, one), (high, other) = some[-2:]
    return float(other + (other - one) / (high - low) * (rows - high))


def column(pairs: int, measures: list[Mapping[str, Any]]) -> dict[str, str]:
    """All numbers for so many kept pairs."""
    device = stated.DEVICES["h100"]
    data = data_cost(
        pairs=pairs,
        pairs_per_grid=PAIRS_A_GRID,
        kept=stated.KEPT,
        grid=GRID_TFLOP,
        encode=ENCODE_TFLOP,
        judge_usd=stated.JUDGE_USD,
        tflops=device.tflops["bf16"] * stated.DRAW_MFU,
        usd_per_hour=device.usd_per_hour,
    )
    panels, seconds, gib = data.grids * 4, DAYS[pairs] * 86_400, 2**20  # KiB in a GiB
    cache = (pairs * TARGET_KIB + panels * (REFERENCE_KIB + CAPTION_KIB)) / gib
    pictures = pairs * PICTURE_KIB / gib
    shards = pictures / 2 * 2**30 / TableWriter.shard_bytes
    told = {
        "days for the data": f"{DAYS[pairs]}",
        "grids to draw": f"{data.grids:,}",
        "drawing: H100 hours, price": f"{data.draw_device_hours:,.0f}, ${data.draw_usd:,.0f}",
        "H100s to draw them in that time": f"{data.draw_device_hours / 24 / DAYS[pairs]:.1f}",
        "judgements, price": f"{data.candidates:,}, ${data.judge_usd:,.0f}",
        "judgements a second (as many at once, at 1 s each)": f"{data.candidates / seconds:.1f}",
        "encoding: H100 hours, price": f"{data.encode_device_hours:,.1f}, ${data.encode_usd:,.0f}",
        "pictures, GiB": f"{pictures:,.0f}",
        "cache of encodings at 128 text tokens, GiB": f"{cache:,.0f}",
        "of it captions, GiB": f"{panels * CAPTION_KIB / gib:,.0f}",
        "shards of pairs": f"{shards:,.0f}",
        "manifest of pairs, MiB": f"{shards * ENTRY_BYTES / 2**20:,.1f}",
        "manifests written, one after each shard, GiB": f"{shards**2 * ENTRY_BYTES / 2 / 2**30:,.1f}",
        f"an epoch on {DEVICES} H100s, hours": f"{pairs / STEP_PAIRS_S / 3600:,.1f}",
        "cache read meanwhile, MiB/s": f"{cache * 2**10 / pairs * STEP_PAIRS_S:,.0f}",
    }
    for task in EXTRAPOLATED:
        cpu, mib = (line(measures, task, value, pairs) for value in ("cpu_s", "mib"))
        told[f"{task}: CPU seconds, MiB"] = f"{cpu:,.1f}, {mib:,.0f}"
    return told


def main() -> None:
    """Print the table."""
    measures = json.loads(Path(sys.argv[1]).read_text())["tasks"]
    columns = {pairs: column(pairs, measures) for pairs in DAYS}
    print("| | " + " | ".join(f"{pairs:,} pairs" for pairs in columns) + " |")
    print("| --- |" + " ---: |" * len(columns))
    for name in columns[min(columns)]:
        print(f"| {name} | " + " | ".join(told[name] for told in columns.values()) + " |")


if __name__ == "__main__":
    main()
