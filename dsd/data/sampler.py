"""Which batch of which epoch comes to which process, and where training is in it."""

from collections import Counter
from collections.abc import Hashable, Sequence

import numpy as np

from dsd.data.buckets import group, num_batches, share
from dsd.data.order import EpochOrder, Positions


class EpochSampler:
    """Which pairs are in which batch of which epoch.

    The batches over all processes together depend on the seed, the epoch and their size alone. Every process
    gets as many batches, of the same size; what does not fill a batch on every process is left to the next
    epoch's order. Fewer pairs than one batch a process make one batch each, filled by repetition if there are
    several.

    Args:
        num_pairs: how many there are.
        batch_size: pairs a batch and process.
        seed: of the order.
        shuffle: otherwise the order is that of the pairs, and the last batch may be smaller.
        rank: of this process.
        world_size: the number of processes.
        layouts: of each pair: those of one batch, over all processes, are of one layout. A layout of fewer
            pairs than such a batch is left out where `shuffle` is set. None: all are of one layout.
        places: of each pair, where it is stored: any numbers that grow along the table.
        window: how many pairs over all processes may be held in memory; see `EpochOrder`. More pairs than
            that come in an order that follows their places in part; None: never.

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
        places: Positions | None = None,
        window: int | None = None,
    ) -> None:
        self.layouts, self.places = layouts, places
        self.num_pairs, self.batch_size, self.seed, self.shuffle = num_pairs, batch_size, seed, shuffle
        self.rank, self.world_size = rank, world_size
        self.epoch = 0
        self.start = 0
        self.window = self._usual_window = None if places is None else window
        if not len(self):
            raise ValueError(
                f"No layout has the {self.together} pairs of a batch over all processes: "
                f"{dict(Counter(layouts or ()))}. Take a smaller batch_size, or fewer buckets."
            )

    @property
    def together(self) -> int:
        """Pairs of a batch over all processes."""
        return self.batch_size * self.world_size

    def __len__(self) -> int:
        if self.layouts is not None:
            return num_batches(self.layouts, self.together, ragged=not self.shuffle)
        if self.shuffle:
            return max(1, self.num_pairs // self.together)
        return -(-self.num_pairs // self.together)

    def batches(self) -> list[list[int]]:
        """The batches of this process in this epoch: positions of pairs."""
        return Epoch(self).batches(0, len(self))

    def set_epoch(self, epoch: int) -> None:
        """Go to the beginning of an epoch, unless we are in it. Lightning calls it."""
        if epoch != self.epoch:
            self.go_to(epoch, 0, self._usual_window)

    def go_to(self, epoch: int, start: int, window: int | None) -> None:
        """Go into the middle of an epoch that was begun with that window."""
        self.epoch, self.start, self.window = epoch, start, window


class Epoch:
    """The batches of one process in one epoch, computed as they are asked for.

    Args:
        sampler: stands in that epoch.

    Attributes:
        depth: how many batches are best read together.
    """

    def __init__(self, sampler: EpochSampler) -> None:
        self._rank, self._world_size, self._together = sampler.rank, sampler.world_size, sampler.together
        self._num_batches, count = len(sampler), sampler.num_pairs
        self._stored = np.arange(count)
        if sampler.places is not None and sampler.window is not None and count > sampler.window:
            self._stored = np.argsort(sampler.places, kind="stable")
        self.depth = max(1, -(-(sampler.window or count) // self._together))
        self._order, self._groups = None, None
        if sampler.shuffle:
            self._order = EpochOrder(
                count, self._together, seed=sampler.seed, epoch=sampler.epoch, window=sampler.window
            )
            self.depth = self._order.depth
        if sampler.layouts is not None:
            order = self._stored if self._order is None else self._stored[self._order.all()]
            self._groups = group(order.tolist(), sampler.layouts, self._together, ragged=not sampler.shuffle)

    def batches(self, first: int, last: int) -> list[list[int]]:
        """Batches `first` to before `last`: positions of pairs."""
        last = min(last, self._num_batches)
        if self._groups is not None:
            wholes = self._groups[first:last]
        elif self._order is None:
            size = self._together
            wholes = [self._stored[i * size : (i + 1) * size].tolist() for i in range(first, last)]
        elif self._order.shape[1] < self._together:
            wholes = self._order.batches(first, last).tolist()
        else:
            mine = slice(
                self._rank, None, self._world_size
            )  # as `share`; what is drawn for a pair goes by it
            found: list[list[int]] = self._stored[self._order.batches(first, last, mine)].tolist()
            return found
        return [share(whole, self._rank, self._world_size) for whole in wholes]
