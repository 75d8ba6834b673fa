"""A part of a run, for jobs that share a run without a cluster: a folder of its own, merged at the end."""

import copy
import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa

from dsd.data.atomic import replace_file
from dsd.data.ids import Ids
from dsd.data.manifest import ManifestError, Shard, StageManifest, ids_digest
from dsd.data.policy import Policy
from dsd.data.rows import Captioned
from dsd.data.store import Run
from dsd.data.table import Table

PART = "part.json"
_FOLDER = re.compile(r"(\d+)-of-(\d+)")
_ALIGN = 64

ShardLike = str | Sequence[int]
"""Which part: "3/16" or `(3, 16)`; the first is 0."""


def parse_shard(shard: ShardLike) -> tuple[int, int]:
    """The number of a part and of how many.

    Raises:
        ValueError: if it is none.
    """
    numbers: Sequence[Any] = shard.split("/") if isinstance(shard, str) else tuple(shard)
    try:
        index, count = (int(number) for number in numbers)
    except (ValueError, TypeError):
        index, count = -1, 0
    if not 0 <= index < count:
        raise ValueError(
            "`shard` must be I/N with I from 0 to N - 1, such as 0/4, 1/4, 2/4 and 3/4 for four jobs; got "
            f"{shard!r}."
        )
    return index, count


def bounds(index: int, count: int, rows: int) -> tuple[int, int]:
    """Where a part begins and ends, in rows of the stage that all parts are made from.

    Parts touch, cover all rows, and differ in length by at most two batches of 64: they are cut at multiples
    of 64 where there are enough rows, so that batches hold the same records as without parts.
    """
    align = _ALIGN
    while align > 1 and rows < 4 * align * count:
        align //= 2
    first, last = (round(i * rows / count / align) * align if i < count else rows for i in (index, index + 1))
    return first, last


class TableSlice(Table[Any]):
    """Some neighbouring rows of a table, read like a table.

    Args:
        table: the whole.
        start: the first of its rows.
        stop: the first that is not of the slice any more.
    """

    def __init__(self, table: Table[Any], start: int, stop: int) -> None:
        super().__init__(table.folder, table.kind)
        self._table, self._start, self._stop = table, start, stop
        self._own_ids: Ids | None = None
        self._digest = ""

    @property
    def manifest(self) -> StageManifest:
        """That of the table, as if it had these rows alone."""
        ids = self._own()
        rows = Shard(file="", rows=len(ids), bytes=0, ids=self._digest, sha256="", footer="")
        return replace(self._table.manifest, shards=(rows,))

    def __getitem__(self, row_id: str) -> Any:
        return self._table[row_id]

    def __contains__(self, row_id: object) -> bool:
        return row_id in self._own()

    def ids(self) -> list[str]:
        """See `Table.ids`."""
        return list(self._own())

    def row_ids(self) -> Ids:
        """See `Table.row_ids`."""
        return self._own()

    def columns(self, *names: str) -> pa.Table:
        """See `Table.columns`."""
        return self._table.columns(*names).slice(self._start, self._stop - self._start)

    def parts(self, *names: str) -> Iterator[pa.Table]:
        """See `Table.parts`."""
        yield self.columns(*names)

    def items(self, ids: Collection[str] | None = None) -> Iterator[tuple[str, Any]]:
        """See `Table.items`."""
        return self._table.items(self._own() if ids is None else ids)

    def _own(self) -> Ids:
        if self._own_ids is None:
            self._own_ids = self._table.row_ids().cut(self._start, self._stop)
            self._digest = ids_digest(self._own_ids)
        return self._own_ids


