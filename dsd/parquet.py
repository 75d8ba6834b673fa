"""Parquet files from outside: what their footers claim is bounded before anything else of them is read."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow.parquet as pq

MAX_GROUP_BYTES = 2 * 2**30
"""Of a row group, uncompressed, as its footer claims: readers hold a whole one."""
MAX_FOOTER_BYTES = 64 * 2**20
MAX_COLUMNS = 4096
MAX_CELL_CHARS = 2**20
"""Of a text in the small tables of `read_rows`."""
_BATCH_ROWS = 256
_SPREAD_ROWS = 16  # as Python objects, in which texts are shared no more


def open_parquet(path: str | Path, **options: Any) -> "pq.ParquetFile":
    """A Parquet file whose footer claims nothing absurd.

    Args:
        path: the file.
        options: of `pyarrow.parquet.ParquetFile`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no Parquet file, damaged, or claims more than is read.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = Path(path)
    try:
        size = path.stat().st_size
        with path.open("rb") as stream:
            stream.seek(max(0, size - 8))
            end = stream.read(8)
        if end[4:] != b"PAR1":
            raise ValueError("it does not end as one")
        footer = int.from_bytes(end[:4], "little")
        if footer > min(size, MAX_FOOTER_BYTES):
            raise ValueError(
                f"its footer is said to have {footer:,} bytes; at most {MAX_FOOTER_BYTES:,} are read"
            )
        file = pq.ParquetFile(path, **options)
        check_claims(file.metadata)
    except FileNotFoundError:
        raise FileNotFoundError(f"There is no file {path}.") from None
    except (pa.ArrowException, OSError, ValueError) as error:
        raise ValueError(f"{path} is no Parquet file that can be read: {_line(error)}.") from error
    return file


def check_claims(metadata: "pq.FileMetaData") -> None:
    """Check what a footer says of its file, before pages are read as it says.

    Raises:
        ValueError: if it claims more than is read, or what cannot be.
    """
    if metadata.num_columns > MAX_COLUMNS:
        raise ValueError(f"it has {metadata.num_columns:,} columns; at most {MAX_COLUMNS:,} are read")
    rows = 0
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)  # not its columns: pyarrow ends the process if theirs are damaged
        if group.num_rows < 0 or group.total_byte_size < 0:
            raise ValueError(f"its row group {number} claims fewer than 0 rows or bytes")
        if group.total_byte_size > MAX_GROUP_BYTES:
            raise ValueError(
                f"its row group {number} claims {group.total_byte_size:,} bytes; at most {MAX_GROUP_BYTES:,} "
                "are read. Write it with smaller row groups"
            )
        rows += group.num_rows
    if rows != metadata.num_rows:
        raise ValueError(f"it claims {metadata.num_rows:,} rows, and its row groups {rows:,}")


def read_rows(path: str | Path, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The rows of a table of texts and numbers, a few at a time.

    Args:
        path: the file.
        columns: those of it that are read.

    Raises:
        FileNotFoundError, ValueError: as `open_parquet`, and if a text is too long.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    # Texts stay in their dictionaries: a long one that many rows share is in memory once.
    with open_parquet(path) as file:
        texts = [field.name for field in file.schema_arrow if field.name in columns and _is_text(field.type)]
    with open_parquet(path, read_dictionary=texts) as file:
        try:
            for batch in file.iter_batches(_BATCH_ROWS, columns=list(columns), use_threads=False):
                for name, column in zip(batch.schema.names, batch.columns, strict=True):
                    cells = column.flatten() if pa.types.is_list(column.type) else column
                    cells = cells.dictionary if pa.types.is_dictionary(cells.type) else cells
                    if not _is_text(cells.type):
                        continue
                    longest = pc.max(pc.binary_length(cells)).as_py() or 0
                    if longest > 4 * MAX_CELL_CHARS:
                        raise ValueError(
                            f"a cell of its column {name!r} has {longest:,} bytes; at most "
                            f"{4 * MAX_CELL_CHARS:,} are read"
                        )
                for start in range(0, batch.num_rows, _SPREAD_ROWS):
                    yield from batch.slice(start, _SPREAD_ROWS).to_pylist()
        except (pa.ArrowException, OSError, ValueError) as error:
            raise ValueError(f"{path} is damaged, or too large to be read: {_line(error)}.") from error


def column_names(path: str | Path) -> list[str]:
    """The names of a file's columns.

    Raises:
        FileNotFoundError, ValueError: as `open_parquet`.
    """
    with open_parquet(path) as file:
        return [str(name) for name in file.schema_arrow.names]


def _is_text(kind: Any) -> bool:
    import pyarrow as pa

    return any(
        test(kind)
        for test in (
            pa.types.is_string,
            pa.types.is_large_string,
            pa.types.is_binary,
            pa.types.is_large_binary,
        )
    )


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
