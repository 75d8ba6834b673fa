"""400,000 pairs and 40 million on paper: what `dsd.plan` counts, and what `benchmarks/scale.py` measured.

    python benchmarks/on_paper.py runs/benchmarks/scale.json

The plan is the one that docs/plan.md shows, and takes about a minute; captions are kept at 128 tokens, not at
512, which is a plan of its own. What a run takes beyond the measured sizes lies on the line through the two
largest.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dsd
from dsd.data.manifest import Shard, ids_digest
from dsd.data.writer import TableWriter
from dsd.planning.data import data_cost
from dsd.planning.records import Disk, Plan

DAYS = {400_000: 1, 40_000_000: 14}
"""In which the data is to be made."""
SHOWN: Mapping[str, Any] = {
    "base": "flux.1-dev", "conditioning": "parallel", "lora": 128, "batch": 4, "size": 512,
    "quantize": "nf4", "devices": 8, "strategy": "ddp",
}  # fmt: skip
"""Of the plan that docs/plan.md shows."""
CACHED_TOKENS = 128
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


def entry_bytes() -> int:
    """What a manifest says of one shard takes, with its comma and indentation."""
    digest = "0" * 64
    shard = Shard(
        file="part-00000.parquet",
        rows=512,
        bytes=TableWriter.shard_bytes,
        ids=ids_digest(["0"]),
        sha256=digest,
        footer=digest,
    )
    return len(json.dumps(vars(shard))) + len(",\n  ")


def column(pairs: int, plan: Plan, cached: Disk, measures: list[Mapping[str, Any]]) -> dict[str, str]:
    """All numbers for so many kept pairs.

    Args:
        pairs: how many.
        plan: of a training, for any number of pairs.
        cached: what is stored of them, with captions as the cache is to keep them.
        measures: of `benchmarks/scale.py`.
    """
    given, training = plan.stated, plan.training
    data = data_cost(
        pairs=pairs,
        pairs_per_grid=plan.setting["pairs_per_grid"],
        kept=given["kept"],
        grid=plan.data.grid_tflop,
        encode=plan.data.encode_tflop,
        judge_usd=given["judge_usd"],
        tflops=given["device_tflops"] * given["draw_mfu"],
        usd_per_hour=given["device_usd_per_hour"],
    )
    seconds, gib, more = DAYS[pairs] * 86_400, 2**30, data.grids / plan.data.grids
    captions = ((cached.captions - 1) * more + 1) * cached.text / gib  # the empty one is there once
    cache = pairs * cached.target / gib + cached.references * more * cached.reference / gib + captions
    pictures = plan.disk.pictures * more / gib
    shards = pictures / 2 * gib / TableWriter.shard_bytes
    device, devices, entry = plan.setting["device"].upper(), plan.setting["devices"], entry_bytes()
    told = {
        "days for the data": f"{DAYS[pairs]}",
        "grids to draw": f"{data.grids:,}",
        f"drawing: {device} hours, price": f"{data.draw_device_hours:,.0f}, ${data.draw_usd:,.0f}",
        f"{device}s to draw them in that time": f"{data.draw_device_hours / 24 / DAYS[pairs]:.1f}",
        "judgements, price": f"{data.candidates:,}, ${data.judge_usd:,.0f}",
        "judgements a second (as many at once, at 1 s each)": f"{data.candidates / seconds:.1f}",
        f"encoding: {device} hours, price": f"{data.encode_device_hours:,.1f}, ${data.encode_usd:,.0f}",
        "pictures, GiB": f"{pictures:,.0f}",
        f"cache of encodings at {CACHED_TOKENS} text tokens, GiB": f"{cache:,.0f}",
        "of it captions, GiB": f"{captions:,.0f}",
        "shards of pairs": f"{shards:,.0f}",
        "manifest of pairs, MiB": f"{shards * entry / 2**20:,.1f}",
        "manifests written, one after each shard, GiB": f"{shards**2 * entry / 2 / 2**30:,.1f}",
        f"an epoch on {devices} {device}s, hours": f"{pairs / training.pairs_per_s / 3600:,.1f}",
        "cache read meanwhile, MiB/s": f"{cache * 2**10 / pairs * training.pairs_per_s:,.0f}",
    }
    for task in EXTRAPOLATED:
        cpu, mib = (line(measures, task, value, pairs) for value in ("cpu_s", "mib"))
        told[f"{task}: CPU seconds, MiB"] = f"{cpu:,.1f}, {mib:,.0f}"
    return told


def main() -> None:
    """Print the table."""
    measures = json.loads(Path(sys.argv[1]).read_text())["tasks"]
    plan = dsd.plan(**SHOWN)
    cached = dsd.plan(**SHOWN, text_tokens=CACHED_TOKENS).disk
    columns = {pairs: column(pairs, plan, cached, measures) for pairs in DAYS}
    print("| | " + " | ".join(f"{pairs:,} pairs" for pairs in columns) + " |")
    print("| --- |" + " ---: |" * len(columns))
    for name in columns[min(columns)]:
        print(f"| {name} | " + " | ".join(told[name] for told in columns.values()) + " |")


if __name__ == "__main__":
    main()
