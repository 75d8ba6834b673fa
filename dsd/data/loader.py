"""Batches read and decoded ahead by threads, that go on exactly where training was stopped.

Threads rather than processes: decoders work without the interpreter's lock, and what they made need not be
moved through shared memory, which takes longer than what is decoded in it.
"""

import hashlib
import itertools
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, Protocol, runtime_checkable

import numpy as np

from dsd.backbones.base import Batch, RawBatch
from dsd.data.order import Positions
from dsd.data.sampler import Epoch, EpochSampler

AnyBatch = Batch | RawBatch

_WINDOW_BYTES = 64 * 2**20
_MAX_WINDOW = 4096
_AHEAD = 2  # batches a worker, as a `DataLoader` has it


@runtime_checkable
class Source(Protocol):
    """Pairs that can be read by their position, by several threads at the same time."""

    @property
    def ids(self) -> Sequence[str]:
        """The pairs' ids, in an order that does not depend on how they are stored."""

    def load(self, positions: Sequence[int]) -> AnyBatch:
        """Some pairs as one batch."""


@runtime_checkable
class StoredSource(Source, Protocol):
    """Pairs that are stored in a row and are best read with their neighbours."""

    @property
    def places(self) -> Positions:
        """Of each pair, where it is stored: any numbers that grow along the table."""

    @property
    def pair_bytes(self) -> int:
        """About what a pair takes before it is decoded."""

    def read(self, positions: Sequence[int]) -> Mapping[int, Any]:
        """Some pairs by position, not decoded; each row group that holds one is read once."""

    def batch(self, positions: Sequence[int], pairs: Mapping[int, Any]) -> AnyBatch:
        """Some of the pairs that were read, decoded, as one batch."""


