"""Ids of rows by the hundred thousand: as one Arrow array, compared as a whole, never as Python strings."""

import bisect
from collections.abc import Iterator, Sequence
from typing import overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from dsd.data.order import Positions

Mask = npt.NDArray[np.bool_]

_AT_ONCE = 4096  # Python strings at a time


class Ids(Sequence[str]):
    """Strings in a third of the memory that a list of them takes.

    Args:
        strings: one array, or the chunks of a column.
    """

    def __init__(self, strings: pa.Array | pa.ChunkedArray | Sequence[str] = ()) -> None:
        if isinstance(strings, pa.ChunkedArray):
            strings = strings.combine_chunks()
        self.array = strings if isinstance(strings, pa.Array) else pa.array(strings, pa.string())

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        found = self.array[index]
        return found.to_pylist() if isinstance(index, slice) else found.as_py()  # type: ignore[no-any-return]

    def __len__(self) -> int:
        return len(self.array)

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), _AT_ONCE):
            yield from self.array.slice(start, _AT_ONCE).to_pylist()

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Ids):
            return bool(self.array.equals(other.array))
        return isinstance(other, Sequence) and self.array.to_pylist() == list(other)

    def cut(self, start: int, stop: int | None = None) -> "Ids":
        """Neighbours, without a copy."""
        length = len(self) if stop is None else min(stop, len(self))
        return Ids(self.array.slice(start, max(0, length - start)))

    def take(self, positions: Sequence[int] | Positions) -> list[str]:
        """Some of them."""
        return self.pick(positions).array.to_pylist()  # type: ignore[no-any-return]

    def pick(self, positions: Sequence[int] | Positions) -> "Ids":
        """Some of them, as `Ids`."""
        return Ids(self.array.take(pa.array(positions, pa.int64())))

    def among(self, others: "Ids") -> Mask:
        """Which of them are among others; compared in full, whatever hashes they have."""
        known = min(len(self), len(others))
        if not self.array.slice(0, known).equals(others.array.slice(0, known)):
            known = 0
        # The same beginning, as of a stage that was stopped, needs no table of hashes; the rest a short one.
        rest, there = self.array.slice(known), others.array
        if 0 < len(rest) < len(there):
            there = there.filter(pc.is_in(there, value_set=rest))
        found = pc.is_in(rest, value_set=there).to_numpy(zero_copy_only=False)
        return np.concatenate([np.ones(known, dtype=np.bool_), np.asarray(found, dtype=np.bool_)])

    def places(self, others: "Ids") -> Positions:
        """Where each of them stands among others, none of which is there twice; -1 where it does not."""
        if self.array.equals(others.array.slice(0, len(self))):
            return np.arange(len(self))
        found = pc.index_in(self.array, value_set=others.array)
        return np.asarray(found.fill_null(-1).to_numpy(), dtype=np.int64)


class Index:
    """Where single ids stand: a sorted order beside them instead of a dictionary.

    Args:
        ids: of all rows.
    """

    def __init__(self, ids: Ids) -> None:
        self._ids = ids
        self._order = pc.sort_indices(ids.array).to_numpy().astype(np.uint32)

    def find(self, row_id: str) -> int | None:
        """The number of the row; None if there is none."""
        # Arrow sorts by UTF-8 bytes, Python by code points: the same order.
        place = bisect.bisect_left(self._order, row_id, key=lambda i: self._ids[int(i)])
        if place == len(self._order) or self._ids[number := int(self._order[place])] != row_id:
            return None
        return number
