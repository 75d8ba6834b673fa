"""Draws what is missing, and says what it costs."""

import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from dsd.evaluation.comparison.album import Album
from dsd.evaluation.comparison.journal import Journal
from dsd.evaluation.methods.base import Job, Method
from dsd.llm.ledger import dollars


def draw_missing(
    method: Method, album: Album, jobs: Sequence[Job], tuning: Journal, bar_name: str | None
) -> None:
    """Draw the jobs that are not settled, subject by subject if the method is tuned on subjects.

    Args:
        method: who draws.
        album: where the pictures go, each as soon as it is there.
        jobs: all that is asked for.
        tuning: where the seconds of tuning go, by subject.
        bar_name: of a progress bar on stderr; None for none.

    Raises:
        Stopped: if the money or the time given to the method is spent.
    """
    missing = [job for job in jobs if not album.settled(job)]
    if not missing:
        return
    tunes = type(method).tune is not Method.tune
    subjects: dict[str, list[Job]] = {}
    for job in missing:
        subjects.setdefault(job.case.subject if tunes else "", []).append(job)
    spent = Spent()
    with tqdm(total=len(missing), desc=bar_name, unit="picture", disable=bar_name is None) as bar:
        for subject, group in subjects.items():
            if tunes:
                start = time.perf_counter()
                if method.tune(group[0].case):
                    tuning.append([{"subject": subject, "seconds": time.perf_counter() - start}])
            for job, drawing in method.draw_all(group):
                album.put(job, drawing)
                spent.add(drawing.cost_usd)
                bar.update()
                bar.set_postfix_str(str(spent), refresh=False)


class Spent:
    """What pictures or ratings cost so far, for a progress bar; empty as long as it is nothing."""

    def __init__(self) -> None:
        self._usd, self._unknown = 0.0, 0

    def add(self, cost_usd: float | None) -> None:
        """One more; None is unknown."""
        self._usd += cost_usd or 0.0
        self._unknown += cost_usd is None

    def __str__(self) -> str:
        if self._unknown:
            return f"{dollars(self._usd)} + {self._unknown} of unknown cost"
        return dollars(self._usd) if self._usd else ""


def total_usd(costs: Iterable[float | None]) -> float | None:
    """The sum; None if any is unknown."""
    found = list(costs)
    return None if None in found else sum(x for x in found if x is not None)


def tuning_journal(folder: Path, head: dict[str, Any]) -> Journal:
    """Where the seconds of tuning stand."""
    return Journal(folder / "tuning.jsonl", head)
