"""Pairs for training, as a Lightning data module."""

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any

import lightning
import numpy as np
import torch

from dsd.data.encoded import EncodedPairs
from dsd.data.loader import PairLoader
from dsd.data.order import Positions
from dsd.data.policy import Policy
from dsd.data.sources import ColumnSource, holdout, open_source
from dsd.data.store import Run
from dsd.data.stored import RunSource


class PairDataModule(lightning.LightningDataModule):
    """Batches of pairs: `Batch` of cached latents and embeddings, or `RawBatch` of pixels and captions.

    The batches over all processes depend on `seed`, the epoch and their size alone, not on how many processes
    or workers read, nor on the shards that rows are stored in.
    Training that was stopped in mid-epoch and goes on from a Lightning checkpoint sees the batches that it
    had not seen.

    Args:
        source: a run or its folder; a Parquet file, a folder of them or a pattern such as "data/*.parquet";
            the id of a data set on the Hugging Face Hub (with `columns`); or a `datasets.Dataset`.
        batch_size: pairs a batch and process.
        curator: of a run: follow this curator alone. Short for `policy`.
        policy: of a run: which pairs to train on; see `Policy`. By default those that the only curator
            accepts.
        encoded: of a run: True to read cached encodings where there is one cache; the name of the cache where
            there are several; None or False for pictures.
        columns: of a data set: which of its columns is the `reference`, the `target` and the `caption`. For
            the released data `{"reference": "conditioning", "target": "image", "caption": "caption"}`.
        num_workers: threads that decode ahead; see `PairLoader`.
        seed: of the order, and of what is held out.
        val_fraction: share of the grids whose pairs are held out for validation, in [0, 1).
        val_batch_size: pairs a validation batch; `batch_size` by default.
        size_px: side of the square that pictures are cut and resized to; needed where they differ in size.
        split: of a data set on the Hub.
        buckets: for pairs of several sizes: True to have only pairs of one size in a batch; or sizes (height,
            width), such as `aspect_buckets(512 * 512)`, of which each picture is cut and resized to the
            nearest. All pairs are read for it once.
        shuffle_rows: of a run: how many pairs, over all processes, are held in memory to be mixed. As many
            come in an order that is random throughout; more than that in blocks of neighbours, so that they
            are read row group by row group. By default 4096, or fewer that take 64 MiB.
        captions: of a run: the name of captions to train on, as `dsd.caption_pairs` made them; the pairs' own
            by default.

    Raises:
        ValueError: if a number is out of range, both `curator` and `policy` are given, or `buckets` are sizes
            and `size_px` or `encoded` says otherwise.

    Example:
        >>> data = PairDataModule("runs/mini", curator="embedding", encoded=True)  # doctest: +SKIP
    """

    def __init__(
        self,
        source: str | PathLike[str] | Run | Any,
        batch_size: int = 16,
        curator: str | None = None,
        policy: str | Mapping[str, Any] | Policy | None = None,
        encoded: bool | str | None = None,
        columns: Mapping[str, str] | None = None,
        num_workers: int = 0,
        seed: int = 0,
        val_fraction: float = 0.0,
        val_batch_size: int | None = None,
        size_px: int | None = None,
        split: str = "train",
        captions: str | None = None,
        buckets: bool | Sequence[Sequence[int]] = False,
        shuffle_rows: int | None = None,
    ) -> None:
        super().__init__()
        for name, value in {
            "batch_size": batch_size,
            "val_batch_size": val_batch_size,
            "size_px": size_px,
            "shuffle_rows": shuffle_rows,
        }.items():
            if value is not None and value < 1:
                raise ValueError(f"`{name}` must be at least 1; got {value}.")
        if num_workers < 0:
            raise ValueError(f"`num_workers` must be at least 0; got {num_workers}.")
        if curator is not None and policy is not None:
            raise ValueError(f"Give `curator` or `policy`, not both; got {curator!r} and {policy!r}.")
        if not 0 <= val_fraction < 1:
            raise ValueError(f"`val_fraction` must be in [0, 1); got {val_fraction}.")
        if not isinstance(buckets, bool) and (size_px is not None or encoded):
            raise ValueError(
                "`buckets` are sizes to bring pictures to. Leave `size_px` out, and with `encoded`, whose "
                "sizes are fixed, say buckets=True."
            )
        self.buckets = bool(buckets)
        self.batch_size, self.val_batch_size = batch_size, val_batch_size or batch_size
        self.shuffle_rows = shuffle_rows
        self.num_workers, self.seed, self.val_fraction = num_workers, seed, val_fraction
        self._source: Any = (
            source if isinstance(source, Run) or hasattr(source, "column_names") else str(source)
        )
        self._options: dict[str, Any] = {
            "policy": Policy(curators=(curator,)) if curator is not None else policy,
            "encoded": encoded,
            "columns": columns,
            "size_px": size_px if isinstance(buckets, bool) else [(int(h), int(w)) for h, w in buckets],
            "split": split,
            "captions": captions,
        }
        self._opened: RunSource | ColumnSource | None = None
        self._positions: tuple[Positions, Positions] = (np.empty(0, np.int64), np.empty(0, np.int64))

    def prepare_data(self) -> None:
        """Open the source once, so that a data set is downloaded by one process a machine."""
        self.setup()

    def setup(self, stage: str | None = None) -> None:
        """Open the source and hold out what is for validation. Lightning calls it."""
        if self._opened is None:
            opened = open_source(self._source, **self._options)
            self._positions = np.arange(len(opened.ids)), np.arange(0)
            if self.val_fraction:
                self._positions = holdout(opened.groups(), self.val_fraction, self.seed)
            self._opened = opened

    @property
    def encoded(self) -> EncodedPairs | None:
        """The cache that batches come from; None if they are pictures."""
        opened = self._ready()
        return opened.encoded if isinstance(opened, RunSource) else None

    @property
    def train_ids(self) -> list[str]:
        """The ids of the pairs to train on."""
        return self._ids(0)

    @property
    def val_ids(self) -> list[str]:
        """The ids of the pairs that are held out."""
        return self._ids(1)

    def train_dataloader(self) -> PairLoader:
        """Batches in an order of their own each epoch."""
        return self._loader(0, self.batch_size, shuffle=True)

    def val_dataloader(self) -> PairLoader | list[PairLoader]:
        """The held-out pairs, always in one order; an empty list if there are none."""
        return self._loader(1, self.val_batch_size, shuffle=False) if self.val_fraction else []

    def _ready(self) -> RunSource | ColumnSource:
        self.setup()
        assert self._opened is not None
        return self._opened

    def _ids(self, part: int) -> list[str]:
        return self._ready().ids.take(self._positions[part])

    def _loader(self, part: int, batch_size: int, shuffle: bool) -> PairLoader:
        opened = self._ready()
        return PairLoader(
            opened,
            self._positions[part],
            batch_size,
            layouts=opened.layouts(self._positions[part].tolist()) if self.buckets else None,
            window=self.shuffle_rows,
            seed=self.seed,
            shuffle=shuffle,
            num_workers=self.num_workers,
            pin_memory=torch.cuda.is_available(),
            rank=self.trainer.global_rank if self.trainer else 0,
            world_size=self.trainer.world_size if self.trainer else 1,
        )
