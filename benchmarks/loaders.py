"""Batches of one set of pictures from `dsd`, `datasets` streaming and WebDataset, beside bare decoding."""

import io
import json
import multiprocessing
import resource
import tarfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader

import dsd
from dsd.data.datamodule import PairDataModule

BATCH = 16
BUFFER = 1000  # of the others' shuffle, as their documents show it


@dataclass(frozen=True, kw_only=True)
class Rate:
    """How fast one way was in one round.

    Attributes:
        way: its name.
        pairs_s: pairs a second, by the clock, from the first batch to the last.
        cpu_ms: of all processes, for a pair.
    """

    way: str
    pairs_s: float
    cpu_ms: float


def decode(data: bytes) -> np.ndarray:
    """A picture as bare decoding gives it: the usual way with PIL."""
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def bare(pairs: Sequence[tuple[bytes, bytes]], workers: int) -> Rate:
    """The same bytes, in memory already, decoded and dropped by as many processes."""
    count = max(1, workers)
    before, start = _cpu(), time.perf_counter()
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_decode_some, args=(pairs, i, count)) for i in range(count)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    seconds = time.perf_counter() - start
    return Rate(way="bare", pairs_s=len(pairs) / seconds, cpu_ms=(_cpu() - before) / len(pairs) * 1000)


def _decode_some(pairs: Sequence[tuple[bytes, bytes]], first: int, step: int) -> None:
    for reference, target in pairs[first::step]:
        decode(reference), decode(target)


def ours(run: Path, workers: int) -> Iterable[int]:
    """`PairDataModule`."""
    data = PairDataModule(run, batch_size=BATCH, policy="every", num_workers=workers)
    for batch in data.train_dataloader():
        yield len(batch.ids)


def hugging_face(run: Path, workers: int) -> Iterable[int]:
    """`datasets` reads the same files, streaming and shuffled, and decodes."""
    import datasets

    files = sorted(str(file) for file in (run / "pairs").glob("part-*.parquet"))
    rows = datasets.load_dataset("parquet", data_files=files, split="train", streaming=True)
    rows = rows.select_columns(["reference", "target", "caption"]).shuffle(seed=0, buffer_size=BUFFER)
    for batch in DataLoader(rows, batch_size=BATCH, num_workers=workers, collate_fn=_collated):
        yield len(batch[0])


def webdataset(tars: Sequence[Path], workers: int) -> Iterable[int]:
    """WebDataset reads tars of the same bytes, shuffled by shard and in a buffer, and decodes."""
    import webdataset as wds

    rows = wds.WebDataset([str(tar) for tar in tars], shardshuffle=len(tars), seed=0, empty_check=False)
    rows = (
        rows.shuffle(BUFFER)
        .decode("pil")
        .rename(reference="reference.jpg", target="target.jpg", caption="txt")
    )
    for batch in wds.WebLoader(rows, batch_size=BATCH, num_workers=workers, collate_fn=_collated):
        yield len(batch[0])


def _collated(rows: Sequence[dict[str, Any]]) -> tuple[torch.Tensor, torch.Tensor, list[str]]:
    """What a batch of ours has: pixels as RGB, channels first, and captions."""
    sides = (
        torch.from_numpy(
            np.stack([np.asarray(row[side].convert("RGB")) for row in rows]).transpose(0, 3, 1, 2).copy()
        )
        for side in ("reference", "target")
    )
    return (*sides, [row["caption"] for row in rows])  # type: ignore[return-value]


def timed(way: str, batches: Callable[[], Iterable[int]]) -> Rate:
    """A whole epoch; the clock begins with the first batch, CPU time with the call."""
    before = _cpu()
    iterator = iter(batches())
    total = next(iterator)
    start, count = time.perf_counter(), 0
    for size in iterator:
        count += size
    seconds = time.perf_counter() - start
    return Rate(way=way, pairs_s=count / seconds, cpu_ms=(_cpu() - before) / (total + count) * 1000)


def write_tars(pairs: Sequence[tuple[bytes, bytes]], folder: Path, each: int = 1000) -> list[Path]:
    """The same pictures as WebDataset keeps them."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for first in range(0, len(pairs), each):
        files.append(folder / f"part-{first // each:05d}.tar")
        with tarfile.open(files[-1], "w") as tar:
            for i, (reference, target) in enumerate(pairs[first : first + each], first):
                cells = {"reference.jpg": reference, "target.jpg": target, "txt": f"caption {i}".encode()}
                for name, data in cells.items():
                    member = tarfile.TarInfo(f"{i:09d}.{name}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
    return files


def compare(run: Path, tars: Sequence[Path], workers: int, rounds: int) -> list[Rate]:
    """All ways in turn, several times, so that the machine's drift hits all of them."""
    stored = dsd.Run(run).pairs.columns("reference", "target").to_pylist()
    pairs = [(row["reference"]["bytes"], row["target"]["bytes"]) for row in stored]
    del stored
    ways: dict[str, Callable[[], Rate]] = {
        "bare": lambda: bare(pairs, workers),
        "dsd": lambda: timed("dsd", lambda: ours(run, workers)),
        "datasets": lambda: timed("datasets", lambda: hugging_face(run, workers)),
        "webdataset": lambda: timed("webdataset", lambda: webdataset(tars, workers)),
    }
    found = []
    for i in range(rounds):
        for name in list(ways) if i % 2 == 0 else reversed(list(ways)):
            found.append(ways[name]())
            print(json.dumps(vars(found[-1])), flush=True)
    return found


def _cpu() -> float:
    """Seconds of this process and of those it has waited for."""
    uses = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(use.ru_utime + use.ru_stime for use in uses)
