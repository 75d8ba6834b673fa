"""Several curators as one: cascades, votes and weights.

Members are asked in their order, and each only for the pairs on which it can still change the outcome: put
the cheapest first.
"""

import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from dsd import curators, rules
from dsd.curators.base import Curator
from dsd.llm.asking import Spending, all_or_stop
from dsd.llm.records import Stopped, Usage
from dsd.texts import one_line
from dsd.types import Pair, Status, Verdict

Member = str | Mapping[str, Any] | Curator
RuleName = Literal["cascade", "vote", "all", "any", "weights"]

_REASON_CHARS = 1000
_RAW_CHARS = 40_000
_NO_JUDGEMENT: tuple[Status, ...] = ("failed", "refused", "unparsable")  # the first has a hope: another try


class EnsembleCurator(Curator):
    """Asks its members in their order, and joins their verdicts to one.

    | rule | accepts a pair if |
    |---|---|
    | `cascade` | the first member that is sure accepts it; the last is always sure |
    | `vote` | at least `votes` members accept it |
    | `all`, `any` | all members accept it, or at least one |
    | `weights` | the weighted mean of their scores reaches `threshold` |

    A member that refuses, fails or gives an answer that makes no sense leaves a cascade to the next one.
    Under the other rules the outcome must not hang on it: else the ensemble's own verdict has that status.

    The score is the deciding member's (cascade), the weighted mean (weights), or the share of the asked
    members that accepted. The cost is that of all members that were asked, unknown if one of theirs is. All
    their verdicts are in `raw`, as JSON.

    Args:
        members: curators, their names or specs, the cheapest first.
        rule: one of the above.
        votes: for "vote": how many must accept; more than half by default.
        weights: for "weights": one for each member; equal by default.
        threshold: for "weights": the lowest mean to accept; 0.5 by default.
        unsure: for "cascade": for each member but the last, the scores `[low, high]` or the statuses
            `["accepted"]` at which it leaves the pair to the next; None for neither. By default every member
            passes on what it accepts, so that the first who rejects decides.

    Raises:
        ValueError: if an argument is out of range or goes with another rule.
        LookupError, TypeError: as `curators.create`, for a member.
    """

    def __init__(
        self,
        members: Sequence[Member],
        rule: RuleName = "cascade",
        *,
        votes: int | None = None,
        weights: Sequence[float | int] | None = None,
        threshold: float | None = None,
        unsure: Sequence[Any] | None = None,
    ) -> None:
        if isinstance(members, str | Mapping):
            raise TypeError(f"`members` must be a list of curators or their specs; got {members!r}.")
        self.rule = rules.Rule.parse(
            rule, len(members), votes=votes, weights=weights, threshold=threshold, unsure=unsure
        )
        self.members = [curators.create(member) for member in members]
        names = [curators.spec(member)["name"].rpartition(":")[2] for member in self.members]
        self.names = [
            f"{name} {names[: i + 1].count(name)}" if names.count(name) > 1 else name
            for i, name in enumerate(names)
        ]
        self.free = all(member.free for member in self.members)
        self.pairs_at_once = max(member.pairs_at_once for member in self.members)
        ledgers = [member.ledger for member in self.members if member.ledger is not None]
        self.ledger = _Together(ledgers) if ledgers else None
        fingerprints = [member.fingerprint for member in self.members]
        self.fingerprint = " ".join(fingerprints) if any(fingerprints) else ""
        # A member that takes one batch at a time is not asked from two threads, though the others may be.
        self._turns = {id(m): threading.Lock() for m in self.members if m.pairs_at_once <= 1}

    def judge(self, pair: Pair) -> Verdict:
        """Ask one member after the other until the outcome is sure."""
        (verdict,) = self.judge_batch([pair])
        return verdict

    def judge_batch(self, pairs: Sequence[Pair]) -> list[Verdict]:
        """The verdicts of `judge`, member by member over the pairs that still need it."""
        return all_or_stop(self.judge_some(pairs))

    def judge_some(self, pairs: Sequence[Pair]) -> list[Verdict | Stopped]:
        """See `Curator.judge_some`."""
        said = _Said(len(self.members), len(pairs))
        for number, member in enumerate(self.members):
            wanted = [i for i in said.undecided(self.rule) if i not in said.stopped]
            verdicts = self._ask(member, [pairs[i] for i in wanted])
            for i, verdict in zip(wanted, verdicts, strict=True):
                said.add(number, i, verdict)
        outcomes = self.rule.decide(said.codes, said.scores)
        means = self.rule.mean(said.codes, said.scores) if self.rule.name == "weights" else None
        return [
            said.stopped[i]
            if i in said.stopped
            else self._joined(said.of(i), int(outcomes[i]), None if means is None else float(means[i]))
            for i in range(len(pairs))
        ]

    def estimate(self, pair: Pair) -> Usage | None:
        """What the members that may have to be asked would take; those that are free are asked, to know who
        that is. None if it is unknown for one of them.
        """
        said, total = _Said(len(self.members), 1), Usage()
        for number, member in enumerate(self.members):
            if not said.undecided(self.rule):
                break
            usage = member.estimate(pair)
            if usage is None:
                return None
            total += usage
            if member.free:
                said.add(number, 0, self._ask(member, [pair])[0])
            else:  # it may leave the pair to the next one
                said.add(number, 0, Verdict(status="failed"))
        return total

    def keep_answers(self, path: Path) -> None:
        """See `Curator.keep_answers`; all members share the file."""
        for member in self.members:
            member.keep_answers(path)

    def cancel(self) -> None:
        """End what the members are doing in other threads."""
        for member in self.members:
            member.cancel()

    def close(self) -> None:
        """Close the members."""
        for member in self.members:
            member.close()

    def _ask(self, member: Curator, pairs: Sequence[Pair]) -> list[Verdict | Stopped]:
        if not pairs:
            return []
        turn = self._turns.get(id(member))
        if turn is None:
            return member.judge_some(pairs)
        with turn:
            return member.judge_some(pairs)

    def _joined(self, said: list[tuple[int, Verdict]], outcome: int, mean: float | None) -> Verdict:
        """One verdict of those that were given, as (number of the member, verdict)."""
        status: Status
        outage = False
        if outcome == rules.UNDECIDED:
            asked = [verdict for _, verdict in said]
            if self.rule.name == "cascade":
                asked = asked[-1:]
            missing = {verdict.status for verdict in asked}
            status = next(status for status in _NO_JUDGEMENT if status in missing)
            outage = status == "failed" and any(verdict.outage for verdict in asked)
        else:
            status = "accepted" if outcome == rules.ACCEPTED else "rejected"
        costs = [self._cost(number, verdict) for number, verdict in said]
        return Verdict(
            status=status,
            score=self._score(said, mean),
            reason=self._reason(said, mean),
            cost_usd=None if None in costs else sum(cost for cost in costs if cost is not None),
            raw=self._raw(said),
            outage=outage,
        )

    def _cost(self, number: int, verdict: Verdict) -> float | None:
        return 0.0 if verdict.cost_usd is None and self.members[number].free else verdict.cost_usd

    def _score(self, said: list[tuple[int, Verdict]], mean: float | None) -> float | None:
        if mean is not None:
            return None if np.isnan(mean) else mean
        if self.rule.name == "cascade":
            return said[-1][1].score
        return sum(verdict.accepted for _, verdict in said) / len(said)

    def _reason(self, said: list[tuple[int, Verdict]], mean: float | None) -> str:
        if self.rule.name == "cascade":
            number, last = said[-1]
            return one_line(f"{self.names[number]}: {last.reason}", _REASON_CHARS)
        if mean is not None:
            head = f"mean {mean:.3f}, wanted {self.rule.threshold:g}"
        else:
            accepted = sum(verdict.accepted for _, verdict in said)
            head = f"{accepted} of {len(said)} asked accept, {self.rule.needed} of {len(self.names)} needed"
        words = [f"{self.names[n]} {v.status} ({one_line(v.reason, 200)})" for n, v in said]
        return one_line(f"{head}: {'; '.join(words)}", _REASON_CHARS)

    def _raw(self, said: list[tuple[int, Verdict]]) -> str:
        share = _RAW_CHARS // len(said)
        return json.dumps(
            [
                {
                    "member": self.names[number],
                    "status": verdict.status,
                    "score": verdict.score,
                    "reason": verdict.reason[:_REASON_CHARS],
                    "cost_usd": self._cost(number, verdict),
                    "raw": verdict.raw[:share],
                }
                for number, verdict in said
            ],
            ensure_ascii=False,
        )


