"""Which pairs of a run are wanted: those that a policy accepts, those that a captioner has captioned."""

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dsd.data.ids import Ids, Mask
from dsd.data.policy import Policy

if TYPE_CHECKING:
    from dsd.data.store import Run

logger = logging.getLogger(__name__)


def kept(run: "Run", ids: Ids, policy: str | Mapping[str, Any] | Policy | None) -> Mask:
    """Which of the pairs of those ids a policy accepts; errors as `Run.accepted` says."""
    known = run.curators()
    if policy is None:
        if len(known) > 1:
            raise ValueError(
                f"{run.path} has verdicts of {len(known)} curators: {', '.join(known)}. Say which one's "
                "to follow, or give a policy: 'all', 'any', {'rule': 'vote', 'votes': 2} or 'every' (all "
                "pairs)."
            )
        policy = Policy() if known else Policy(rule="every")
    policy = Policy.parse(policy)
    if policy.rule == "every":
        return np.ones(len(ids), dtype=np.bool_)
    names = policy.curators or tuple(known)
    if missing := sorted(set(names) - set(known)) or (not names and ["any curator"]):
        raise LookupError(
            f"{run.path} has no verdicts of {', '.join(missing)}. It has: {', '.join(known) or 'none'}. "
            "Make them with dsd.curate(run, curator=...), or use the policy 'every' to take all pairs."
        )
    tables = []
    for name in names:
        table = run.verdicts(name)
        run.check(table.kind.stage)
        if len(table) < len(ids):
            logger.warning("%s has judged %d of %d pairs of %s", name, len(table), len(ids), run.path)
        tables.append(table.parts("pair_id", "status", "score"))
    return policy.mask(ids, tables)


def captioned(run: "Run", name: str, ids: Sequence[str]) -> list[str]:
    """Those of some pairs that a captioner has captioned; errors as `Run.captioned` says."""
    table, failed = run.captions(name), run.failed(f"captions/{name}")
    if not table.exists:
        known = [stage.partition("/")[2] for stage in run.stages() if stage.startswith("captions/")]
        raise LookupError(
            f"{run.path} has no captions of {name!r}. It has: {', '.join(known) or 'none'}. Make them "
            "with dsd.caption_pairs(run, captioner=...), or leave `captions` out."
        )
    run.check(table.kind.stage)
    there = table.keys()
    found = [pair_id for pair_id in ids if pair_id in there]
    missing = set(ids) - there
    if waiting := missing - (failed.keys() if failed.exists else set()):
        raise ValueError(
            f"{len(waiting)} of {len(ids)} pairs have no caption of {name!r} yet. Call "
            "dsd.caption_pairs(run, ...) again, which adds them."
        )
    if not found:
        raise ValueError(f"None of {len(ids)} pairs has a caption of {name!r}: {failed.folder} says why.")
    if missing:
        logger.warning("%d of %d pairs are left out: %s failed at them", len(missing), len(ids), name)
    return found
