"""A run: one folder with the rows of every stage, each of which can be stopped, resumed and read alone."""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dsd.data import selection
from dsd.data.atomic import lock, make_folder, replace_file, sweep_temporary
from dsd.data.cache import answers_file
from dsd.data.encodings import encodings
from dsd.data.ids import Ids, Mask
from dsd.data.manifest import FORMAT, STAGE_MANIFEST, ManifestError
from dsd.data.policy import Policy
from dsd.data.rows import (
    GRIDS,
    PAIRS,
    PROMPTS,
    Captioned,
    Failure,
    Judged,
    TableKind,
    captions,
    failures,
    verdicts,
)
from dsd.data.storage import Location, RemotePath, location, move, named
from dsd.data.table import Table
from dsd.types import Grid, GridPrompt, Pair

if TYPE_CHECKING:
    from dsd.data.compaction import Compacted
    from dsd.data.garbage import Garbage
    from dsd.data.migration import Migrated
    from dsd.data.verification import Verification

logger = logging.getLogger(__name__)

RUN_MANIFEST = "manifest.json"
_EARLIER = {
    **{"grids": "prompts", "pairs": "grids"},
    **dict.fromkeys(("verdicts", "captions", "encoded"), "pairs"),
}


class Run:
    """One folder of rows: prompts, grids, pairs, verdicts, encodings.

    Making the object touches nothing; the stages (`dsd.write_prompts(run)`, ...) create what they need.
    Reading needs no lock and may go on while a stage runs.

    Args:
        path: the folder, there or not; or the URL of one in an object store, such as "s3://bucket/runs/x".

    Attributes:
        path: the folder; a `RemotePath` for a URL.
        prompts: what the teacher is asked to draw.
        grids: what it drew.
        pairs: references and targets cut from them, kept and dropped ones.
    """

    def __init__(self, path: str | PathLike[str] | Location) -> None:
        self.path: Location = location(path)
        self._asked: set[str] = set()
        self.prompts: Table[GridPrompt] = Table(self.path / "prompts", PROMPTS)
        self.grids: Table[Grid] = Table(self.path / "grids", GRIDS)
        self.pairs: Table[Pair] = Table(self.path / "pairs", PAIRS)

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    @property
    def answers(self) -> Path:
        """The file in which the answers of paid models are kept, so that none is asked for twice.

        Of a run in a store it is on this machine, in the cache's folder.
        """
        if isinstance(self.path, RemotePath):
            return answers_file(self.path)
        return self.path / "answers.sqlite"

    def verdicts(self, name: str) -> Table[Judged]:
        """What the curator of that name said."""
        return self._named("verdicts", name, verdicts(name))

    def captions(self, name: str) -> Table[Captioned]:
        """What the captioner of that name wrote, beside the captions that the pairs have."""
        return self._named("captions", name, captions(name))

    def failed(self, stage: str) -> Table[Failure]:
        """What a stage could not do, and why. The table does not exist before the first failure."""
        return self._named("failed", stage, failures(stage))

    def _named(self, family: str, name: str, kind: TableKind[Any]) -> Table[Any]:
        self._asked.add(f"{family}/{name}")
        return Table(self.path / family / name, kind)

    def curators(self) -> list[str]:
        """The names under which there are verdicts."""
        return [stage.partition("/")[2] for stage in self.stages() if stage.startswith("verdicts/")]

    def table(self, stage: str) -> Table[Any]:
        """The table of a stage by its name, such as "pairs", "verdicts/embedding" or "failed/grids".

        Raises:
            LookupError: if there is no such stage.
        """
        tables: Mapping[str, Table[Any]] = {"prompts": self.prompts, "grids": self.grids, "pairs": self.pairs}
        family, _, name = stage.partition("/")
        if stage in tables:
            return tables[stage]
        if family == "verdicts" and name:
            return self.verdicts(name)
        if family == "captions" and name:
            return self.captions(name)
        if family == "failed" and name:
            return self.failed(name)
        if family == "encoded" and name:
            return self._named("encoded", name, encodings(name))
        raise LookupError(
            f"A run has no stage {stage!r}. This one has: {', '.join(self.stages()) or 'none yet'}."
        )

    def stages(self) -> list[str]:
        """The names of the stages that have been begun, in the order of the flow."""
        order = ["prompts", "grids", "pairs", "verdicts", "captions", "encoded", "failed"]
        found = {name.rpartition("/")[0] for name in named(self.path, STAGE_MANIFEST)}
        if isinstance(self.path, RemotePath):
            found |= self._recorded(self.path)
        # Hidden folders are what a process left that was killed while it discarded rows.
        known = [stage for stage in found if stage.partition("/")[0] in order and "/." not in stage]
        return sorted(known, key=lambda stage: (order.index(stage.partition("/")[0]), stage))

    def _recorded(self, path: RemotePath) -> set[str]:
        """Stages that there are though the store may not list them yet."""
        try:
            known = {*json.loads((path / RUN_MANIFEST).read_bytes())["stages"]}
        except FileNotFoundError:
            known = set()
        known |= {"prompts", "grids", "pairs"} | self._asked
        return {stage for stage in known if self.table(stage).exists}

    def manifest(self) -> dict[str, Any]:
        """What every stage says of itself: spec, versions, counts, and the state of what it was made from."""
        return {
            "format": FORMAT,
            "stages": {stage: self.table(stage).manifest.summary() for stage in self.stages()},
        }

    def save_manifest(self) -> None:
        """Write `manifest.json`, collected anew from the stages' own manifests."""
        replace_file(self.path / RUN_MANIFEST, (json.dumps(self.manifest(), indent=1) + "\n").encode())

    @contextmanager
    def lock(self, purpose: str) -> Iterator[None]:
        """Hold the run for writing. Creates its folder, and removes what killed processes left in it.

        Raises:
            LockedError: if another process holds it.
            OSError: explained, if the folder cannot be written.
        """
        make_folder(self.path)
        with lock(self.path, purpose):
            sweep_temporary(self.path)
            yield

    def earlier(self, stage: str) -> Table[Any] | None:
        """The table whose rows a stage takes one by one; None if there is none, as for prompts."""
        family, _, name = stage.partition("/")
        if family not in _EARLIER or (family == "encoded" and name.rpartition("/")[2] != "pairs"):
            return None
        return self.table(_EARLIER[family])

    def check(self, stage: str) -> None:
        """Check that a stage and all before it still belong together.

        A stage may be behind the one before it; calling it again does the rest. But what it was made from
        must be there.

        Raises:
            ManifestError: if rows of it were made from rows that are no longer there.
        """
        table, earlier = self.table(stage), self.earlier(stage)
        if earlier is None or not earlier.exists:
            return
        self.check(earlier.kind.stage)
        if not table.exists or table.manifest.made_from.get("ids") == earlier.manifest.ids:
            return
        keys = table.row_keys()
        there = keys.among(earlier.row_ids())
        if not there.all():
            made, lost = (len(set(keys.take(np.flatnonzero(some)))) for some in (there | True, ~there))
            raise ManifestError(
                f"{table.folder} was made from {made} rows of {earlier.kind.stage!r}, of which "
                f"{lost} are no longer there: {earlier.kind.stage!r} was made anew since. Make "
                f"{stage!r} anew by its call with overwrite=True, or put the old rows back."
            )

    def accepted(self, policy: str | Mapping[str, Any] | Policy | None = None) -> list[str]:
        """The ids of the pairs that a policy accepts, in the order of the pairs. Reads no pictures.

        Args:
            policy: see `Policy`. None stands for the one curator there is, or all pairs if there is none.

        Raises:
            ValueError: if there are several curators and no policy.
            LookupError: if there are no verdicts of a curator that the policy names.
        """
        ids = self.pairs.row_ids()
        return ids.take(np.flatnonzero(self.kept(ids, policy)))

    def kept(self, ids: Ids, policy: str | Mapping[str, Any] | Policy | None = None) -> Mask:
        """Which of the pairs of those ids a policy accepts; see `accepted`."""
        return selection.kept(self, ids, policy)

    def accepted_pairs(self, policy: str | Mapping[str, Any] | Policy | None = None) -> Iterator[Pair]:
        """The pairs that a policy accepts; the pictures of the others are not decoded."""
        for _, pair in self.pairs.items(self.accepted(policy)):
            yield pair

    def captioned(self, name: str, ids: Sequence[str]) -> list[str]:
        """Those of some pairs that a captioner has captioned; those that it failed at are left out.

        Raises:
            LookupError: if there are no captions of that name.
            ValueError: if some pairs were not given to it yet, or it failed at all of them.
        """
        return selection.captioned(self, name, ids)

    def compact(
        self, stages: Sequence[str] | None = None, *, shard_rows: int = 2048, shard_bytes: int = 128 * 2**20
    ) -> "list[Compacted]":
        """Merge neighbouring small shards of stages into full ones: the same rows, ids and order.

        Readers that are in the middle of the old shards get a `ChangedError`, and read again from the
        beginning; reading by id goes on by itself. Killed at any moment, the run is whole.

        Args:
            stages: their names; all by default.
            shard_rows: the most rows that a merged shard has.
            shard_bytes: the most bytes that the shards merged into one have together.

        Raises:
            ManifestError: if a shard is damaged; stages before it are compacted, it is as it was.
            LockedError: if another process writes to the run.
            ValueError: if a limit is below 1.
        """
        from dsd.data.compaction import compact

        return compact(self, stages, shard_rows=shard_rows, shard_bytes=shard_bytes)

    def gc(self, *, dry_run: bool = False) -> "Garbage":
        """Remove what writing has left behind and nothing lists: temporary files, shards that were set aside
        or replaced.

        Whole shards that a killed process had not listed yet stay, for the next call of their stage lists
        them; so does whatever `dsd` did not write.

        Args:
            dry_run: remove nothing, only tell.

        Raises:
            LockedError: if another process writes to the run.
            FileNotFoundError: if there is no run.
        """
        from dsd.data.garbage import collect

        return collect(self, dry_run=dry_run)

    def migrate(self) -> "list[Migrated]":
        """Bring the manifests of a run that an earlier version of `dsd` made to the format of this one.

        Such a run can be read as it is; migrated, it is opened faster. No row is changed.

        Raises:
            ManifestError: if a shard or a manifest is damaged.
            LockedError: if another process writes to the run.
            FileNotFoundError: if there is no run.
        """
        from dsd.data.migration import migrate

        return migrate(self)

    def examine(self, stages: Sequence[str] | None = None, *, mend: bool = False) -> "Verification":
        """Look at all rows: hashes, counts, ids, pictures, and what rows refer to. One shard at most is in
        memory, and the ids of a stage.

        Beyond `verify`, which compares files with their hashes, every picture is decoded in full, the ids of
        prompts, grids and pairs are computed anew from their content, and each damaged row is named.

        Args:
            stages: those to look at; all by default.
            mend: set shards with such rows aside as `*.damaged`, and put what is whole in them back: rows
                that their id or the checksums of their pages prove. The others are left for the next call of
                the stage. Rows that are there twice, or refer to rows that a finished stage does not have, go
                too.

        Raises:
            FileNotFoundError: if there is no run, or it has no such stage yet.
            LookupError: if a run has no such stage.
            LockedError: if it is to be mended and another process writes to it.
        """
        from dsd.data.verification import verify

        return verify(self, stages, mend=mend)

    def verify(self) -> list[str]:
        """Check every shard against its hash, and that the stages belong together; a list of problems. See
        `examine`.
        """
        problems = []
        for stage in self.stages():
            problems += self.table(stage).verify()
            try:
                self.check(stage)
            except ManifestError as error:
                problems.append(str(error))
        return list(dict.fromkeys(problems))

    def mend(self, stage: str) -> int:
        """Set damaged shards of a stage aside, as `*.damaged`; its next call makes their rows again.

        Returns:
            how many rows were lost so.

        Raises:
            LockedError: if another process writes to the run.
        """
        with self.lock(f"mend {stage}"):
            table = self.table(stage)
            bad = [shard for shard in table.manifest.shards if table.problem(shard) is not None]
            kept = tuple(shard for shard in table.manifest.shards if shard not in bad)
            # Listed last: if we are killed in between, the missing files are found as damaged again.
            for shard in bad:
                path = table.folder / shard.file
                if path.exists():
                    move(path, path.name + ".damaged")
            if bad:
                replace(table.manifest, shards=kept, complete=False).save(table.folder)
                self.save_manifest()
            return sum(shard.rows for shard in bad)
