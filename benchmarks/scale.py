"""How runs of 1,000 to 400,000 pairs open, resume, filter, verify and read, and how quickly batches come.

    python benchmarks/scale.py --photos FOLDER            # all sizes: minutes on two cores
    python benchmarks/scale.py --photos FOLDER --quick    # up to 10,000 rows

Runs are made of crops of the photographs in FOLDER (drawn ones without it) in a temporary folder. The
results go to `--out` as JSON and as a table, the plots to `--images`. Each task runs in a process of its own;
memory is the most that it held beyond what it began with. `--tasks none` or `--rates none` leaves a half out.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import tempfile
import warnings
from dataclasses import asdict
from pathlib import Path

import big_run
import loaders
import scale_tasks
from loaders import Rate
from scale_tasks import Measure

SIZES = (1_000, 10_000, 100_000, 400_000)
LIMITS = {"open": 2.0, "open for training": 2.0, "plan a resume": 10.0}
"""Seconds at 400,000 rows."""


def tasks(folder: Path, photos: Path | None, sizes: tuple[int, ...]) -> list[Measure]:
    """Every task at every size; a run is removed before the next one is made."""
    pictures = big_run.pool(photos, 512, 64)
    found = []
    for rows in sizes:
        path = folder / f"rows-{rows}"
        big_run.make(path, rows, pictures)
        scale_tasks.prepare(path, rows)
        for task in scale_tasks.TASKS:
            found.append(scale_tasks.measure(task, path, rows))
            print(json.dumps(asdict(found[-1])), flush=True)
        shutil.rmtree(path)
    return found


def rates(folder: Path, photos: Path | None, rows: int, workers: int, rounds: int) -> list[Rate]:
    """All loaders on one set of pictures of 256 px."""
    run = big_run.make(folder / "run", rows, big_run.pool(photos, 240, 256))
    stored = run.pairs.columns("reference", "target").to_pylist()
    pairs = [(row["reference"]["bytes"], row["target"]["bytes"]) for row in stored]
    tars = loaders.write_tars(pairs, folder / "tars")
    del stored, pairs
    return loaders.compare(folder / "run", tars, workers, rounds)


def ratios(found: list[Rate]) -> dict[str, tuple[float, float, float, float]]:
    """Of each way: median pairs a second, its share of bare decoding's in the same round; CPU likewise."""
    by_way = {way: [rate for rate in found if rate.way == way] for way in dict.fromkeys(r.way for r in found)}
    told = {}
    for way, some in by_way.items():
        shares = [rate.pairs_s / bare.pairs_s for rate, bare in zip(some, by_way["bare"], strict=True)]
        cpu = [bare.cpu_ms / rate.cpu_ms for rate, bare in zip(some, by_way["bare"], strict=True)]
        told[way] = (
            statistics.median(rate.pairs_s for rate in some), statistics.median(shares),
            statistics.median(rate.cpu_ms for rate in some), statistics.median(cpu),
        )  # fmt: skip
    return told


def table(measures: list[Measure], found: list[Rate]) -> str:
    """Both as Markdown."""
    lines = []
    if measures:
        sizes = sorted({m.rows for m in measures})
        lines += ["| task | " + " | ".join(f"{rows:,} rows" for rows in sizes) + " |"]
        lines += ["| --- |" + " ---: |" * len(sizes)]
        for task in scale_tasks.TASKS:
            some = sorted((m for m in measures if m.task == task), key=lambda m: m.rows)
            cells = [f"{m.seconds:.2f} s ({m.cpu_s:.2f} s CPU), {m.mib:.0f} MiB" for m in some]
            lines += [f"| {task} | " + " | ".join(cells) + " |"]
    if found:
        lines += ["", "| way | pairs a second | of bare decoding | CPU a pair | of bare decoding |"]
        lines += ["| --- | ---: | ---: | ---: | ---: |"]
        lines += [
            f"| {way} | {pairs_s:.0f} | {share:.2f} | {cpu_ms:.2f} ms | {cpu:.2f} |"
            for way, (pairs_s, share, cpu_ms, cpu) in ratios(found).items()
        ]
    return "\n".join(lines) + "\n"


def plot(measures: list[Measure], found: list[Rate], folder: Path) -> None:
    """Seconds and memory by rows; rates as bars."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    if measures:
        figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4))
        for task in scale_tasks.TASKS:
            some = sorted((m for m in measures if m.task == task), key=lambda m: m.rows)
            for axes, values in ((left, [m.seconds for m in some]), (right, [m.mib for m in some])):
                axes.plot([m.rows for m in some], values, marker="o", label=task)
        left.set(xscale="log", yscale="log", xlabel="pairs", ylabel="seconds")
        right.set(xscale="log", xlabel="pairs", ylabel="MiB beyond the process'")
        right.set_ylim(bottom=0)
        left.legend(fontsize=8)
        figure.tight_layout()
        figure.savefig(folder / "scale.png", dpi=110)
        pyplot.close(figure)
    if found:
        told = ratios(found)
        figure, axes = pyplot.subplots(figsize=(7, 2.4))
        axes.barh(list(told), [share for _, share, *_ in told.values()], color="tab:blue", height=0.6)
        axes.axvline(0.9, color="tab:red")
        axes.invert_yaxis()
        axes.set_xlabel("pairs a second, of bare decoding; red: wanted of dsd, at least")
        figure.tight_layout()
        figure.savefig(folder / "loaders.png", dpi=110)
        pyplot.close(figure)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photos", type=Path, help="a folder of photographs")
    parser.add_argument("--workers", type=int, default=2, help="of every loader")
    parser.add_argument("--rounds", type=int, default=3, help="of the loaders")
    parser.add_argument("--rows", type=int, default=6000, help="pairs that the loaders read")
    parser.add_argument("--tasks", choices=["all", "none"], default="all")
    parser.add_argument("--rates", choices=["all", "none"], default="all")
    parser.add_argument("--quick", action="store_true", help="sizes up to 10,000, two rounds of 2,400 pairs")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks"))
    parser.add_argument("--images", type=Path, help="where the plots go; beside the results by default")
    given = parser.parse_args()
    warnings.filterwarnings("ignore")
    sizes = SIZES[:2] if given.quick else SIZES
    rows, rounds = (2400, 2) if given.quick else (given.rows, given.rounds)
    with tempfile.TemporaryDirectory(prefix="scale-") as name:
        measures = [] if given.tasks == "none" else tasks(Path(name), given.photos, sizes)
        found = [] if given.rates == "none" else rates(Path(name), given.photos, rows, given.workers, rounds)
    images = given.images or given.out
    for folder in (given.out, images):
        folder.mkdir(parents=True, exist_ok=True)
    machine = {
        "cores": len(os.sched_getaffinity(0)),
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
    }
    content = {"machine": machine, "workers": given.workers, "tasks": [asdict(m) for m in measures]}
    content["rates"] = [asdict(rate) for rate in found]
    (given.out / "scale.json").write_text(json.dumps(content, indent=1) + "\n")
    (given.out / "scale.md").write_text(table(measures, found))
    plot(measures, found, images)
    print(table(measures, found))
    for measure in measures:
        limit = LIMITS.get(measure.task)
        if measure.rows == SIZES[-1] and limit is not None and measure.seconds > limit:
            print(
                f"MISSED: {measure.task}: {measure.seconds:.1f} s at {measure.rows:,} rows; wanted {limit} s"
            )


if __name__ == "__main__":
    main()
