"""Which pairs are in which batch of an epoch: arithmetic on a seed, with nothing to remember.

A full permutation of a long table makes every batch read as many row groups as it has pairs. Here the stored
order is cut into blocks of neighbours, the blocks come in random order, and that sequence is cut into as many
equal *lanes* as a batch over all processes has pairs. Batch t takes the t-th pair of each lane, after each
lane was shuffled within windows of `depth` pairs. So a process that is given some of the lanes reads these
alone, row group after row group; the pairs of a batch come from as many places of the table as it has pairs;
and any batch can be computed from its number.
"""

import numpy as np
import numpy.typing as npt

Positions = npt.NDArray[np.int64]

_BLOCKS = 16  # in a window over all lanes, at least
_MAX_BLOCK = 256  # four row groups: more would mix less and save little
_ORDER, _LANE = 0, 1  # of the parts of an epoch's randomness


class EpochOrder:
    """The pairs of one epoch as a matrix: a row is a batch over all processes, a column a lane.

    What does not fill the last row is left to the next epoch's order. Fewer pairs than a row make one row as
    long as they are many.

    Args:
        num_pairs: how many there are, numbered as they are stored.
        width: pairs of a batch over all processes.
        seed: of the order.
        epoch: counted from 0.
        window: how many pairs may be held in memory to be mixed, over all processes. An epoch of no more is
            permuted as a whole; None permutes every epoch as a whole.

    Attributes:
        shape: batches, and pairs a batch.
        num_pairs: as given.
        block: neighbours that stay together; 1 if the whole epoch is permuted.
        depth: batches within which a lane is shuffled: what is read together.
    """

    def __init__(self, num_pairs: int, width: int, *, seed: int, epoch: int, window: int | None) -> None:
        self.shape = (num_pairs // width, width) if num_pairs >= width else (1, num_pairs)
        self.num_pairs, self._seed, self._epoch = num_pairs, seed, epoch
        held = num_pairs if window is None else min(num_pairs, window)
        self.block = 1 if held == num_pairs else min(_MAX_BLOCK, max(1, held // _BLOCKS))
        self.depth = min(self.shape[0], max(-(-held // width), self.block))
        if self.block == 1:
            self._starts = np.random.Generator(np.random.PCG64([seed, epoch])).permutation(num_pairs)
            return
        starts = np.arange(0, num_pairs, self.block, dtype=np.int64)
        self._starts = starts[self._generator(_ORDER).permutation(len(starts))]
        lengths = np.minimum(self.block, num_pairs - self._starts)
        self._ends = np.cumsum(lengths)
        self._shifts = self._starts - (self._ends - lengths)

    def batches(self, first: int, last: int, lanes: slice = slice(None)) -> Positions:
        """Batches `first` to `last`, without the last, in some lanes.

        Returns:
            a matrix of positions, batches by lanes.
        """
        num_batches, width = self.shape
        columns = np.arange(width)[lanes]
        if self.block == 1:
            rows = np.arange(first, last)
            return np.asarray(self._starts[rows[:, None] * width + columns], dtype=np.int64)
        found = np.empty((last - first, len(columns)), dtype=np.int64)
        for begin in range(first // self.depth * self.depth, last, self.depth):
            end = min(begin + self.depth, num_batches)
            inside = slice(max(first, begin) - begin, min(last, end) - begin)
            for i, lane in enumerate(columns.tolist()):
                order = begin + self._generator(_LANE, lane, begin).permutation(end - begin)[inside]
                filled = slice(begin + inside.start - first, begin + inside.stop - first)
                found[filled, i] = lane * num_batches + order
        return self._stored(found)

    def all(self) -> Positions:
        """All positions: batch after batch, and then those that fill none."""
        num_batches, width = self.shape
        rest = np.arange(num_batches * width, self.num_pairs)
        left = self._starts[rest] if self.block == 1 else self._stored(rest)
        return np.concatenate([self.batches(0, num_batches).ravel(), left])

    def _stored(self, places: Positions) -> Positions:
        """Places in the sequence of shuffled blocks to positions."""
        return places + self._shifts[np.searchsorted(self._ends, places, side="right")]

    def _generator(self, *part: int) -> np.random.Generator:
        return np.random.Generator(np.random.PCG64([self._seed, self._epoch, *part]))
