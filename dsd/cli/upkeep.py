"""Looking after a run: compaction, orphaned files, damage, earlier formats."""

import dataclasses
import json as jsonlib
import sys
from collections.abc import Sequence
from typing import Any

from tqdm import tqdm

from dsd.data.store import Run
from dsd.data.verification import Fault, Verification

_SHOWN = 50


def compact(
    run: str,
    stage: str | Sequence[str] | None = None,
    shard_rows: int = 2048,
    shard_mb: int = 128,
    progress: bool = True,
) -> str:
    """Merge the small shards of a run into full ones. Rows, order and ids stay; a stop loses nothing.

    Args:
        run: its folder or URL.
        stage: those to compact, such as pairs or verdicts/embedding; all by default.
        shard_rows: the most rows that a merged shard has.
        shard_mb: the most megabytes (of 2^20 bytes) that are merged into one shard.
        progress: show a progress bar on stderr.
    """
    from dsd.data.compaction import compact as merge

    found, chosen = _run(run), _chosen(stage)
    total = sum(len(found.table(name).manifest.shards) for name in chosen or found.stages())
    with _bar("compact", total, "shard", progress) as bar:
        done = merge(found, chosen, shard_rows=shard_rows, shard_bytes=shard_mb * 2**20, advance=bar.update)
    return "\n".join(map(str, done))


def gc(run: str, dry_run: bool = False) -> str:
    """Remove files of a run that nothing lists: temporary files, shards that were set aside or replaced.

    Args:
        run: its folder or URL.
        dry_run: remove nothing, only tell what would be.
    """
    return str(_run(run).gc(dry_run=dry_run))


def migrate(run: str) -> str:
    """Bring a run that an earlier version of dsd made to the present format. It can be read without this.

    Args:
        run: its folder or URL.
    """
    return "\n".join(map(str, _run(run).migrate()))


@dataclasses.dataclass(frozen=True)
class Told:
    """What is said of a run, and the exit status."""

    text: str
    status: int

    def __str__(self) -> str:
        return self.text


def verify(
    run: str,
    stage: str | Sequence[str] | None = None,
    mend: bool = False,
    json: bool = False,
    progress: bool = True,
) -> Told:
    """Look at every row of a run: hashes, counts, ids, pictures, and what rows refer to. The exit status is 0
    if nothing is wrong, 1 if something is.

    Args:
        run: its folder or URL.
        stage: those to look at; all by default.
        mend: set damaged shards aside, keep their rows that are proven whole, and say what makes the others
            again.
        json: tell all as JSON.
        progress: show a progress bar on stderr.
    """
    from dsd.data.verification import verify as look

    found, chosen = _run(run), _chosen(stage)
    with _bar("verify", _bytes(found, chosen), "B", progress, unit_scale=True) as bar:
        seen = look(found, chosen, mend=mend, advance=bar.update)
    text = jsonlib.dumps(seen.as_json(), indent=1) if json else _table(seen, found.path)
    return Told(text, 0 if seen.whole else 1)


def _table(seen: Verification, path: Any) -> str:
    lines = [f"{stage}: {rows:,} rows" for stage, rows in seen.rows.items()]
    shown = [_line(fault) for fault in seen.faults[:_SHOWN]]
    widths = [max((len(row[i]) for row in shown), default=0) for i in range(4)]
    for row in shown:
        cells = [cell.ljust(width) for cell, width in zip(row[:4], widths, strict=True)]
        lines.append("  ".join([*cells, row[4]]))
    if more := len(seen.faults) - len(shown):
        lines.append(f"... and {more:,} more; --json tells all")
    for done in seen.mended:
        lines.append(
            f"mended {done.stage}: {done.saved:,} rows kept, {done.removed:,} removed. What is missing is "
            f"made by {done.made_by}"
        )
    if seen.whole:
        lines.append(f"{path} is whole")
    elif not seen.mended:
        lines.append(f"{len(seen.faults):,} faults. Add --mend to set aside what is damaged.")
    return "\n".join(lines)


def _line(fault: Fault) -> tuple[str, ...]:
    # Ids may come from outside: shown as they are in a terminal, they could hold control characters.
    row_id = "" if fault.id is None else fault.id.encode("unicode_escape").decode()
    return fault.kind, fault.stage, fault.shard or "-", row_id or "-", fault.problem


def _bytes(run: Run, stages: Sequence[str] | None) -> int:
    """Of all shards that can be looked at."""
    total = 0
    for stage in run.stages() if stages is None else stages:
        try:
            total += sum(shard.bytes for shard in run.table(stage).manifest.shards)
        except (RuntimeError, FileNotFoundError):  # told of when it is looked at
            continue
    return total


def _chosen(stage: str | Sequence[str] | None) -> Sequence[str] | None:
    return [stage] if isinstance(stage, str) else stage


def _run(path: str) -> Run:
    run = Run(path)
    if not run.path.is_dir():
        raise FileNotFoundError(f"There is no run in {run.path}. Check the path.")
    return run


def _bar(name: str, total: int, unit: str, progress: bool, **options: Any) -> "tqdm[Any]":
    return tqdm(total=total, desc=name, unit=unit, file=sys.stderr, disable=not progress, **options)
