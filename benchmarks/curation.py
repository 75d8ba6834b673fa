"""What dsd adds to litellm when a language model judges pairs.

    python benchmarks/curation.py            about ten minutes; prints a table, writes JSON
    python benchmarks/curation.py --quick    about a minute, without the 50,000 judgements

A server in another process answers every question after 200 ms. In one run, with the same pairs and messages:

- rate: judgements a second at concurrency 64, by the `vlm` curator, by `dsd.llm` with like questions, and by
  litellm alone (a semaphore around `litellm.acompletion`); ideal is 64 / 0.2 s = 320; a loop that asks one
  after the other stands beside them;
- memory: resident memory after 1,000 and after 50,000 judgements of a server that answers at once;
- cache: what a judgement costs that was paid for before, for pictures of 64 and of 512 px.

The three rates are measured in turn, several times, so that the machine's drift hits all alike.
"""

import argparse
import asyncio
import json
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import litellm
import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from dsd import Pair, curators, llm
from dsd.curators import vlm_answers
from dsd.llm import loop

CONCURRENCY, SECONDS = 64, 0.2
IDEAL = CONCURRENCY / SECONDS
WANTED = 0.85
MODEL: dict[str, Any] = {
    "model": "openai/judge",
    "api_key": "not-a-key",
    "concurrency": CONCURRENCY,
    "structured": "schema",
}
SCHEMA = vlm_answers.schema("cot", copy_check=True)


