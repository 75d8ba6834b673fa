"""What a stage costs beside its work: rows a second through stages whose plug-ins do next to nothing.

    python benchmarks/stage_overhead.py [--grids 2000] [--pairs 20000] [--engine local] [--engine ray]

A teacher that hands out one picture, and a curator that accepts everything, are timed from the call of the
stage to its return: reading the earlier rows, batching, sending, checking, encoding as PNG, writing, listing.
What is left per row is set against 4.5 s, which one H100 takes for a grid of 1024 px, and 1 s, which a judge
takes for an answer.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import dsd
from dsd import curators, engines, prompts, teachers
from dsd.data.writer import TableWriter
from dsd.types import Grid, GridPrompt, Pair, Verdict

GRID_S, JUDGEMENT_S = 4.5, 1.0
_COPIES = 64


@dataclass(frozen=True, kw_only=True)
class Overhead:
    """One stage on one engine.

    Attributes:
        stage: "grids" or "verdicts".
        engine: its name.
        rows: how many the stage made.
        seconds: how long that took.
        cpu_s: of them, processor time of this process, which other work on the machine does not add to.
        start_s: what a call with one row takes: starting workers, and the manifest.
        work_s: of a row of real work.
    """

    stage: str
    engine: str
    rows: int
    seconds: float
    cpu_s: float
    start_s: float
    work_s: float

    @property
    def rate(self) -> float:
        """Rows a second."""
        return self.rows / self.seconds

    @property
    def share(self) -> float:
        """Of the time of a row of real work, what the stage takes beside it."""
        return self.seconds / self.rows / self.work_s

    @property
    def cpu_share(self) -> float:
        """The same, of processor time alone."""
        return self.cpu_s / self.rows / self.work_s


class IdleTeacher(teachers.Teacher):
    """Hands out one picture of a given size, with a few pixels of its own."""

    def __init__(self, side_px: int = 1024, batch_size: int = 8) -> None:
        self.batch_size = batch_size
        ramp = np.linspace(0, 255, side_px, dtype=np.uint8)
        flat = np.stack([np.tile(ramp, (side_px, 1)), np.tile(ramp[:, None], (1, side_px))], -1)
        self._picture = np.concatenate([flat, flat[..., :1] // 2], -1)

    def draw(self, prompts: Sequence[GridPrompt], seeds: Sequence[int]) -> list[Grid]:
        """The picture, with the seed in its corner."""
        grids = []
        for prompt, seed in zip(prompts, seeds, strict=True):
            picture = self._picture.copy()
            picture[0, 0] = [seed >> shift & 255 for shift in (0, 8, 16)]
            grids.append(Grid(image=Image.fromarray(picture), prompt=prompt, seed=seed, teacher="idle"))
        return grids


class IdleCurator(curators.Curator):
    """Accepts everything."""

    def judge(self, pair: Pair) -> Verdict:
        """Yes."""
        return Verdict(keep=True)


def measure(
    folder: Path, engine: str | dict[str, Any], *, num_grids: int, num_pairs: int, side_px: int = 1024
) -> list[Overhead]:
    """Time the stages of grids and verdicts in new runs below `folder`.

    Args:
        folder: for the runs; about `num_grids` x 20 KB and `num_pairs` x 4 KB.
        engine: "local", "ray" or a spec.
        num_grids: grids of `side_px` to draw.
        num_pairs: pairs of 64 px to judge.
        side_px: of a grid.
    """
    folder.mkdir(parents=True, exist_ok=True)
    name = engine if isinstance(engine, str) else str(engine["name"])
    found = []
    run = dsd.Run(folder / "grids")
    dsd.write_prompts(run, writer=prompts.create("template"), count=num_grids, progress=False)
    options: dict[str, Any] = {"teacher": IdleTeacher(side_px), "engine": engine, "progress": False}
    start_s, _ = _seconds(lambda: dsd.draw_grids(run, limit=1, **options))
    seconds, cpu_s = _seconds(lambda: dsd.draw_grids(run, **options))
    assert len(run.grids) == num_grids
    found.append(
        Overhead(
            stage="grids",
            engine=name,
            rows=num_grids,
            seconds=seconds,
            cpu_s=cpu_s,
            start_s=start_s,
            work_s=GRID_S,
        )
    )
    run = _pairs(folder / "pairs", num_pairs)
    one = _pairs(folder / "pair", 1)
    options = {"curator": IdleCurator(), "name": "idle", "engine": engine, "progress": False}
    start_s, _ = _seconds(lambda: dsd.curate(one, **options))
    seconds, cpu_s = _seconds(lambda: dsd.curate(run, **options))
    assert len(run.verdicts("idle")) == num_pairs
    found.append(
        Overhead(
            stage="verdicts", engine=name, rows=num_pairs, seconds=seconds, cpu_s=cpu_s, start_s=start_s,
            work_s=JUDGEMENT_S,
        )
    )  # fmt: skip
    return found


def table(found: Sequence[Overhead]) -> str:
    """The results as a table in Markdown."""
    lines = [
        "| stage | engine | rows | start, s | rows/s | ms a row | CPU ms a row | of | share | CPU share |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for one in found:
        lines.append(
            f"| {one.stage} | {one.engine} | {one.rows:,} | {one.start_s:.1f} | {one.rate:,.0f} | "
            f"{1000 / one.rate:.2f} | {1000 * one.cpu_s / one.rows:.2f} | {one.work_s:g} s | "
            f"{one.share:.2%} | {one.cpu_share:.2%} |"
        )
    return "\n".join(lines)


def _pairs(path: Path, count: int) -> dsd.Run:
    """A run of so many pairs of a few pictures."""
    rng = np.random.default_rng(0)
    pictures = [
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).resize((64, 64))
        for _ in range(_COPIES)
    ]
    run = dsd.Run(path)
    path.mkdir(parents=True, exist_ok=True)
    with TableWriter(run.pairs, {}) as writer:
        for i in range(count):
            writer.add(
                [
                    Pair(
                        reference=pictures[i % _COPIES], target=pictures[(i + 1) % _COPIES],
                        caption=f"picture {i}", grid_id=f"{i // 12:08d}",
                    )
                ]
            )  # fmt: skip
        writer.finish()
    return run


def _seconds(call: Any) -> tuple[float, float]:
    """Of the wall, and of the processor."""
    started, cpu = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - started, time.process_time() - cpu


def main() -> None:
    """Measure, and print a table and JSON lines."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--grids", type=int, default=500)
    parser.add_argument("--pairs", type=int, default=10_000)
    parser.add_argument("--side-px", type=int, default=1024)
    parser.add_argument("--engine", action="append", choices=engines.names())
    chosen = parser.parse_args()
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for engine in chosen.engine or ["local", "ray"]:
            found += measure(
                Path(folder) / engine, engine, num_grids=chosen.grids, num_pairs=chosen.pairs,
                side_px=chosen.side_px,
            )  # fmt: skip
    sys.stdout.write(table(found) + "\n")
    for one in found:
        sys.stdout.write(
            json.dumps({**asdict(one), "rate": one.rate, "share": one.share, "cpu_share": one.cpu_share})
            + "\n"
        )


if __name__ == "__main__":
    main()
