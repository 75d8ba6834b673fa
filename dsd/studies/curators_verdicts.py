"""Curators under study: what each is called, and what each said of every pair, kept as it comes."""

import hashlib
import json
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
from dsd.engines.specs import HOW_NOT_WHAT, what
from dsd.llm.records import Stopped
from dsd.studies.curators_pairs import LabelledPairs
from dsd.studies.folder import slug
from dsd.types import Pair, Status, Verdict

logger = logging.getLogger(__name__)
CuratorsLike = str | Sequence[str | Mapping[str, Any] | Curator] | Mapping[str, Any]

_ANSWERS = "answers.sqlite"
_LONGEST_NAME = 60
_FLUSH_S = 15.0


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A curator under study.

    Attributes:
        name: for tables and for the folder of its verdicts.
        curator: the object.
        spec: what its verdicts depend on.
        made_here: whether the object was built from a spec, and is to be closed when it has judged.
    """

    name: str
    curator: Curator
    spec: dict[str, Any]
    made_here: bool = False

    @property
    def file(self) -> str:
        """Its name as a folder's name."""
        safe = slug(self.name)
        if len(safe) <= _LONGEST_NAME:
            return safe
        return f"{safe[:_LONGEST_NAME]}-{hashlib.sha256(self.name.encode()).hexdigest()[:8]}"


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
    if isinstance(curators, str):
        curators = [name.strip() for name in curators.split(",") if name.strip()]
    if isinstance(curators, Curator) or (
        isinstance(curators, Mapping) and isinstance(curators.get("name"), str)
    ):
        curators = [curators]
    given = list(curators.items()) if isinstance(curators, Mapping) else [("", x) for x in curators]
    found = []
    for name, spec in given:
        curator = families.create(spec)
        plain: dict[str, Any] = json.loads(json.dumps(what(families.spec(curator))))
        mark = {"fingerprint": curator.fingerprint} if curator.fingerprint else {}
        found.append(
            Entry(
                name=str(name) or name_of(plain),
                curator=curator,
                spec={**plain, **mark},
                made_here=curator is not spec,
            )
        )
    files = [entry.file.lower() for entry in found]
    twice = next((entry.name for entry in found if files.count(entry.file.lower()) > 1), None)
    if not found or twice is not None:
        problem = "There is no curator" if not found else f"Two curators are called {twice!r}"
        raise ValueError(
            f"{problem}. Give a list of specs, or {{NAME: spec}} with a name of its own for each."
        )
    return found


def name_of(spec: Mapping[str, Any]) -> str:
    """What a curator is called: its name, with the arguments that it is given."""
    given = [f"{key}={_short(value)}" for key, value in spec.items() if key not in ("name", *HOW_NOT_WHAT)]
    return " ".join([str(spec["name"]).rpartition(":")[2], *given])


def _short(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False).replace('"', "")


def check_specs(known: Mapping[str, Any], asked: Sequence[Entry], folder: Path) -> dict[str, Any]:
    """The specs by name, those of earlier calls too.

    Raises:
        ValueError: if a name stood for another spec in an earlier call.
    """
    for entry in asked:
        before = known.get(entry.name, entry.spec)
        keys = [key for key in {**before, **entry.spec} if before.get(key) != entry.spec.get(key)]
        if keys:
            changes = "; ".join(f"{k} was {before.get(k)!r}, now {entry.spec.get(k)!r}" for k in keys)
            raise ValueError(
                f"{folder} holds verdicts of {entry.name!r} by another spec: {changes}. Give this one a name "
                "of its own ({NAME: spec}), or another folder."
            )
    return {**known, **{entry.name: entry.spec for entry in asked}}


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
