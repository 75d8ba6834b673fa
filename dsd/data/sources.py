"""Where pairs for training come from: a run, its cached encodings, or any data set of such pairs."""

import hashlib
from collections.abc import Hashable, Mapping, Sequence
from glob import glob
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageOps

from dsd.backbones.base import Batch, RawBatch
from dsd.data.buckets import Size, nearest
from dsd.data.cells import Folders, picture_of
from dsd.data.encode import to_uint8
from dsd.data.encoded import EncodedPairs
from dsd.data.encodings import Encoding, caption_id
from dsd.data.policy import Policy
from dsd.data.store import Run
from dsd.parquet import open_parquet
from dsd.types import Pair

Sizes = int | Sequence[Size] | None

COLUMNS = ("reference", "target", "caption")
RELEASE_COLUMNS = {"reference": "conditioning", "target": "image", "caption": "caption"}
"""The columns of the released data set, primecai/dsd_data."""


class RunSource:
    """The accepted pairs of a run, as pictures or as cached encodings.

    Args:
        run: the run.
        policy: which pairs; see `Run.accepted`.
        encoded: the cache to read; None to read pictures.
        size_px: side of the square that pictures are cut and resized to, or sizes (height, width), of which
            each pair gets the nearest to its target; None to leave them as they are.
        captions: the name of captions to take instead of the pairs' own; pairs that have none because the
            captioner failed at them are left out.

    Raises:
        LookupError: if there are no captions of that name.
        ValueError: if no pair is accepted, or some are not in the cache or not captioned yet.
    """

    def __init__(
        self,
        run: Run,
        policy: str | Mapping[str, Any] | Policy | None = None,
        encoded: EncodedPairs | None = None,
        size_px: Sizes = None,
        captions: str | None = None,
    ) -> None:
        run.check("pairs")
        accepted = set(run.accepted(policy))
        if not accepted:
            raise ValueError(
                f"None of the {len(run.pairs)} pairs of {run.path} is accepted (curators: "
                f"{', '.join(run.curators()) or 'none'}). Loosen the curator or the policy, or use 'every'."
            )
        if encoded is not None:
            run.check(encoded.pairs.kind.stage)
            if missing := accepted.difference(encoded.ids()):
                raise ValueError(
                    f"{len(missing)} of {len(accepted)} accepted pairs are not in the cache {encoded.name}. "
                    "Call dsd.encode(run, ...) again, which adds them."
                )
        if captions is not None:
            accepted = set(run.captioned(captions, sorted(accepted)))
        names = run.pairs.columns("id", "grid_id").to_pydict()
        rows = sorted(
            (i, group or i) for i, group in zip(names["id"], names["grid_id"], strict=True) if i in accepted
        )
        self.ids = [pair_id for pair_id, _ in rows]
        self.groups = [group for _, group in rows]
        self._pairs, self.encoded, self._size_px = run.pairs, encoded, size_px
        self._captions = None if captions is None else run.captions(captions)
        if encoded is not None and self._captions is not None:
            known = encoded.texts.keys()
            lacking = sum(caption_id(self._captions[pair_id].caption) not in known for pair_id in self.ids)
            if lacking:
                raise ValueError(
                    f"{lacking} of {len(self.ids)} captions of {captions!r} are not in the cache "
                    f"{encoded.name}. Call dsd.encode(run, captions={captions!r}, ...), which adds them."
                )

    def load(self, positions: Sequence[int]) -> Batch | RawBatch:
        """Those pairs: a `Batch` if they are cached, else a `RawBatch`."""
        ids = [self.ids[i] for i in positions]
        captions = None if self._captions is None else [self._captions[i].caption for i in ids]
        if self.encoded is not None:
            return self.encoded.batch(ids, captions)
        return raw_batch(ids, [self._pairs[i] for i in ids], self._size_px, captions)

    def layouts(self, positions: Sequence[int]) -> list[Hashable]:
        """What must be equal within a batch, of each of those pairs; all of them are read for it."""
        ids = [self.ids[i] for i in positions]
        if self.encoded is None:
            found = {pair_id: layout(pair, self._size_px) for pair_id, pair in self._pairs.items(ids)}
            return [found[pair_id] for pair_id in ids]
        shapes = {pair_id: (_shapes(row), row.reference_id) for pair_id, row in self.encoded.pairs.items(ids)}
        needed = {reference for _, reference in shapes.values()}
        seen = {row_id: _shapes(row) for row_id, row in self.encoded.references.items(needed)}
        return [(shapes[pair_id][0], seen[shapes[pair_id][1]]) for pair_id in ids]


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
        self.ids = [f"{i:09d}" for i in range(len(dataset))]
        self.groups = self.ids

    def load(self, positions: Sequence[int]) -> RawBatch:
        """Those pairs."""
        return raw_batch([self.ids[i] for i in positions], [self._pair(i) for i in positions], self._size_px)

    def layouts(self, positions: Sequence[int]) -> list[Hashable]:
        """What must be equal within a batch, of each of those pairs; all of them are read for it."""
        return [layout(self._pair(i), self._size_px) for i in positions]

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
    if isinstance(source, str | Path) and _is_run(Path(source).expanduser()):
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


