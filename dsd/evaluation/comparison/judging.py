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
from dsd.evaluation.comparison.journal import Journal, lasting
from dsd.evaluation.methods.base import Job
from dsd.judges.base import RATING_STATUSES, Case, Judge, Rating

_BATCH = 32
_ROLES: Mapping[str, Role] = {"preservation": "preservation", "following": "following"}


class Panel:
    """A judge and the column of its ratings.

    Args:
        spec: of the judge; `label` in it names the column, by default the rubric does.
        runs: how often each picture is rated.

    Raises:
        LookupError, TypeError: as `dsd.judges.create`.
        ValueError: if `runs` is below 1, or the judge's scale is empty.
    """

    def __init__(self, spec: Any, runs: int = 1) -> None:
        if runs < 1:
            raise ValueError(f"`runs` must be at least 1; got {runs}.")
        given = dict(spec) if isinstance(spec, Mapping) else spec
        label = given.pop("label", None) if isinstance(given, dict) else None
        self.judge: Judge = judges.create(given)
        self.runs, self.label = runs, str(label or self.judge.rubric_name)
        self._low, self._high = float(self.judge.low), float(self.judge.high)
        if not self._high > self._low:
            raise ValueError(f"The judge {self.label!r} has a scale from {self._low:g} to {self._high:g}.")
        self.spec = judges.spec(self.judge)
        scale = f"{self._low:g} to {self._high:g}, brought to 0 to 1"
        self.column = Column(
            name=self.label,
            title=self.label.replace("_", " "),
            role=next((role for part, role in _ROLES.items() if part in self.judge.rubric_name), "other"),
            about={"judge": self.spec, "rubric": self.judge.rubric_name, "scale": scale, "runs": runs},
            runs=runs,
        )

    def journal(self, folder: Path) -> Journal:
        """Where the ratings of one method's pictures stand.

        Raises:
            ValueError: if there are ratings of another judge of the same label.
        """
        return Journal(folder / f"ratings-{self.label}.jsonl", {"judge": lasting(self.spec)})

    def rate_missing(self, album: Album, jobs: Sequence[Job], journal: Journal, bar_name: str | None) -> None:
        """Have rated what is there and not rated yet. Failed ratings are asked for again; refused and
        unparsable ones are not.

        Raises:
            Stopped: if the money or the time given to the judge is spent.
        """
        done = {(entry["key"], entry["run"]) for entry in journal.entries if entry["status"] != "failed"}
        there = [job for job in jobs if album.drawn(job).status == "drawn"]
        open_runs = {
            job.key: [run for run in range(self.runs) if (job.key, run) not in done] for job in there
        }
        missing = [job for job in there if open_runs[job.key]]
        total = sum(map(len, open_runs.values()))
        spent = Spent()
        with tqdm(total=total, desc=bar_name, unit="rating", disable=bar_name is None or not total) as bar:
            for start in range(0, len(missing), _BATCH):
                batch = list(album.images(missing[start : start + _BATCH]))
                for ratings in self._rated(batch, open_runs):
                    journal.append([asdict(rating) for rating in ratings])
                    for rating in ratings:
                        spent.add(rating.cost_usd)
                    bar.update(len(ratings))
                    bar.set_postfix_str(str(spent), refresh=False)

    def values(self, jobs: Sequence[Job], journal: Journal) -> Values:
        """Each picture's mean rating over the runs that have one, in [0, 1]; NaN without any."""
        rated: dict[str, dict[int, float]] = {}
        for entry in journal.entries:
            if entry["status"] == "rated":
                rated.setdefault(entry["key"], {})[entry["run"]] = float(entry["value"])
        means = [list(rated.get(job.key, {}).values()) for job in jobs]
        found = np.array([np.mean(given) if given else np.nan for given in means], dtype=float)
        return (found - self._low) / (self._high - self._low)

    def facts(self, jobs: Sequence[Job], journal: Journal) -> dict[str, Any]:
        """How many ratings were asked for, what became of them, their cost, and the runs' means with their
        sample standard deviation.
        """
        last = {(entry["key"], entry["run"]): entry for entry in journal.entries}
        wanted = [(job.key, run) for job in jobs for run in range(self.runs)]
        found = [last[place] for place in wanted if place in last]
        counts = Counter(entry["status"] for entry in found)
        costs = [entry["cost_usd"] for entry in journal.entries]
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

    def words(self, journal: Journal) -> dict[str, str]:
        """What was said of each picture in its first rating, by key."""
        return {entry["key"]: str(entry["reason"]) for entry in journal.entries if entry["run"] == 0}

    def _rated(
        self, batch: Sequence[tuple[Job, Any]], open_runs: Mapping[str, list[int]]
    ) -> list[list[Rating]]:
        """Whole pictures together; of those that lack some of their runs, these alone."""
        cases = {job.key: _case(job, image) for job, image in batch}
        whole = [case for key, case in cases.items() if len(open_runs[key]) == self.runs]
        found = [self.judge.rate_batch(whole, runs=self.runs)] if whole else []
        for key, case in cases.items():
            if len(open_runs[key]) < self.runs:
                found.append([self._again(case, run) for run in open_runs[key]])
        for rating in (rating for ratings in found for rating in ratings):
            if rating.key not in cases:
                raise ValueError(f"The judge {self.label!r} rated {rating.key!r}, which it was not shown.")
            if rating.value is not None and not self._low <= rating.value <= self._high:
                raise ValueError(
                    f"The judge {self.label!r} gave {rating.value:g}, outside its scale from {self._low:g} "
                    f"to {self._high:g}."
                )
        return found

    def _again(self, case: Case, run: int) -> Rating:
        # The base class turns errors into failed ratings, as in rate_batch.
        return self.judge._rate_or_fail(case, run)


def _case(job: Job, image: Any) -> Case:
    case = job.case
    return Case(
        key=job.key,
        generated=image,
        reference=case.reference,
        prompt=case.prompt,
        subject=case.subject_name,
    )