def usual_window(pair_bytes: int) -> int:
    """How many pairs are mixed in memory unless it is said: 64 MiB of them, and at most 4096."""
    return max(1, min(_MAX_WINDOW, _WINDOW_BYTES // max(1, pair_bytes)))


class PairLoader:
    """Batches of pairs, epoch after epoch; its state says how far they were used, not how far
    threads had read ahead.

    Lightning saves and restores that state in its checkpoints, and tells the epoch.

    Args:
        source: the pairs.
        positions: those of them to load.
        batch_size: pairs a batch and process.
        seed: of the order.
        shuffle: see `EpochSampler`.
        num_workers: threads that decode ahead, two batches each; 0 to decode when a batch is asked for.
        pin_memory: page-lock batches for quick copies to a GPU.
        rank: of this process.
        world_size: the number of processes.
        layouts: of the positions; see `EpochSampler`.
        window: of a `StoredSource`: how many pairs over all processes are mixed in memory; see
            `dsd.data.order.EpochOrder`. By default 4096, or fewer that take 64 MiB.
    """

    batch_sampler = None  # Lightning looks for it beside `sampler`

    def __init__(
        self,
        source: Source,
        positions: Sequence[int] | Positions,
        batch_size: int,
        *,
        seed: int = 0,
        shuffle: bool = True,
        num_workers: int = 0,
        pin_memory: bool = False,
        rank: int = 0,
        world_size: int = 1,
        layouts: Sequence[Hashable] | None = None,
        window: int | None = None,
    ) -> None:
        self.source, self.positions = source, np.asarray(positions, dtype=np.int64)
        self.batch_size, self.num_workers, self.pin_memory = batch_size, num_workers, pin_memory
        places = None
        if isinstance(source, StoredSource):
            places, window = source.places[self.positions], window or usual_window(source.pair_bytes)
        self.sampler = EpochSampler(
            len(positions),
            batch_size,
            seed=seed,
            shuffle=shuffle,
            rank=rank,
            world_size=world_size,
            layouts=layouts,
            places=places,
            window=window,
        )
        self._used = 0
        self._digest: str | None = None

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[AnyBatch]:
        epoch, start = self.sampler.epoch, self.sampler.start
        self.sampler.start, self._used = 0, start
        jobs = _jobs(self.source, self.positions, Epoch(self.sampler), range(start, len(self.sampler)))
        if self.pin_memory:
            jobs = (partial(_pinned, job) for job in jobs)
        for batch in _ahead(jobs, self.num_workers):
            self._used += 1
            yield batch
        if self.sampler.epoch == epoch:  # nobody counts epochs for us, or not yet
            self.sampler.set_epoch(epoch + 1)
            self._used = 0

    def state_dict(self) -> dict[str, Any]:
        """Where training is: the epoch, and how many of its batches were used."""
        return {
            "epoch": self.sampler.epoch,
            "batches": self._used,
            "window": self.sampler.window,
            "order": self._order(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken: the next iteration begins there.

        The epoch goes on with the window that it was begun with, the next one has this loader's own.

        Raises:
            ValueError: if pairs, seed or batch size (over all processes, which may be more or fewer) are not
                the same, so that there is no such place.
        """
        now = self._order()
        changed = [
            f"{key} was {old}, now {now.get(key)}"
            for key, old in state["order"].items()
            if now.get(key) != old
        ]
        if changed:
            raise ValueError(
                f"Training cannot go on in the middle of an epoch, because its batches are not the same: "
                f"{'; '.join(changed)}. Restore them, or start from the checkpoint's weights alone."
            )
        self.sampler.go_to(state["epoch"], state["batches"], state.get("window"))
        self._used = state["batches"]

    def _order(self) -> dict[str, Any]:
        if self._digest is None:
            ids = "\n".join(self.source.ids[int(i)] for i in self.positions)
            self._digest = hashlib.sha256(ids.encode()).hexdigest()[:12]
        return {
            "pairs": f"{len(self.positions)} ({self._digest})",
            "batch_size": self.sampler.together,  # processes may be other ones
            "seed": self.sampler.seed,
        }


def _jobs(
    source: Source, positions: Positions, epoch: Epoch, todo: range
) -> Iterator[Callable[[], AnyBatch]]:
    """What makes each batch of what is left of an epoch, in order; what it needs has been read by then."""
    chunks = _chunks(positions, epoch, todo)
    if not isinstance(source, StoredSource):
        for batch in itertools.chain.from_iterable(chunks):
            yield partial(source.load, batch)
        return
    with ThreadPoolExecutor(1, "read") as reader:
        chunk = next(chunks, None)
        coming = reader.submit(source.read, _all(chunk))
        while chunk is not None:
            pairs, following = coming.result(), next(chunks, None)
            coming = reader.submit(source.read, _all(following))
            for batch in chunk:
                yield partial(source.batch, batch, pairs)
            chunk = following


def _chunks(positions: Positions, epoch: Epoch, todo: range) -> Iterator[list[list[int]]]:
    """The batches of what is left of an epoch, those together that are best read together."""
    first = todo.start
    while first < todo.stop:
        last = min(first - first % epoch.depth + epoch.depth, todo.stop)
        yield [positions[batch].tolist() for batch in epoch.batches(first, last)]
        first = last


def _pinned(job: Callable[[], AnyBatch]) -> AnyBatch:
    return job().pin_memory()


def _all(batches: Sequence[Sequence[int]] | None) -> list[int]:
    return sorted({position for batch in batches or () for position in batch})


def _ahead(jobs: Iterator[Callable[[], AnyBatch]], num_threads: int) -> Iterator[AnyBatch]:
    """What the jobs make, in order, while threads do the next ones; without threads one by one."""
    if not num_threads:
        for job in jobs:
            yield job()
        return
    with ThreadPoolExecutor(num_threads, "decode") as pool:
        waiting: deque[Future[AnyBatch]] = deque()
        try:
            for job in jobs:
                waiting.append(pool.submit(job))
                if len(waiting) > _AHEAD * num_threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:  # also if whoever iterates has had enough
            pool.shutdown(cancel_futures=True)
