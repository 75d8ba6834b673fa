"""Batches in an order that depends on seed and epoch alone, and goes on where training was stopped."""

import hashlib
from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from torch.utils.data import DataLoader, Dataset

from dsd.backbones.base import Batch, RawBatch
from dsd.data.buckets import group, num_batches, share

AnyBatch = Batch | RawBatch


@runtime_checkable
class Source(Protocol):
    """Pairs that can be read by their position."""

    @property
    def ids(self) -> Sequence[str]:
        """The pairs' ids, in an order that does not depend on how they are stored."""

    def load(self, positions: Sequence[int]) -> AnyBatch:
        """Some pairs as one batch."""


class EpochSampler:
    """Which pairs are in which batch of which epoch.

    Every process gets as many batches, of the same size; what does not fill a batch on every process is left
    to the next epoch's order. Fewer pairs than one batch a process make one batch each, filled by repetition
    if there are several.

    Args:
        num_pairs: how many there are.
        batch_size: pairs a batch and process.
        seed: of the order.
        shuffle: otherwise the order is that of the pairs, and the last batch may be smaller.
        rank: of this process.
        world_size: the number of processes.
        layouts: of each pair: those of one batch, over all processes, are of one layout. A layout of fewer
            pairs than such a batch is left out where `shuffle` is set. None: all are of one layout.

    Raises:
        ValueError: if no layout fills a batch.
    """

    def __init__(
        self,
        num_pairs: int,
        batch_size: int,
        *,
        seed: int,
        shuffle: bool = True,
        rank: int = 0,
        world_size: int = 1,
        layouts: Sequence[Hashable] | None = None,
    ) -> None:
        self.layouts = layouts
        self.num_pairs, self.batch_size, self.seed, self.shuffle = num_pairs, batch_size, seed, shuffle
        self.rank, self.world_size = rank, world_size
        self.epoch = 0
        self.start = 0
        if not len(self):
            raise ValueError(
                f"No layout has the {batch_size * world_size} pairs of a batch over all processes: "
                f"{dict(Counter(layouts or ()))}. Take a smaller batch_size, or fewer buckets."
            )

    def __len__(self) -> int:
        together = self.batch_size * self.world_size
        if self.layouts is not None:
            return num_batches(self.layouts, together, ragged=not self.shuffle)
        if self.shuffle:
            return max(1, self.num_pairs // together)
        return -(-self.num_pairs // together)

    def batches(self) -> list[list[int]]:
        """The batches of this process in this epoch: positions of pairs."""
        order = np.arange(self.num_pairs)
        if self.shuffle:
            order = np.random.Generator(np.random.PCG64([self.seed, self.epoch])).permutation(self.num_pairs)
        if self.layouts is not None:
            together = self.batch_size * self.world_size
            groups = group(order.tolist(), self.layouts, together, ragged=not self.shuffle)
            return [share(batch, self.rank, self.world_size) for batch in groups]
        each = -(-self.num_pairs // self.world_size)  # of each process, rounded up
        order = np.resize(order, each * self.world_size)  # repeats from the beginning where it is too short
        mine = order[self.rank :: self.world_size]
        return [mine[i * self.batch_size : (i + 1) * self.batch_size].tolist() for i in range(len(self))]

    def set_epoch(self, epoch: int) -> None:
        """Go to the beginning of an epoch, unless we are in it. Lightning calls it."""
        if epoch != self.epoch:
            self.epoch, self.start = epoch, 0


class _Batches(Dataset[AnyBatch]):
    def __init__(self, source: Source, batches: list[list[int]]) -> None:
        self.source, self.batches = source, batches

    def __getitem__(self, index: int) -> AnyBatch:
        return self.source.load(self.batches[index])

    def __len__(self) -> int:
        return len(self.batches)


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
    """

    batch_sampler = None  # Lightning looks for it beside `sampler`

    def __init__(
        self,
        source: Source,
        positions: Sequence[int],
        batch_size: int,
        *,
        seed: int = 0,
        shuffle: bool = True,
        num_workers: int = 0,
        pin_memory: bool = False,
        rank: int = 0,
        world_size: int = 1,
        layouts: Sequence[Hashable] | None = None,
    ) -> None:
        self.source, self.positions = source, list(positions)
        self.batch_size, self.num_workers, self.pin_memory = batch_size, num_workers, pin_memory
        self.sampler = EpochSampler(
            len(positions),
            batch_size,
            seed=seed,
            shuffle=shuffle,
            rank=rank,
            world_size=world_size,
            layouts=layouts,
        )
        self._used = 0

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[AnyBatch]:
        epoch, start = self.sampler.epoch, self.sampler.start
        self.sampler.start, self._used = 0, start
        batches = [[self.positions[i] for i in batch] for batch in self.sampler.batches()]
        loader = DataLoader(
            _Batches(self.source, batches[start:]),
            batch_size=None,
            num_workers=self.num_workers,
            pin_memory=self.pin_memory,
            prefetch_factor=2 if self.num_workers else None,
        )
        for batch in loader:
            self._used += 1
            yield batch
        if self.sampler.epoch == epoch:  # nobody counts epochs for us, or not yet
            self.sampler.set_epoch(epoch + 1)
            self._used = 0

    def state_dict(self) -> dict[str, Any]:
        """Where training is: the epoch, and how many of its batches were used."""
        return {"epoch": self.sampler.epoch, "batches": self._used, "order": self._order()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken: the next iteration begins there.

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
        self.sampler.epoch, self.sampler.start, self._used = (
            state["epoch"],
            state["batches"],
            state["batches"],
        )

    def _order(self) -> dict[str, Any]:
        digest = hashlib.sha256("\n".join(self.source.ids[i] for i in self.positions).encode()).hexdigest()
        return {
            "pairs": f"{len(self.positions)} ({digest[:12]})",
            "batch_size": self.batch_size * self.sampler.world_size,  # processes may be other ones
            "seed": self.sampler.seed,
        }
