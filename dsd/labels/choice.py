"""Which pairs people are shown, and in which order."""

import hashlib
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from dsd.data.policy import Policy
from dsd.data.store import Run


def choose_pairs(
    run: Run,
    *,
    count: int | None = None,
    seed: int = 0,
    policy: str | Mapping[str, Any] | Policy | None = None,
    curator: str | None = None,
) -> list[str]:
    """The ids of the pairs to show: the same ones to everybody, and more of them if `count` grows.

    Args:
        run: where the pairs are.
        count: how many of them, chosen at random by the seed; all by default.
        seed: of the choice.
        policy: show only the pairs that it accepts; all by default. See `Policy`.
        curator: take the `count` pairs that this curator was least sure of, instead of random ones: those
            whose scores lie closest to the score of a pair that it decided the other way.

    Raises:
        ValueError: if `count` is below 1, is missing beside `curator`, or no pair is left.
        LookupError: if there are no verdicts of a curator that is named.
        FileNotFoundError: if the run has no pairs.
    """
    if count is not None and count < 1:
        raise ValueError(f"`count` must be at least 1; got {count}.")
    if curator is not None and count is None:
        raise ValueError(
            f"How many of the pairs that {curator!r} was least sure of are to be shown? Give `count`."
        )
    ids = run.pairs.ids() if policy is None else run.accepted(policy)
    ids.sort(key=lambda pair_id: _number(seed, pair_id))
    if curator is not None:
        if curator not in run.curators():
            known = ", ".join(run.curators()) or "none"
            raise LookupError(f"{run.path} has no verdicts of {curator!r}. It has: {known}.")
        margin = margins(run.verdicts(curator).columns("pair_id", "status", "score"))
        ids = sorted((pair_id for pair_id in ids if pair_id in margin), key=margin.__getitem__)
    if not ids:
        raise ValueError(
            f"No pair of {run.path} is left to show"
            + (f" that the policy {policy!r} accepts" if policy is not None else "")
            + (f" and that {curator!r} gave a score" if curator is not None else "")
            + ". Choose from all pairs by leaving these options out, or make pairs first."
        )
    return ids[:count]


def shuffled(ids: Collection[str], person: str, seed: int) -> list[str]:
    """The ids in an order of this person's own, which pairs that are added later do not change."""
    return sorted(ids, key=lambda pair_id: _number(seed, person, pair_id))


def margins(verdicts: pa.Table) -> dict[str, float]:
    """How far each pair's score is from the nearest score of a pair that was decided the other way.

    Needs no threshold, and holds for curators with a lower and an upper one. Pairs that were not decided, or
    have no score, are left out; all are infinitely far if all were decided alike.

    Args:
        verdicts: a curator's table, with the columns `pair_id`, `status` and `score`.
    """
    rows = [row for row in verdicts.to_pylist() if row["score"] is not None and np.isfinite(row["score"])]
    sides = {
        status: np.sort([row["score"] for row in rows if row["status"] == status])
        for status in ("accepted", "rejected")
    }
    other = {"accepted": sides["rejected"], "rejected": sides["accepted"]}
    return {
        row["pair_id"]: _nearest(other[row["status"]], row["score"]) for row in rows if row["status"] in other
    }


def _nearest(scores: np.ndarray, score: float) -> float:
    """The distance from `score` to the nearest of the sorted `scores`."""
    place = int(np.searchsorted(scores, score))
    return float(np.min(np.abs(scores[max(0, place - 1) : place + 1] - score), initial=np.inf))


def _number(*parts: object) -> bytes:
    return hashlib.sha256("\n".join(map(str, parts)).encode()).digest()
