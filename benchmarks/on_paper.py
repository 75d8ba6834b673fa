"""400,000 pairs and 40 million on paper: what `dsd plan` counts, and what `benchmarks/scale.py` measured.

    python benchmarks/on_paper.py runs/benchmarks/scale.json

Rates and prices are those of `dsd.planning.stated`; memory and seconds of a run beyond the measured sizes lie on the
line through the two largest.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dsd
from dsd.data.writer import TableWriter

DAYS, DEVICES, ENTRY_BYTES = {400_000: 1, 40_000_000: 14}, 8, 330  # days to make data in; bytes an entry
WORDS = ("open for training", "plan a resume", "filter by policy")


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
    plan = dsd.plan(
        "flux.1-dev",
        "parallel",
        lora=128,
        batch=4,
        text_tokens=128,
        devices=DEVICES,
        strategy="ddp",
        pairs=pairs,
    )
    data, disk, gib, seconds = plan.data, plan.disk, 2**30, DAYS[pairs] * 86_400
    shards = disk.pictures / 2 / TableWriter.shard_bytes
    listed = shards * ENTRY_BYTES
    read = (disk.cache / pairs) * plan.training.pairs_per_s
    told = {
        "days for the data": f"{DAYS[pairs]}",
        "grids to draw": f"{data.grids:,}",
        "drawing, H100 hours": f"{data.draw_device_hours:,.0f} (${data.draw_usd:,.0f})",
        "H100s for that": f"{data.draw_device_hours / 24 / DAYS[pairs]:.1f}",
        "judgements": f"{data.candidates:,} (${data.judge_usd:,.0f})",
        "judgements a second": f"{data.candidates / seconds:.1f}, each 1 s long: as many at once",
        "encoding, H100 hours": f"{data.encode_device_hours:,.1f} (${data.encode_usd:,.0f})",
        "pictures, GiB": f"{disk.pictures / gib:,.0f}",
        "cache at 128 text tokens, GiB": f"{disk.cache / gib:,.0f}",
        "of it captions, GiB": f"{disk.captions * disk.text / gib:,.0f}",
        "shards of pairs": f"{shards:,.0f}",
        "their manifest, MiB": f"{listed / 2**20:,.1f}",
        "manifests written, one a shard, GiB": f"{shards * listed / 2 / gib:,.1f}",
        f"one epoch on {DEVICES} H100, hours": f"{pairs / plan.training.pairs_per_s / 3600:,.1f}",
        "cache read while training, MiB/s": f"{read / 2**20:,.0f}",
    }
    for task in WORDS:
        cpu, mib = (line(measures, task, value, pairs) for value in ("cpu_s", "mib"))
        told[f"{task}: CPU s, MiB"] = f"{cpu:,.1f} s, {mib:,.0f} MiB"
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
