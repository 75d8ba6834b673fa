"""What a stage over pairs would take, told before anything is spent."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from dsd.data.manifest import check_spec
from dsd.data.store import Run
from dsd.data.table import Table
from dsd.engines.fill import StageSummary
from dsd.llm.records import Usage
from dsd.types import Pair

_SAMPLE = 24


def counts_of(usage: Usage | None) -> dict[str, Any]:
    """An estimate as a summary tells it; None is unknown."""
    if usage is None:
        return dict.fromkeys(("calls", "prompt tokens", "completion tokens", "cost_usd"))
    return {
        "calls": usage.calls,
        "prompt tokens": usage.prompt_tokens,
        "completion tokens": usage.completion_tokens,
        "cost_usd": None if usage.cost_usd is None else round(usage.cost_usd, 4),
    }


def estimated(
    run: Run,
    table: Table[Any],
    spec: Mapping[str, Any],
    estimate: Callable[[Pair], Usage | None],
    *,
    done: Callable[[Table[Any]], Iterable[str]],
    to_do: str,
    overwrite: bool = False,
    name_hint: str = "",
) -> StageSummary:
    """What doing the missing pairs would take, from some of them; nobody who is paid is asked, and nothing is
    written.

    Args:
        run: with the pairs.
        table: the stage's table.
        spec: what its rows would be made with.
        estimate: of one pair; None is unknown.
        done: the pairs that the table has.
        to_do: what the number of missing pairs is called.
        overwrite: as if the table were empty.
        name_hint: for the message that another spec gets.
    """
    known: set[str] = set()
    if table.exists and not overwrite:
        check_spec(table.kind.stage, table.manifest.spec, spec, name_hint=name_hint)
        known = set(done(table))
    pairs = run.earlier(table.kind.stage)
    assert pairs is not None, "stages over pairs have them before"
    missing = [pair_id for pair_id in pairs.ids() if pair_id not in known]
    sample = missing[:: max(1, len(missing) // _SAMPLE)][:_SAMPLE]
    total: Usage | None = Usage()
    for pair_id in sample:
        usage = estimate(pairs[pair_id])
        total = None if total is None or usage is None else total + usage
    scaled = None if total is None else total.scaled(len(missing) / max(1, len(sample)))
    return StageSummary(
        stage=table.kind.stage,
        rows=len(known),
        added=0,
        seconds=0.0,
        counts={to_do: len(missing), **counts_of(scaled)},
        dry_run=True,
    )
