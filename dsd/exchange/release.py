"""The layout of the released data set, primecai/dsd_data: Parquet, columns `image` (the target),
`conditioning` (the reference) and `caption`.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

from dsd.exchange import parquet_files
from dsd.exchange.foreign import Found, Options, Refused, picture, text
from dsd.types import Pair

COLUMNS = {"reference": "conditioning", "target": "image", "caption": "caption"}


def read(source: Path, options: Options) -> Iterator[Found | Refused]:
    """See `Reader`. `options.columns` names other columns.

    Raises:
        ValueError: if a column is missing, or a file is damaged.
    """
    files = parquet_files.find(source, ".parquet")
    columns = {**COLUMNS, **(options.columns or {})}
    for path in files:
        _check(path, columns)
    for where, values in parquet_files.rows(files, list(columns.values()), source):
        try:
            row = values()
            pair = Pair(
                reference=picture(row[columns["reference"]], "reference"),
                target=picture(row[columns["target"]], "target"),
                caption=text(row.get(columns["caption"]), "caption"),
                source=options.name,
            )
        except ValueError as error:
            yield Refused(where=where, reason=str(error))
            continue
        yield Found(where=where, pair=pair)


def _check(path: Path, columns: Mapping[str, str]) -> None:
    there = parquet_files.names(path)
    if missing := [columns[name] for name in ("reference", "target") if columns[name] not in there]:
        raise ValueError(
            f"{path} has no column {missing[0]!r}; it has {', '.join(map(repr, there[:20]))}. Say which of "
            "them is what: columns={'reference': ..., 'target': ..., 'caption': ...}."
        )
