"""The stage of verdicts: pairs to rows, and what judging them would take."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from dsd import curators
from dsd.curators import Curator
from dsd.data.rows import Failure, Judged
from dsd.data.store import Run
from dsd.data.table import Table
from dsd.engines import estimates
from dsd.engines.checks import told
from dsd.engines.fill import StageSummary
from dsd.engines.specs import what
from dsd.llm.records import Stopped
from dsd.types import STATUSES, Pair

_MOST_BATCHES = 32

Work = Callable[[list[tuple[str, Pair]]], list[list[Judged] | Failure | Stopped]]


def spec_of(curator: Curator) -> dict[str, Any]:
    """What a curator's verdicts depend on, for the manifest."""
    spec: dict[str, Any] = {"curator": what(curators.spec(curator))}
    return spec | ({"fingerprint": curator.fingerprint} if curator.fingerprint else {})


def work(curator: Curator) -> Work:
    """What turns a batch of pairs into rows."""

    def judge(batch: list[tuple[str, Pair]]) -> list[list[Judged] | Failure | Stopped]:
        verdicts = curator.judge_some([pair for _, pair in batch])
        if len(verdicts) != len(batch):
            raise ValueError(
                f"{type(curator).__name__}.judge_batch gave {len(verdicts)} verdicts for {len(batch)} pairs."
            )
        return [
            verdict if isinstance(verdict, Stopped) else [Judged(pair_id=pair_id, verdict=told(verdict))]
            for (pair_id, _), verdict in zip(batch, verdicts, strict=True)
        ]

    return judge


def batches_at_once(curator: Curator, batch_size: int) -> int:
    """How many batches a curator is given at the same time."""
    if curator.pairs_at_once <= 1:
        return 1
    return min(_MOST_BATCHES, max(2, math.ceil(curator.pairs_at_once / batch_size)))


def why_failed(records: Sequence[Judged]) -> str | None:
    """Why a pair could not be judged; None if it was."""
    (judged,) = records
    return judged.verdict.reason if judged.verdict.status == "failed" else None


def verdict_counts(table: Table[Judged], curator: Curator) -> dict[str, Any]:
    """How many verdicts of each status there are, the share of accepted ones among those that are accepted or
    rejected, and what all cost: None if that is unknown, nothing for a curator that costs nothing.
    """
    columns = table.columns("status", "cost_usd")
    status = columns["status"].to_pylist()
    costs = [cost for cost in columns["cost_usd"].to_pylist() if cost is not None]
    counts: dict[str, Any] = {name: status.count(name) for name in STATUSES if name in status}
    judged = counts.get("accepted", 0) + counts.get("rejected", 0)
    counts["yield"] = round(counts.get("accepted", 0) / judged, 4) if judged else None
    if costs:
        return counts | {"cost_usd": round(sum(costs), 6), "cost_known": len(costs)}
    return counts | ({"cost_usd": None} if curator.ledger is not None and status else {})


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
