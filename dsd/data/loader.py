"""Batches read ahead by workers, row group after row group, that go on exactly where training was stopped."""

import hashlib
import itertools
from collections.abc import Hashable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, runtime_checkable

import numpy as np
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from dsd.backbones.base import Batch, RawBatch
from dsd.data.order import Positions
from dsd.data.sampler import Epoch, EpochSampler

AnyBatch = Batch | RawBatch

_WINDOW_BYTES = 64 * 2**20
_MAX_WINDOW = 4096
_READ_BY = 4  # workers, at most where that is possible, that read the same row groups


@runtime_checkable
class Source(Protocol):
    """Pairs that can be read by their position."""

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


class _Parts(IterableDataset[AnyBatch | None]):
    """What is left of an epoch, as the samples of a `DataLoader`: each batch in so many parts.

    Where there are many workers, several share a batch, so that each reads of the table what is in its own
    lanes alone. Worker w of n makes the samples w, w + n, w + 2n, ..., which is the order in which a
    `DataLoader` hands them out. None stands for a part without a pair.
    """

    def __init__(self, source: Source, positions: Positions, epoch: Epoch, todo: range, parts: int) -> None:
        self.source, self.positions, self.epoch, self.todo, self.parts = source, positions, epoch, todo, parts

    def __iter__(self) -> Iterator[AnyBatch | None]:
        if not isinstance(self.source, StoredSource):
            for part in itertools.chain.from_iterable(self._chunks()):
                yield self.source.load(part) if part else None
            return
        chunks = self._chunks()
        with ThreadPoolExecutor(1, "read") as reader:
            chunk = next(chunks, None)
            coming = reader.submit(self.source.read, _all(chunk))
            while chunk is not None:
                pairs, following = coming.result(), next(chunks, None)
                coming = reader.submit(self.source.read, _all(following))
                for part in chunk:
                    yield self.source.batch(part, pairs) if part else None
                chunk = following

    def _chunks(self) -> Iterator[list[list[int]]]:
        """This worker's parts, those together that are best read together."""
        info = get_worker_info()
        worker, workers = (0, 1) if info is None else (info.id, info.num_workers)
        turn, part = divmod(worker, self.parts)
        every, depth, first = workers // self.parts, self.epoch.depth, self.todo.start
        while first < self.todo.stop:
            last = min(first - first % depth + depth, self.todo.stop)
            batches = self.epoch.batches(first, last)
            mine = [b for t, b in enumerate(batches, first - self.todo.start) if t % every == turn]
            yield [self._part(batch, part) for batch in mine]
            first = last

    def _part(self, batch: Sequence[int], part: int) -> list[int]:
        first, last = (len(batch) * i // self.parts for i in (part, part + 1))
        found: list[int] = self.positions[batch[first:last]].tolist()
        return found


class PairLoader:
    """Batches of pairs, epoch after epoch; its state says how far they were used, not how far workers had
    read ahead.

    Lightning saves and restores that state in its checkpoints, and tells the epoch.

    Args:
        source: the pairs.
        positions: those of them to load.
        batch_size: pairs a batch and process.
        seed: of the order.
        shuffle: see `EpochSampler`.
        num_workers: processes that read ahead; 0 to read in this one.
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
        parts = _shared_by(self.num_workers, self.batch_size)
        todo = range(start, len(self.sampler))
        loader = DataLoader(
            _Parts(self.source, self.positions, Epoch(self.sampler), todo, parts),
            batch_size=None,
            num_workers=self.num_workers,
            pin_memory=self.pin_memory and parts == 1,
            prefetch_factor=2 if self.num_workers else None,
        )
        samples = iter(loader)
        while some := list(itertools.islice(samples, parts)):
            batch = _joined([sample for sample in some if sample is not None])
            self._used += 1
            yield batch.pin_memory() if self.pin_memory and parts > 1 else batch
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


def _all(parts: Sequence[Sequence[int]] | None) -> list[int]:
    return sorted({position for part in parts or () for position in part})


def _shared_by(num_workers: int, batch_size: int) -> int:
    """How many workers make one batch together; the others make the next ones.

    The parts of a batch must be copied into one, which costs more than reading a row group several times: so
    some workers make batches of their own, before there are so many that reading would weigh more.
    """
    workers = max(1, num_workers)
    shares = [n for n in range(1, workers + 1) if workers % n == 0 and n <= batch_size]
    return next((n for n in shares if workers // n <= _READ_BY), shares[-1])


def _joined(parts: Sequence[AnyBatch]) -> AnyBatch:
    try:
        kind: Any = type(parts[0])
        joined: AnyBatch = parts[0] if len(parts) == 1 else kind.joined(parts)
        return joined
    except RuntimeError as error:
        raise ValueError(
            "The pairs of a batch differ in size. Give `size_px` to cut and resize pictures, `buckets`, or a "
            "batch size of 1."
        ) from error
