"""A run of an earlier format, brought to the present one."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from dsd.data.manifest import FORMAT, Shard, written_format
from dsd.data.shard_files import footer_of

if TYPE_CHECKING:
    from dsd.data.store import Run


@dataclass(frozen=True, kw_only=True)
class Migrated:
    """What became of one stage.

    Attributes:
        stage: its name.
        format: the format that its manifest had; the present one if nothing was done.
        shards: how many shards were read for it.
    """

    stage: str
    format: int
    shards: int

    def __str__(self) -> str:
        if not self.shards and self.format == FORMAT:
            return f"{self.stage}: format {FORMAT}, nothing to do"
        return f"{self.stage}: format {self.format} to {FORMAT}, {self.shards} shards read"


def migrate(run: "Run") -> list[Migrated]:
    """See `Run.migrate`. Each manifest is replaced in one step, so that a killed migration goes on when it is
    called again.
    """
    if not run.path.is_dir():
        raise FileNotFoundError(f"There is no run in {run.path}. Check the path.")
    done = []
    with run.lock("migrate"):
        for stage in run.stages():
            table = run.table(stage)
            manifest, found = table.manifest, written_format(table.folder)
            old = [shard for shard in manifest.shards if not shard.footer]
            if old or found != FORMAT:

                def upgraded(shard: Shard) -> Shard:
                    if shard.footer:
                        return shard
                    for _ in table.rows_of(shard):  # noqa: B023 - called at once; compares the whole file
                        break
                    data = (table.folder / shard.file).read_bytes()  # noqa: B023
                    return replace(shard, footer=footer_of(memoryview(data)))

                replace(manifest, shards=tuple(map(upgraded, manifest.shards))).save(table.folder)
            done.append(Migrated(stage=stage, format=found, shards=len(old)))
        run.save_manifest()
    return done
