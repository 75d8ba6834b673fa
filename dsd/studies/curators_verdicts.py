"""Curators under study: what each is called, and what each said of every pair, kept as it comes."""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, cast

import pyarrow as pa

from dsd import curators as families
from dsd.curators import Curator
from dsd.data.rows import Judged, Row, TableKind, schema
from dsd.data.table import Table
from dsd.data.writer import TableWriter
from dsd.engines import progress_bar
from dsd.engines.checks import told
from dsd.engines.progress import VerdictGauge
from dsd.llm.records import Stopped
from dsd.studies.curators_pairs import LabelledPairs
from dsd.studies.entries import Named, members
from dsd.types import Pair, Status, Verdict

logger = logging.getLogger(__name__)
CuratorsLike = str | Sequence[str | Mapping[str, Any] | Curator] | Mapping[str, Any]

_ANSWERS = "answers.sqlite"
_FLUSH_S = 15.0


@dataclass(frozen=True, kw_only=True)
class Entry(Named):
    """A curator under study: `Named`, with the object.

    Attributes:
        curator: the object.
    """

    curator: Curator


@dataclass(frozen=True, kw_only=True)
class Timed:
    """A verdict, the pair that it is about, and its share of the seconds that its batch took."""

    pair_id: str
    verdict: Verdict
    seconds: float


def entries(curators: CuratorsLike) -> list[Entry]:
    """The curators that are asked for.

    Args:
        curators: names joined by commas; a list of names, specs and objects; or `{NAME: spec}`, which says
            what each is called. Without that a curator is called by its spec.

    Raises:
        ValueError: if there is none, or two have one name.
        LookupError, TypeError: if a spec stands for no curator.
    """
    return [
        Entry(curator=curator, name=named.name, spec=named.spec, made_here=named.made_here)
        for named, curator in members(families.registry, curators, Curator)
    ]


def verdicts_of(folder: Path, entry: Entry) -> Table[Timed]:
    """What a curator said so far."""
    return Table(folder / "verdicts" / entry.file, _kind(entry.file))


def judge_missing(
    folder: Path,
    entry: Entry,
    pairs: LabelledPairs,
    *,
    batch_size: int = 32,
    retry_failed: bool = False,
    progress: bool = True,
) -> dict[str, Timed]:
    """Let a curator judge the pairs that it has not judged, and return all that it said, by pair id.

    The caller holds the lock of the folder. Stopped at any moment, what was written stays, and no verdict of
    more than the last 15 seconds and the running batch is lost; the answers of paid models are kept one by
    one, so that none is asked for twice. A curator that was built for this call is closed at its end.

    Args:
        folder: of the study.
        entry: the curator.
        pairs: all labelled pairs.
        batch_size: how many pairs it is given at once; more, if it can have more in hand.
        retry_failed: judge those pairs again whose verdict is "failed".
        progress: show a progress bar on stderr, with the yield so far and what is spent.

    Returns:
        without the raw answers, which stay in the folder.

    Raises:
        ValueError: if it gives another number of verdicts than it was given pairs.
        Stopped: if the money or the time given to the curator is spent; what was judged before is kept.
    """
    table, curator = verdicts_of(folder, entry), entry.curator
    wanted = [label.pair_id for label in pairs.labels]
    batch_size = max(batch_size, curator.pairs_at_once)
    try:
        curator.keep_answers(folder / _ANSWERS)
        with TableWriter(table, {"curator": entry.spec}, {"pairs": pairs.digest}) as output:
            output.flush_s = _FLUSH_S
            if retry_failed:
                output.remove(lambda row: row["status"] == "failed")
            missing = set(wanted) - table.keys()
            rest = iter(pairs.load(missing)) if missing else iter(())
            gauge, left = VerdictGauge(curator), len(missing)
            with progress_bar(entry.name, len(wanted), progress, len(wanted) - left) as bar:
                while batch := list(islice(rest, batch_size)):
                    given, stop = _judged(curator, batch)
                    output.add(given)
                    gauge.add([Judged(pair_id=x.pair_id, verdict=x.verdict) for x in given])
                    left -= len(given)
                    bar.set_postfix(gauge.shown(left), refresh=False)
                    bar.update(len(given))
                    if stop is not None:
                        raise stop
            output.finish()
    finally:
        if entry.made_here:
            curator.close()
    found = {x.pair_id: replace(x, verdict=replace(x.verdict, raw="")) for x in table}
    failed = sum(found[pair_id].verdict.status == "failed" for pair_id in wanted)
    if failed:
        logger.warning(
            "%s failed at %d of %d pairs; retry_failed tries again.", entry.name, failed, len(wanted)
        )
    return {pair_id: found[pair_id] for pair_id in wanted}


def _judged(curator: Curator, batch: Sequence[tuple[str, Pair]]) -> tuple[list[Timed], Stopped | None]:
    """The verdicts of a batch, as many as there are, and what stopped it, if anything did."""
    started = time.perf_counter()
    verdicts = curator.judge_some([pair for _, pair in batch])
    if len(verdicts) != len(batch):
        raise ValueError(f"{type(curator).__name__} gave {len(verdicts)} verdicts for {len(batch)} pairs.")
    given = {i: v for (i, _), v in zip(batch, verdicts, strict=True) if isinstance(v, Verdict)}
    seconds = (time.perf_counter() - started) / max(1, len(given))
    return (
        [Timed(pair_id=i, verdict=told(v), seconds=seconds) for i, v in given.items()],
        next((v for v in verdicts if not isinstance(v, Verdict)), None),
    )


_FIELDS = ("status", "score", "reason", "cost_usd", "raw")


def _rows(timed: Sequence[Timed]) -> list[Row]:
    return [
        {"pair_id": x.pair_id, "seconds": x.seconds} | {name: getattr(x.verdict, name) for name in _FIELDS}
        for x in timed
    ]


def _record(row: Row) -> Timed:
    fields = {name: row[name] for name in _FIELDS} | {"status": cast(Status, row["status"])}
    return Timed(pair_id=row["pair_id"], verdict=Verdict(**fields), seconds=row["seconds"])


def _kind(name: str) -> TableKind[Timed]:
    return TableKind(
        stage=f"verdicts/{name}",
        schema=schema(
            pair_id=pa.string(),
            status=pa.string(),
            score=pa.float64(),
            reason=pa.string(),
            cost_usd=pa.float64(),
            raw=pa.string(),
            seconds=pa.float64(),
        ),
        id_column="pair_id",
        key_column="pair_id",
        made_by="dsd.studies.compare_curators(...)",
        to_rows=_rows,
        from_row=_record,
    )
