"""Has pictures rated by judges, and keeps each rating as it comes."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from dsd import judges
from dsd.evaluation.comparison.album import Album
from dsd.evaluation.comparison.drawing import Spent
from dsd.evaluation.comparison.figures import Column, Role, Values
from dsd.evaluation.comparison.journal import Entry, Journal, lasting
from dsd.evaluation.methods.base import Job
from dsd.judges.base import RATING_STATUSES, Case, Judge, Rating
from dsd.llm.records import Stopped

_BATCH = 32
_ROLES: Mapping[str, Role] = {"preservation": "preservation", "following": "following"}


class Member:
    """A judge, and the categories that it rates.

    Args:
        spec: of the judge. `label` in it names the column, by default the rubric does; `only` names the
            categories that it rates, by default all; `runs` is read from the judge where none are given.
        runs: how often each picture is rated; None for as often as the judge says.

    Raises:
        LookupError, TypeError: as `dsd.judges.create`.
        ValueError: if `runs` is below 1, or the judge's scale is empty.
    """

    def __init__(self, spec: Any, runs: int | None = None) -> None:
        if runs is not None and runs < 1:
            raise ValueError(f"`runs` must be at least 1; got {runs}.")
        given = dict(spec) if isinstance(spec, Mapping) else spec
        label, only = (given.pop(x, None) if isinstance(given, dict) else None for x in ("label", "only"))
        self.judge: Judge = judges.create(given)
        self.label = str(label or self.judge.rubric_name)
        self.only = None if only is None else tuple([only] if isinstance(only, str) else map(str, only))
        self.runs = self.judge.runs if runs is None else runs
        self.low, self.high = float(self.judge.low), float(self.judge.high)
        if not self.high > self.low:
            raise ValueError(f"The judge {self.label!r} has a scale from {self.low:g} to {self.high:g}.")
        self.spec = judges.spec(self.judge)

    def rates(self, job: Job) -> bool:
        """Whether the picture is of its categories."""
        return self.only is None or job.case.category in self.only

    def journal(self, folder: Path) -> Journal:
        """Where its ratings of one method's pictures stand.

        Raises:
            ValueError: if there are ratings of another judge in that place.
        """
        head = {"judge": lasting(self.spec), "fingerprint": self.judge.fingerprint}
        return Journal(folder / f"ratings-{self.label}-{self.judge.rubric_name}.jsonl", head)

    def rate_missing(self, album: Album, jobs: Sequence[Job], journal: Journal, bar_name: str | None) -> None:
        """Have rated what is there and not rated yet. Failed ratings are asked for again; refused and
        unparsable ones are not.

        Raises:
            Stopped: if the money or the time given to the judge is spent; what was rated is kept.
        """
        done = {(entry["key"], entry["run"]) for entry in journal.entries if entry["status"] != "failed"}
        there = [job for job in jobs if self.rates(job) and album.drawn(job).status == "drawn"]
        open_runs = {
            job.key: [run for run in range(self.runs) if (job.key, run) not in done] for job in there
        }
        missing = [job for job in there if open_runs[job.key]]
        total = sum(map(len, open_runs.values()))
        spent = Spent()
        with tqdm(total=total, desc=bar_name, unit="rating", disable=bar_name is None or not total) as bar:
            for start in range(0, len(missing), _BATCH):
                batch = list(album.images(missing[start : start + _BATCH]))
                found = self._rated(batch, open_runs)
                ratings = [rating for rating in found if isinstance(rating, Rating)]
                journal.append([asdict(rating) for rating in ratings])
                for rating in ratings:
                    spent.add(rating.cost_usd)
                bar.update(len(ratings))
                bar.set_postfix_str(str(spent), refresh=False)
                for stop in found:
                    if isinstance(stop, Stopped):
                        raise stop

    def _rated(
        self, batch: Sequence[tuple[Job, Any]], open_runs: Mapping[str, list[int]]
    ) -> list[Rating | Stopped]:
        """Whole pictures together; of those that lack some of their runs, these alone."""
        cases = {job.key: _case(job, image) for job, image in batch}
        whole = [case for key, case in cases.items() if len(open_runs[key]) == self.runs]
        found = self.judge.rate_some(whole, runs=self.runs) if whole else []
        for key, case in cases.items():
            if len(open_runs[key]) < self.runs:
                found += [self._again(case, run) for run in open_runs[key]]
        for rating in found:
            if isinstance(rating, Stopped):
                continue
            if rating.key not in cases:
                raise ValueError(f"The judge {self.label!r} rated {rating.key!r}, which it was not shown.")
            if rating.value is not None and not self.low <= rating.value <= self.high:
                raise ValueError(
                    f"The judge {self.label!r} gave {rating.value:g}, outside its scale from {self.low:g} "
                    f"to {self.high:g}."
                )
        return found

    def _again(self, case: Case, run: int) -> Rating | Stopped:
        # The base class turns errors into failed ratings, as in rate_batch.
        try:
            return self.judge._rate_or_fail(case, run)
        except Stopped as stop:
            return stop


class Panel:
    """The judges whose ratings make one column: one, or several that share the categories among them.

    Args:
        members: of one label.

    Raises:
        ValueError: if two of them rate the same category, or they differ in scale or runs.
    """

    def __init__(self, members: Sequence[Member]) -> None:
        self.members, first = members, members[0]
        self.label, self.runs = first.label, first.runs
        self._low, self._high = first.low, first.high
        rated = Counter(name for member in members for name in member.only or ("",))
        if len(members) > 1 and ("" in rated or max(rated.values()) > 1):
            raise ValueError(
                f"Two of a metric or judge are called {self.label!r}. Give each a `label` of its own in its "
                "spec, or judges of one label categories of their own by `only`."
            )
        if len({(member.low, member.high, member.runs) for member in members}) > 1:
            raise ValueError(f"The judges of {self.label!r} differ in scale or runs.")
        scale = f"{self._low:g} to {self._high:g}, brought to 0 to 1"
        about = {"judge": [x.spec | ({"only": list(x.only)} if x.only else {}) for x in members]}
        names = [x.judge.rubric_name for x in members]
        prints = [x.judge.fingerprint for x in members if x.judge.fingerprint]
        self.column = Column(
            name=self.label,
            title=self.label.replace("_", " "),
            role=next((role for part, role in _ROLES.items() if part in names[0]), "other"),
            about=about | {"rubric": names, "fingerprints": prints, "scale": scale, "runs": self.runs},
            runs=self.runs,
        )

    def entries(self, folder: Path) -> list[Entry]:
        """All ratings of one method's pictures."""
        return [entry for member in self.members for entry in member.journal(folder).entries]

    def values(self, jobs: Sequence[Job], entries: Sequence[Entry]) -> Values:
        """Each picture's mean rating over the runs that have one, in [0, 1]; NaN without any."""
        rated: dict[str, dict[int, float]] = {}
        for entry in entries:
            if entry["status"] == "rated":
                rated.setdefault(entry["key"], {})[entry["run"]] = float(entry["value"])
        means = [[x for run, x in rated.get(job.key, {}).items() if run < self.runs] for job in jobs]
        found = np.array([np.mean(given) if given else np.nan for given in means], dtype=float)
        return (found - self._low) / (self._high - self._low)

    def facts(self, jobs: Sequence[Job], entries: Sequence[Entry]) -> dict[str, Any]:
        """How many ratings were wanted, what became of them, their cost, and the runs' means with their
        sample standard deviation.
        """
        last = {(entry["key"], entry["run"]): entry for entry in entries}
        wanted = [(job.key, run) for job in jobs for run in range(self.runs)]
        found = [last[place] for place in wanted if place in last]
        counts = Counter(entry["status"] for entry in found)
        costs = [entry["cost_usd"] for entry in entries]
        means = []
        for run in range(self.runs):
            rated = [x["value"] for x in found if x["run"] == run and x["status"] == "rated"]
            if rated:
                means.append((float(np.mean(rated)) - self._low) / (self._high - self._low))
        return {
            "ratings": len(wanted),
            **{status: counts[status] for status in RATING_STATUSES},
            "not_asked": len(wanted) - len(found),
            "cost_usd": None if None in costs else float(sum(costs)),
            "judges": sorted({entry["judge"] for entry in found}),
            "run_means": means,
            "run_std": float(np.std(means, ddof=1)) if len(means) > 1 else None,
        }

    def words(self, entries: Sequence[Entry]) -> dict[str, str]:
        """What was said of each picture in its first rating, by key."""
        return {entry["key"]: str(entry["reason"]) for entry in entries if entry["run"] == 0}


def panels_of(specs: Sequence[Any], runs: int | None = None) -> list[Panel]:
    """The columns of these judges; those of one label make one.

    Raises:
        LookupError, TypeError, ValueError: as `Member` and `Panel`.
    """
    labels: dict[str, list[Member]] = {}
    for spec in specs:
        member = Member(spec, runs)
        labels.setdefault(member.label, []).append(member)
    return [Panel(members) for members in labels.values()]


def _case(job: Job, image: Any) -> Case:
    case = job.case
    return Case(
        key=job.key,
        generated=image,
        reference=case.reference,
        prompt=case.prompt,
        subject=case.subject_name,
    )