@contextmanager
def judge(seconds: float) -> Iterator[str]:
    """The address of a server that takes so long for an answer."""
    file = Path(__file__).with_name("slow_judge.py")
    command = [sys.executable, str(file), "--seconds", str(seconds)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    try:
        yield server.stdout.readline().strip()
    finally:
        server.kill()
        server.wait()


def make_pairs(count: int, side_px: int, seed: int = 0) -> list[Pair]:
    """Pairs of noise: no two are alike."""
    rng = np.random.default_rng(seed)
    size = (2, side_px, side_px, 3)
    pixels = (rng.integers(0, 256, size, dtype=np.uint8) for _ in range(count))
    return [
        Pair(reference=Image.fromarray(a), target=Image.fromarray(b), subject="a creature") for a, b in pixels
    ]


def question(pair: Pair) -> llm.Request:
    """About as long as the curator's own."""
    shown = [llm.Picture(image=pair.reference), llm.Picture(image=pair.target)]
    told = "Name what both show, describe each in detail, compare, conclude. " * 20
    return llm.Request(
        messages=[llm.system(told), llm.user("First:", shown[0], "Second:", shown[1])], schema=SCHEMA
    )


def by_curator(pairs: Sequence[Pair], base: str, cache: Path | None = None) -> None:
    """The `vlm` curator."""
    curator = curators.create(
        {"name": "vlm", "api_base": base, "cache": None if cache is None else str(cache), **MODEL}
    )
    assert all(verdict.accepted for verdict in curator.judge_batch(pairs))
    curator.close()


def by_door(pairs: Sequence[Pair], base: str) -> None:
    """`dsd.llm` alone."""
    door = llm.LLM(api_base=base, **MODEL)
    answers = door.map(lambda pair: door.ask(question(pair)), pairs)
    assert all(isinstance(answer, llm.Answer) for answer in answers)
    door.close()


def by_litellm(pairs: Sequence[Pair], base: str) -> None:
    """As users of litellm do it."""
    gate = asyncio.Semaphore(CONCURRENCY)

    async def ask(pair: Pair) -> None:
        async with gate:
            response = await litellm.acompletion(
                model=MODEL["model"],
                api_key=MODEL["api_key"],
                api_base=base,
                messages=[message.wire() for message in question(pair).messages],
                response_format=SCHEMA,
                max_tokens=1024,
                temperature=0.0,
            )
            SCHEMA.model_validate_json(response.choices[0].message.content)

    async def ask_all() -> None:
        await asyncio.gather(*map(ask, pairs))

    loop.result(loop.submit(ask_all()))


def one_by_one(pairs: Sequence[Pair], base: str) -> None:
    """A loop around litellm."""
    for pair in pairs:
        by_litellm([pair], base)


def rates(repeats: int, count: int) -> dict[str, float]:
    """Judgements a second, the median of several runs."""
    pairs = make_pairs(count, 64)
    ways = {"vlm curator": by_curator, "dsd.llm": by_door, "litellm alone": by_litellm}
    seen: dict[str, list[float]] = {name: [] for name in ways}
    with judge(SECONDS) as base:
        for way in ways.values():
            way(pairs[:64], base)  # connections, imports
        for turn in range(repeats):
            for name in [*ways][turn % 3 :] + [*ways][: turn % 3]:
                start = time.perf_counter()
                ways[name](pairs, base)
                seen[name].append(count / (time.perf_counter() - start))
        start = time.perf_counter()
        one_by_one(pairs[:20], base)
        seen["one by one"] = [20 / (time.perf_counter() - start)]
    return {name: statistics.median(found) for name, found in seen.items()}


def memory(counts: Sequence[int]) -> dict[int, float]:
    """Resident MiB after so many judgements, one after another in one process."""
    found: dict[int, float] = {}
    some = make_pairs(200, 64)
    with judge(0.0) as base:
        door = llm.LLM(api_base=base, **MODEL)
        done = 0
        for count in counts:
            pairs = (some[i % len(some)] for i in range(done, count))
            for _ in door.map(lambda pair: door.ask(question(pair)), pairs):
                done += 1
            found[count] = _resident_mib()
    return found


def hits(count: int) -> dict[int, float]:
    """Milliseconds of processor time for a judgement from the cache, by the side of the pictures."""
    found = {}
    for side_px in (64, 512):
        pairs = make_pairs(count, side_px)
        with judge(0.0) as base, tempfile.TemporaryDirectory() as folder:
            cache = Path(folder) / "answers.sqlite"
            by_curator(pairs, base, cache)
            door = llm.LLM(api_base=base, cache=cache, **MODEL)
            curator = curators.create({"name": "vlm", "api_base": base, "cache": str(cache), **MODEL})
            curator.judge_batch(pairs)
            times = []
            for _ in range(5):
                start = time.process_time()
                curator.judge_batch(pairs)
                times.append((time.process_time() - start) / count * 1e3)
            door.close()
        found[side_px] = statistics.median(times)
    return found


def _resident_mib() -> float:
    for line in Path("/proc/self/status").read_text().splitlines() if Path("/proc").exists() else []:
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer repeats, no long run")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks/curation.json"))
    arguments = parser.parse_args()
    console = Console()
    found: dict[str, Any] = {"ideal": IDEAL, "rates": rates(*(1, 500) if arguments.quick else (5, 1000))}
    found["hit_ms"] = hits(100)
    found["resident_mib"] = memory([500, 1000] if arguments.quick else [1000, 10_000, 50_000])
    least = WANTED * min(IDEAL, found["rates"]["litellm alone"])
    table = Table("what", "measured", "wanted", title="judging by a language model")
    for name, rate in found["rates"].items():
        wanted = f"at least {least:.0f}" if name in ("vlm curator", "dsd.llm") else ""
        share = f"{rate:.1f} a second ({rate / found['rates']['litellm alone']:.2f} of litellm alone)"
        table.add_row(name, share, wanted)
    for side_px, milliseconds in found["hit_ms"].items():
        table.add_row(f"from the cache, {side_px} px", f"{milliseconds:.2f} ms", "under 1 ms")
    for count, mib in found["resident_mib"].items():
        table.add_row(f"memory after {count:,}", f"{mib:.0f} MiB", "flat")
    console.print(table)
    found["machine"] = platform.processor() or platform.machine()
    found["litellm"] = litellm.__dict__.get("__version__", "")
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(found, indent=2) + "\n")
    console.print(f"Written to {arguments.out}.")


if __name__ == "__main__":
    main()