def raw_batch(
    ids: Sequence[str],
    pairs: Sequence[Pair],
    size_px: Sizes = None,
    captions: Sequence[str] | None = None,
) -> RawBatch:
    """Pairs as one batch of pixels, with their own captions or other ones.

    Raises:
        ValueError: if they differ in size and `size_px` is None.
    """
    sizes = [_size(pair, size_px) for pair in pairs]
    references = [to_uint8(_fit(p.reference, size)) for p, size in zip(pairs, sizes, strict=True)]
    targets = [to_uint8(_fit(p.target, size)) for p, size in zip(pairs, sizes, strict=True)]
    for images in (references, targets):
        if others := sorted({f"{x.shape[2]} x {x.shape[1]}" for x in images})[1:]:
            raise ValueError(
                f"The pictures of a batch differ in size: {images[0].shape[2]} x {images[0].shape[1]} px and "
                f"{', '.join(others)} px. Give `size_px` to cut and resize them, or `buckets`."
            )
    return RawBatch(
        ids=list(ids),
        reference=torch.stack(references),
        target=torch.stack(targets),
        captions=[pair.caption for pair in pairs] if captions is None else list(captions),
    )


def holdout(groups: Sequence[str], fraction: float, seed: int) -> tuple[list[int], list[int]]:
    """Positions for training and for validation, so that no group is parted.

    Whether a group is held out depends on its name and the seed alone; at least one is if `fraction` is above
    0.

    Raises:
        ValueError: if the fraction is not in [0, 1), or leaves nothing to train on.
    """
    if not 0 <= fraction < 1:
        raise ValueError(f"`val_fraction` must be in [0, 1); got {fraction}.")
    draws = {
        g: int.from_bytes(hashlib.sha256(f"{seed}:{g}".encode()).digest()[:8], "big") / 2**64
        for g in set(groups)
    }
    lowest = min(draws.values())
    held = {g for g, draw in draws.items() if fraction > 0 and (draw < fraction or draw == lowest)}
    if len(held) == len(draws):
        raise ValueError(
            f"val_fraction={fraction} holds out all {len(draws)} groups of pairs. Lower it, or make more "
            "grids."
        )
    train = [i for i, group in enumerate(groups) if group not in held]
    return train, [i for i, group in enumerate(groups) if group in held]


def layout(pair: Pair, size_px: Sizes = None) -> Hashable:
    """The sizes of a pair's pictures as they come into a batch."""
    size = _size(pair, size_px)
    return (pair.reference.size, pair.target.size) if size is None else size


def _size(pair: Pair, size_px: Sizes) -> Size | None:
    if size_px is None or isinstance(size_px, int):
        return None if size_px is None else (size_px, size_px)
    return nearest((pair.target.height, pair.target.width), size_px)


def _fit(image: Image.Image, size: Size | None) -> Image.Image:
    if size is None:
        return image
    return ImageOps.fit(image.convert("RGB"), size[::-1], Image.Resampling.BICUBIC)


def _shapes(encoding: Encoding) -> Hashable:
    return tuple(sorted((name, tuple(x.shape)) for name, x in encoding.tensors.items()))


def _is_run(path: Path) -> bool:
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
        for found in [str(path)] if path.is_file() else glob(str(path), recursive=True):
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
