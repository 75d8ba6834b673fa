"""Rows by their numbers in a table: how training reads, in blocks of neighbours rather than one by one."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dsd.data.manifest import ManifestError
from dsd.data.order import Positions
from dsd.data.rows import Row
from dsd.data.table import Table

Numbered = tuple[int, Row]
"""A row, not decoded, with its number."""


@dataclass(frozen=True, kw_only=True)
class Places:
    """Of cached pairs, the numbers of their rows in the three tables; -1 where there is none."""

    pairs: Positions
    references: Positions
    texts: Positions

    def take(self, some: Positions) -> "Places":
        """Those of some of the pairs."""
        return Places(pairs=self.pairs[some], references=self.references[some], texts=self.texts[some])

    @property
    def whole(self) -> npt.NDArray[np.bool_]:
        """Which pairs have all three."""
        return np.asarray(np.minimum(np.minimum(self.pairs, self.references), self.texts) >= 0)


def rows_at(
    table: Table[Any], numbers: Positions, ids: Sequence[str], names: Sequence[str] = ()
) -> list[Numbered]:
    """Rows by number, in any order and repeated; each row group that holds one is read once.

    Pictures that several rows have in common are held once.

    Args:
        table: where they are.
        numbers: of the rows.
        ids: of the rows.
        names: of the columns, with the one of ids; all by default.

    Raises:
        ManifestError: if a shard is damaged, or other rows stand there.
    """
    wanted, back = np.unique(numbers, return_inverse=True)
    rows = list(_rows(table, wanted, names))
    found = [(int(wanted[i]), rows[i]) for i in back]
    if any(row[table.kind.id_column] != row_id for (_, row), row_id in zip(found, ids, strict=True)):
        raise ManifestError(
            f"The rows of {table.folder} are no longer where they were when it was opened. Open it again; a "
            "training goes on from its checkpoint."
        )
    return found


def row_bytes(table: Table[Any], rows: int | None = None) -> int:
    """The size of a table by its rows, or by other ones."""
    shards = table.manifest.shards
    return sum(shard.bytes for shard in shards) // max(1, len(table) if rows is None else rows)


def _rows(table: Table[Any], wanted: Positions, names: Sequence[str]) -> Iterator[Row]:
    pictures = [
        field.name
        for field in table.kind.schema
        if pa.types.is_struct(field.type) and (not names or field.name in names)
    ]
    shared: dict[bytes, Row] = {}
    for row in itertools.chain.from_iterable(some.to_pylist() for some in table.at(wanted, *names)):
        for name in pictures:
            row[name] = shared.setdefault(row[name]["bytes"], row[name])
        yield row
