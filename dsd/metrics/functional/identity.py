"""Whether a similarity tells the same subject from others."""

from collections.abc import Sequence
from typing import Any

import torch
import xxhash
from jaxtyping import Float, Int
from torch import Tensor

from dsd.metrics.functional.grouped import NAN_POLICIES, NanPolicy


def identity_margin(
    positive: Any, negative: Any, samples: Any = None, *, nan_policy: NanPolicy = "error"
) -> dict[str, Tensor]:
    """How often a view of the same subject is more similar than one of another.

    Args:
        positive: (n,) similarity with the same subject in each trial; NaN where missing.
        negative: (n,) similarity with another subject in the same trial.
        samples: (n,) number of the sample that each trial is of; each of its own by default.
        nan_policy: "error"; "skip", missing trials are left out; or "zero", they count as lost.

    Returns:
        `ssr`, the share of samples all of whose trials have a margin above 0 (sample success rate); `pa`, the
        share of such trials (pairwise accuracy); `margin`, the mean margin; `n` trials, `samples` and
        `missing` trials.

    Raises:
        ValueError: if the lengths differ, a trial is missing under "error", or none is left.

    References:
        NearID, 2026, https://arxiv.org/abs/2604.01973.

    Example:
        >>> found = identity_margin([0.9, 0.8, 0.7], [0.5, 0.9, 0.1], [0, 0, 1])
        >>> found["ssr"], found["pa"]
        (tensor(0.5000), tensor(0.6667))
    """
    first, second = (torch.as_tensor(x).detach().double().flatten() for x in (positive, negative))
    if len(first) != len(second):
        raise ValueError(
            f"Got {len(first)} positive and {len(second)} negative similarities; give one of each."
        )
    of_sample = torch.arange(len(first)) if samples is None else torch.as_tensor(samples).flatten().long()
    if len(of_sample) != len(first):
        raise ValueError(f"Got {len(of_sample)} samples for {len(first)} trials; give one for each.")
    margins = first - second
    gone = margins.isnan()
    check_missing(gone, nan_policy, "trials")
    kept = torch.ones_like(gone) if nan_policy == "zero" else ~gone
    if not kept.any():
        raise ValueError("No trial was added that counts.")
    won = (margins > 0)[kept]
    _, place = torch.unique(of_sample.to(kept.device)[kept], return_inverse=True)
    trials, wins = torch.bincount(place), torch.bincount(place[won], minlength=int(place.max()) + 1)
    return {
        "ssr": (wins == trials).double().mean().float(),
        "pa": won.double().mean().float(),
        "margin": margins[~gone].mean().float(),
        "n": kept.sum(),
        "samples": torch.tensor(len(trials)),
        "missing": gone.sum(),
    }


def identity_auroc(
    scores: Any, same: Any, same_class: Any = None, *, nan_policy: NanPolicy = "error"
) -> dict[str, Tensor]:
    """The chance that a pair of one subject is more similar than a pair of two; ties count half.

    Args:
        scores: (n,) similarity of each pair; NaN where missing.
        same: (n,) whether both are the same subject.
        same_class: (n,) whether both are of one class, such as two dogs. Pairs of two such subjects are the
            hard ones.
        nan_policy: "error"; "skip", missing pairs are left out; or "zero", their score is 0.

    Returns:
        `auroc` over all pairs; `auroc_same_class`, where pairs of two subjects are of one class, NaN if there
        is no such pair; `n`, `n_same`, `n_same_class` (pairs of two subjects of one class) and `missing`.

    Raises:
        ValueError: if the lengths differ, a score is missing under "error" or infinite, or one kind of pair
            is not there.

    Example:
        >>> found = identity_auroc([0.9, 0.8, 0.8, 0.1], [True, True, False, False])
        >>> found["auroc"]
        tensor(0.8750)
    """
    values = torch.as_tensor(scores).detach().double().flatten()
    flags = torch.as_tensor(same, device=values.device).flatten().bool()
    hard = torch.zeros_like(flags) if same_class is None else torch.as_tensor(same_class).flatten().bool()
    hard = hard.to(values.device)
    if not len(values) == len(flags) == len(hard):
        raise ValueError(f"Got {len(values)} scores, {len(flags)} and {len(hard)} flags; give one of each.")
    gone = values.isnan()
    check_missing(gone, nan_policy, "scores")
    if values.isinf().any():
        raise ValueError(f"Score {int(values.isinf().nonzero()[0])} is infinite. Give finite numbers.")
    kept = torch.ones_like(gone) if nan_policy == "zero" else ~gone
    values, flags, hard = values.nan_to_num()[kept], flags[kept], (hard & ~flags)[kept]
    if not flags.any() or flags.all():
        raise ValueError(
            f"Got {int(flags.sum())} pairs of one subject and {int((~flags).sum())} of two; both are needed."
        )
    among = flags | hard
    return {
        "auroc": _auroc(values, flags).float(),
        "auroc_same_class": _auroc(values[among], flags[among]).float()
        if hard.any()
        else values.new_tensor(torch.nan).float(),
        "n": torch.tensor(len(values)),
        "n_same": flags.sum(),
        "n_same_class": hard.sum(),
        "missing": gone.sum(),
    }


def check_missing(gone: Tensor, nan_policy: NanPolicy, what: str) -> None:
    """Refuse an unknown policy, or what is missing under "error".

    Raises:
        ValueError: saying which.
    """
    if nan_policy not in NAN_POLICIES:
        raise ValueError(f"Unknown `nan_policy` {nan_policy!r}. Allowed: {', '.join(NAN_POLICIES)}.")
    if nan_policy == "error" and gone.any():
        raise ValueError(
            f"{int(gone.sum())} of {len(gone)} {what} are missing, the first is number "
            f"{int(gone.nonzero()[0])}, counted from 0. Decide by nan_policy='skip' or 'zero'."
        )


def _auroc(values: Float[Tensor, " n"], flags: Tensor) -> Float[Tensor, ""]:
    """Mann and Whitney's statistic from ranks, of which ties share the mean."""
    _, place, counts = torch.unique(values, return_inverse=True, return_counts=True)
    last = counts.cumsum(0).double()
    ranks = (last - (counts - 1) / 2)[place]
    positive, negative = flags.sum().double(), (~flags).sum().double()
    return (ranks[flags].sum() - positive * (positive + 1) / 2) / (positive * negative)


def sample_numbers(names: Sequence[Any]) -> Int[Tensor, " n"]:
    """Numbers of names, the same in every process."""
    hashes = [xxhash.xxh3_64_intdigest(str(x).encode()) for x in names]
    return torch.tensor([x - 2**63 for x in hashes], dtype=torch.int64)