class _Said:
    """What members have said of the pairs of a batch, up to now."""

    def __init__(self, num_members: int, num_pairs: int) -> None:
        self.codes = np.full((num_members, num_pairs), rules.NOT_ASKED)
        self.scores = np.full((num_members, num_pairs), np.nan)
        self.stopped: dict[int, Stopped] = {}
        self._verdicts: dict[tuple[int, int], Verdict] = {}

    def add(self, member: int, pair: int, verdict: Verdict | Stopped) -> None:
        if isinstance(verdict, Stopped):
            self.stopped[pair] = verdict
            return
        self._verdicts[member, pair] = verdict
        self.codes[member, pair] = rules.codes([verdict.status])[0]
        self.scores[member, pair] = np.nan if verdict.score is None else verdict.score

    def undecided(self, rule: rules.Rule) -> list[int]:
        outcome = rule.decide(self.codes, self.scores)
        return [int(i) for i in np.flatnonzero(outcome == rules.UNDECIDED)]

    def of(self, pair: int) -> list[tuple[int, Verdict]]:
        numbers = range(len(self.codes))
        return [(n, self._verdicts[n, pair]) for n in numbers if (n, pair) in self._verdicts]


@dataclass(frozen=True)
class _Together:
    """Several accounts as one."""

    ledgers: Sequence[Spending]

    @property
    def usage(self) -> Usage:
        distinct = {id(ledger): ledger for ledger in self.ledgers}
        return sum((ledger.usage for ledger in distinct.values()), Usage())
