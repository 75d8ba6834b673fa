"""The work on one method: its folder, and what is missing in it."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from dsd.evaluation import methods
from dsd.evaluation.comparison.album import Album
from dsd.evaluation.comparison.drawing import draw_missing, total_usd
from dsd.evaluation.comparison.figures import Averages, Values
from dsd.evaluation.comparison.journal import Journal, lasting
from dsd.evaluation.comparison.judging import Member, Panel
from dsd.evaluation.comparison.measures import Measure, Shown
from dsd.evaluation.comparison.result import MethodResult
from dsd.evaluation.methods.base import Job, Method


class Work:
    """One method's folder, and what is missing in it."""

    def __init__(self, folder: Path, label: str, method: Method, jobs: Sequence[Job], progress: bool) -> None:
        self._folder, self._label, self._method, self._jobs = folder, label, method, jobs
        self._progress = progress
        self._spec = methods.spec(method)
        head = {"method": lasting(self._spec)}
        self._tuning, self._start = (
            Journal(folder / "tuning.jsonl", head),
            Journal(folder / "method.jsonl", head),
        )
        self._album = Album(folder / "images", method)
        self._scores: dict[str, dict[str, dict[str, float | None]]] = {}
        self._cut = 0

    def draw(self) -> None:
        """The pictures, and which prompts are too long for the method."""
        known = {entry["prompt"]: entry["cut"] for entry in self._start.entries}
        prompts = list(dict.fromkeys(job.case.prompt for job in self._jobs))
        if new := [prompt for prompt in prompts if prompt not in known]:
            cut = set(self._method.cut_prompts(new))
            self._start.append([{"prompt": prompt, "cut": prompt in cut} for prompt in new])
            known |= {prompt: prompt in cut for prompt in new}
        self._cut = sum(known[prompt] for prompt in prompts)
        draw_missing(self._method, self._album, self._jobs, self._tuning, self._bar("draw"))

    def measure(self, measure: Measure) -> None:
        """The numbers of each picture, a batch at a time."""
        journal = Journal(self._folder / f"scores-{measure.label}.jsonl", {"measure": lasting(measure.spec)})
        known = {entry["key"]: entry["scores"] for entry in journal.entries}
        there = [job for job in self._jobs if self._album.drawn(job).status == "drawn"]
        missing = [job for job in there if job.key not in known]
        name = self._bar(measure.label)
        with tqdm(total=len(missing), desc=name, unit="picture", disable=name is None or not missing) as bar:
            for start in range(0, len(missing), measure.batch_size):
                batch = missing[start : start + measure.batch_size]
                shown = [Shown(job=job, image=image) for job, image in self._album.images(batch)]
                found = measure.measure(shown)
                new = [{"key": x.job.key, "scores": scores} for x, scores in zip(shown, found, strict=True)]
                journal.append(new)
                known |= {entry["key"]: entry["scores"] for entry in new}
                bar.update(len(batch))
        self._scores[measure.label] = known

    def rate(self, member: Member) -> None:
        """A judge's ratings."""
        journal = member.journal(self._folder)
        member.rate_missing(self._album, self._jobs, journal, self._bar(member.label))

    def result(
        self, measures: Sequence[Measure], panels: Sequence[Panel], averages: Averages
    ) -> MethodResult:
        """All that is known of the method."""
        values: dict[str, Values] = {}
        for measure in measures:
            known = self._scores[measure.label]
            for column in measure.columns:
                row = [known.get(job.key, {}).get(column.name) for job in self._jobs]
                values[column.name] = np.array([np.nan if x is None else x for x in row], dtype=float)
        ratings, words = {}, {}
        for panel in panels:
            entries = panel.entries(self._folder)
            values[panel.label] = panel.values(self._jobs, entries)
            ratings[panel.label] = panel.facts(self._jobs, entries)
            words[panel.label] = panel.words(entries)
        drawn = [self._album.drawn(job) for job in self._jobs]
        seconds = [x.seconds for x in drawn if x.status == "drawn" and x.seconds is not None]
        return MethodResult(
            label=self._label,
            about=self._method.about,
            models=sorted({x.model for x in drawn if x.model}),
            spec=self._spec,
            statuses=dict(Counter(x.status for x in drawn)),
            seconds_per_image=float(np.median(seconds)) if seconds else None,
            tuning_s_per_subject=self._tuning_s(),
            cost_usd=total_usd(x.cost_usd for x in drawn if x.status == "drawn"),
            cut_prompts=self._cut,
            figures={name: averages.figure(row) for name, row in values.items()},
            values=values,
            ratings=ratings,
            words=words,
            album=self._album,
        )

    def _tuning_s(self) -> float | None:
        if self._tuning.entries:
            seconds = {entry["subject"]: entry["seconds"] for entry in self._tuning.entries}
            return float(np.mean(list(seconds.values())))
        return self._method.tuning_seconds()

    def _bar(self, what: str) -> str | None:
        return f"{self._label}: {what}" if self._progress else None
