"""Where pairs for training come from: a run (see `dsd.data.stored`) or any data set of such pairs."""

import hashlib
from collections.abc import Hashable, Iterator, Mapping, Sequence
from glob import glob
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from dsd.backbones.base import RawBatch
from dsd.data.cells import Folders, picture_of
from dsd.data.encoded import EncodedPairs
from dsd.data.frames import Pictures, Sizes, layout, raw_batch
from dsd.data.ids import Ids
from dsd.data.order import Positions
from dsd.data.policy import Policy
from dsd.data.storage import Location, RemotePath, location
from dsd.data.store import Run
from dsd.data.stored import RunSource
from dsd.parquet import open_parquet
from dsd.types import Pair

COLUMNS = ("reference", "target", "caption")
RELEASE_COLUMNS = {"reference": "conditioning", "target": "image", "caption": "caption"}
"""The columns of the released data set, primecai/dsd_data."""


class ColumnSource:
    """Pairs of a Hugging Face data set.

    Args:
        dataset: a `datasets.Dataset`.
        columns: which of its columns is the `reference`, the `target` and the `caption`; either way round.
        size_px: as in `RunSource`.
        name: what to call it in messages.
        folders: of the files that its cells may name; see `picture_of`.

    Raises:
        ValueError: if a column is missing, or the data set is empty.
    """

    def __init__(
        self,
        dataset: Any,
        columns: Mapping[str, str] | None = None,
        size_px: Sizes = None,
        name: str = "the data set",
        folders: Folders = None,
    ) -> None:
        from datasets import Image as ImageFeature

        self._columns = resolve_columns(columns, dataset.column_names, name)
        if not len(dataset):
            raise ValueError(f"{name} has no rows.")
        dataset = dataset.select_columns(list(self._columns.values()))
        for column in (self._columns["reference"], self._columns["target"]):
            dataset = dataset.cast_column(column, ImageFeature(decode=False))
        self._dataset, self._size_px, self._name, self._folders = dataset, size_px, name, folders
        self.ids = Ids(pa.array((f"{i:09d}" for i in range(len(dataset))), pa.string()))

    def groups(self) -> pa.Array:
        """Of each pair, what it must not be parted from: itself."""
        return self.ids.array

    def load(self, positions: Sequence[int]) -> RawBatch:
        """Those pairs."""
        captions: list[str] = []

        def pictures() -> Iterator[Pictures]:
            for pair in map(self._pair, positions):
                captions.append(pair.caption)
                yield pair.reference, pair.target

        return raw_batch([self.ids[i] for i in positions], pictures(), captions, self._size_px)

    def layouts(self, positions: Sequence[int]) -> list[Hashable]:
        """What must be equal within a batch, of each of those pairs; all of them are read for it."""
        pairs = map(self._pair, positions)
        return [layout((pair.reference, pair.target), self._size_px) for pair in pairs]

    def _pair(self, position: int) -> Pair:
        row = self._dataset[position]
        found = {name: row[column] for name, column in self._columns.items()}
        for side in ("reference", "target"):
            if found[side] is None:
                raise ValueError(
                    f"Row {position} of {self._name} lacks a picture. Filter such rows out first."
                )
            try:
                found[side] = picture_of(found[side], self._folders)
            except ValueError as error:
                raise ValueError(
                    f"Row {position} of {self._name} has a picture that cannot be decoded: {error}"
                ) from error
        return Pair(**{**found, "caption": found.get("caption") or ""}, source=self._name)


def open_source(
    source: Any,
    *,
    policy: str | Mapping[str, Any] | Policy | None = None,
    encoded: bool | str | None = None,
    columns: Mapping[str, str] | None = None,
    size_px: Sizes = None,
    split: str = "train",
    captions: str | None = None,
) -> RunSource | ColumnSource:
    """The pairs that a user's `source` stands for; see `PairDataModule`.

    Raises:
        FileNotFoundError: if it is no folder or file, and no data set of the Hub is meant.
    """
    if isinstance(source, str | Path | RemotePath) and _is_run(location(source)):
        source = Run(source)
    if isinstance(source, Run):
        if columns is not None:
            raise ValueError(f"{source.path} is a run, whose columns are known. Leave `columns` out.")
        name = encoded if isinstance(encoded, str) else None
        cache = EncodedPairs.find(source.path, name) if encoded else None
        return RunSource(source, policy, cache, size_px, captions)
    if policy is not None or encoded or captions is not None:
        raise ValueError(
            f"`curator`, `policy`, `encoded` and `captions` belong to a run, and {source} is none. Leave "
            "them out."
        )
    if hasattr(source, "column_names"):
        return ColumnSource(source, columns, size_px)
    dataset, folders = _load_dataset(str(source), columns, split)
    return ColumnSource(dataset, columns, size_px, str(source), folders)


