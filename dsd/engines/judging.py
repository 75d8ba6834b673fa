"""The stage of verdicts: pairs to rows, and what judging them would take."""

import math
from collections.abc import Sequence
from typing import Any

from dsd import curators
from dsd.curators import Curator
from dsd.data import merge
from dsd.data.rows import Judged, Row
from dsd.data.store import Run
from dsd.data.table import Table
from dsd.engines import estimates
from dsd.engines.fill import StageSummary
from dsd.engines.specs import what

_MOST_BATCHES = 32


def spec_of(curator: Curator) -> dict[str, Any]:
    """What a curator's verdicts depend on, for the manifest."""
    spec: dict[str, Any] = {"curator": what(curators.spec(curator))}
    return spec | ({"fingerprint": curator.fingerprint} if curator.fingerprint else {})


def batches_at_once(curator: Curator, batch_size: int) -> int:
    """How many batches a curator is given at the same time."""
    if curator.pairs_at_once <= 1:
        return 1
    return min(_MOST_BATCHES, max(2, math.ceil(curator.pairs_at_once / batch_size)))


def why_failed(rows: Sequence[Row]) -> str | None:
    """Why a pair could not be judged; None if it was."""
    (row,) = rows
    return str(row["reason"]) if row["status"] == "failed" else None


def verdict_counts(table: Table[Judged], curator: Curator) -> dict[str, Any]:
    """See `dsd.data.merge.verdict_counts`."""
    return merge.verdict_counts(table, paid=curator.ledger is not None)


def estimated(
    run: Run,
    table: Table[Judged],
    curator: Curator,
    *,
    overwrite: bool = False,
    retry_failed: bool = False,
    name_hint: str = "",
) -> StageSummary:
    """What judging the missing pairs would take; see `estimates.estimated`."""

    def done(table: Table[Judged]) -> list[str]:
        columns = table.columns("pair_id", "status")
        judged = zip(columns["pair_id"].to_pylist(), columns["status"].to_pylist(), strict=True)
        return [pair_id for pair_id, status in judged if not (retry_failed and status == "failed")]

    return estimates.estimated(
        run,
        table,
        spec_of(curator),
        curator.estimate,
        done=done,
        to_do="to judge",
        overwrite=overwrite,
        name_hint=name_hint,
    )