class Part(Run):
    """Part number `index` of `count` of a run: a run of its own in the folder `RUN.shards/`.

    Its first stage takes some neighbouring rows of the whole run; later ones take those of the part. Nothing
    of the whole run is written to before `merge`.

    Args:
        whole: the run.
        index: which part; the first is 0.
        count: of how many.
    """

    def __init__(self, whole: Run, index: int, count: int) -> None:
        super().__init__(folder_of_parts(whole) / f"{index:05d}-of-{count:05d}")
        self.whole, self.index, self.count = whole, index, count
        self._slices: dict[str, TableSlice] = {}

    def __repr__(self) -> str:
        return f"Part({self.whole!r}, {self.index}, {self.count})"

    def earlier(self, stage: str) -> Table[Any] | None:
        """The rows that a stage takes: of the part's own earlier stage, or else the whole run's."""
        own = super().earlier(stage)
        if own is None or own.exists:
            return own
        source = self.whole.earlier(stage)
        assert source is not None
        if source.kind.stage not in self._slices:
            start, stop = bounds(self.index, self.count, source.manifest.rows)
            self._slices[source.kind.stage] = TableSlice(source, start, stop)
        return self._slices[source.kind.stage]

    def check(self, stage: str) -> None:
        """See `Run.check`: with those rows of the whole run that the part takes."""
        own, table = super().earlier(stage), self.table(stage)
        if own is None or own.exists:
            super().check(stage)
            return
        source = self.earlier(stage)
        assert source is not None
        self.whole.check(source.kind.stage)
        if (
            table.exists
            and not isinstance(table, TableSlice)
            and not table.row_keys().among(source.row_ids()).all()
        ):
            raise ManifestError(
                f"{table.folder} was made from rows of {source.kind.stage!r} that are not in part "
                f"{self.index} of "
                f"{self.count} of {self.whole.path} any more. Remove {self.path} and make it again."
            )

    def accepted(self, policy: str | Mapping[str, Any] | Policy | None = None) -> list[str]:
        """See `Run.accepted`: by the verdicts of the part, or else of the whole run."""
        if self.pairs.exists:
            return super().accepted(policy)
        source = self.earlier("verdicts")
        assert source is not None
        if self.curators():
            reader = copy.copy(self)
            reader.pairs = source
            return Run.accepted(reader, policy)
        ids = source.row_ids()
        return ids.take(np.flatnonzero(ids.among(Ids(self.whole.accepted(policy)))))

    def captioned(self, name: str, ids: Sequence[str]) -> list[str]:
        """See `Run.captioned`: by the captions of the part, or else of the whole run."""
        return super().captioned(name, ids) if self.captions(name).exists else self.whole.captioned(name, ids)

    @contextmanager
    def lock(self, purpose: str) -> Iterator[None]:
        """Hold the part for writing, and record which rows of the whole run it takes.

        Raises:
            ManifestError: if the whole run has other rows since the part was begun.
            ValueError: if the whole run has rows of the stage already.
        """
        family = purpose.partition("/")[0]
        known = family in ("grids", "pairs", "verdicts", "captions") and self.whole.table(purpose).exists
        if known and not found_parts(self.whole):  # else they come of parts that were merged
            raise ValueError(
                f"{self.whole.path} has rows of {purpose!r} already, so no part of it can be made. Go on "
                "without "
                "`shard`, or begin another run."
            )
        with super().lock(purpose):
            self._record()
            yield

    def _record(self) -> None:
        file = self.path / PART
        recorded = read_part(self) or {"format": 1, "shard": self.index, "of": self.count, "from": {}}
        for stage in self._slices:
            whole = self.whole.table(stage).manifest
            now = {"rows": whole.rows, "ids": whole.ids}
            if recorded["from"].setdefault(stage, now) != now:
                raise ManifestError(
                    f"{self.path} was begun when {self.whole.path} had {recorded['from'][stage]['rows']} "
                    "rows of "
                    f"{stage!r}; now it has {now['rows']}, and some would be in two parts or in none. Merge "
                    "or "
                    f"remove {self.path.parent} first."
                )
        replace_file(file, (json.dumps(recorded, indent=1) + "\n").encode())


def captions_of(run: Run, name: str) -> Table[Captioned]:
    """The captions of that name; of a part that has none, those of the whole run."""
    own = run.captions(name)
    return run.whole.captions(name) if isinstance(run, Part) and not own.exists else own


def folder_of_parts(run: Run) -> Any:
    """Where the parts of a run are: beside it, so that neither sweeps or locks the other's files."""
    return run.path.with_name(f"{run.path.name}.shards")


def read_part(run: Run) -> dict[str, Any] | None:
    """What a part says of itself; None if a run is none.

    Raises:
        ManifestError: if that is damaged.
    """
    file = run.path / PART
    if not file.exists():
        return None
    try:
        content = json.loads(file.read_text())
        index, count = parse_shard((content["shard"], content["of"]))
        taken = {
            str(name): {"rows": int(s["rows"]), "ids": str(s["ids"])} for name, s in content["from"].items()
        }
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ManifestError(
            f"{file} is damaged ({error}). Remove the part's folder and make it again."
        ) from error
    return {"format": 1, "shard": index, "of": count, "from": taken}


def found_parts(run: Run) -> list[Any]:
    """The folders of the parts of a run that have been begun."""
    folder = folder_of_parts(run)
    found = [file.parent for file in folder.glob(f"*/{PART}")] if folder.is_dir() else []
    return sorted((path for path in found if _FOLDER.fullmatch(path.name)), key=str)