def resolve_columns(columns: Mapping[str, str] | None, there: Sequence[str], name: str) -> dict[str, str]:
    """Our names of columns to the data set's.

    Raises:
        ValueError: if a column is missing or a name is unknown.
    """
    if columns is None:
        ours = {column: column for column in COLUMNS}
        known = ours if {"reference", "target"} <= set(there) else RELEASE_COLUMNS
        columns = {name: column for name, column in known.items() if column in there or name != "caption"}
    elif not set(columns) <= set(COLUMNS) or not set(columns.values()) <= set(there):
        if set(columns.values()) <= set(COLUMNS):
            columns = {ours: theirs for theirs, ours in columns.items()}
    unknown, missing = set(columns) - set(COLUMNS), {"reference", "target"} - set(columns)
    absent = set(columns.values()) - set(there)
    if unknown or missing or absent:
        raise ValueError(
            f"{name} has the columns {', '.join(there)}; got columns={dict(columns)}. Say which of them is "
            "what: columns={'reference': ..., 'target': ..., 'caption': ...}."
        )
    return dict(columns)


def holdout(groups: Sequence[str] | pa.Array, fraction: float, seed: int) -> tuple[Positions, Positions]:
    """Positions for training and for validation, so that no group is parted.

    Whether a group is held out depends on its name and the seed alone; at least one is.

    Raises:
        ValueError: if the fraction is not in (0, 1), or leaves nothing to train on.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"`val_fraction` must be in (0, 1); got {fraction}.")
    coded = pa.array(groups, pa.string()).dictionary_encode()
    draws = np.array([_draw(f"{seed}:{name}") for name in coded.dictionary.to_pylist()])
    held = (draws < fraction) | (draws == draws.min())
    if held.all():
        raise ValueError(
            f"val_fraction={fraction} holds out all {len(draws)} groups of pairs. Lower it, or make more "
            "grids."
        )
    inside = held[coded.indices.to_numpy()]
    return np.flatnonzero(~inside), np.flatnonzero(inside)


def _draw(name: str) -> float:
    """A number in [0, 1) that depends on a name."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64


def _is_run(path: Location) -> bool:
    return path.is_dir() and any(
        (path / name).exists() for name in ("manifest.json", "prompts", "grids", "pairs")
    )


def _load_dataset(source: str, columns: Mapping[str, str] | None, split: str) -> tuple[Any, list[Path]]:
    """A data set, and the folders of files that it may name."""
    import datasets

    path = Path(source).expanduser()
    if path.is_dir():
        files = sorted(str(file) for file in path.rglob("*.parquet") if not file.name.startswith("."))
        if not files:
            raise FileNotFoundError(
                f"The folder {path} is no run and holds no Parquet files. Check the path."
            )
        for file in files:
            open_parquet(file).close()  # says now if it claims too much, or is damaged
        return datasets.load_dataset("parquet", data_files=files, split="train"), []
    if path.is_file() or "*" in source:
        for found in [path] if path.is_file() else map(Path, glob(str(path), recursive=True)):
            open_parquet(found).close()
        return datasets.load_dataset("parquet", data_files=str(path), split="train"), []
    if columns is None or source.count("/") > 1 or source.startswith((".", "~")):
        raise FileNotFoundError(
            f"There is no folder or file {source!r}. Check the path; for a data set of the Hugging Face Hub, "
            "say which of its columns is what: columns={'reference': ..., 'target': ..., 'caption': ...}."
        )
    from huggingface_hub.constants import HF_HUB_CACHE

    caches = [datasets.config.HF_DATASETS_CACHE, HF_HUB_CACHE]
    return datasets.load_dataset(source, split=split), [Path(cache).absolute() for cache in caches]
