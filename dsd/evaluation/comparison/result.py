"""What a comparison found."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dsd.evaluation.benchmarks.base import Benchmark
from dsd.evaluation.comparison.album import Album
from dsd.evaluation.comparison.figures import Averages, Column, Figure, Values
from dsd.evaluation.methods.base import Job


@dataclass(frozen=True, kw_only=True)
class MethodResult:
    """How a method did.

    Attributes:
        label: what it is called.
        about: what it is given, in a few words.
        models: what drew its pictures.
        spec: of the method, without secrets.
        statuses: how many pictures were drawn, refused, missing or failed.
        seconds_per_image: median; None if unknown.
        tuning_s_per_subject: mean seconds of tuning on a subject; 0 for zero-shot methods, None if unknown.
        cost_usd: of all its pictures; None if unknown.
        cut_prompts: prompts that are longer than it reads.
        figures: by column.
        values: of each picture, by column; NaN where it has none.
        ratings: what became of each judge's ratings.
        words: what each judge said, by picture.
        album: its pictures.
    """

    label: str
    about: str
    models: Sequence[str]
    spec: Mapping[str, Any]
    statuses: Mapping[str, int]
    seconds_per_image: float | None
    tuning_s_per_subject: float | None
    cost_usd: float | None
    cut_prompts: int
    figures: Mapping[str, Figure]
    values: Mapping[str, Values] = field(repr=False)
    ratings: Mapping[str, Mapping[str, Any]]
    words: Mapping[str, Mapping[str, str]] = field(repr=False)
    album: Album = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Methods beside each other on a benchmark.

    Attributes:
        benchmark: what they were compared on.
        jobs: every picture that was asked for, in the order of all `values`.
        cases_in_all: how many cases the benchmark has; fewer jobs than these are a sample.
        columns: what the figures are of, in order.
        preservation: the column that says how well the subject is kept; None without one.
        following: the column that says how well the prompt is followed; None without one.
        ranked_by: the column that the methods are ranked by.
        methods: the best first.
        averages: for further figures of the same pictures.
        settings: what it was made with.
        stopped: why it is unfinished; empty if it is not.
    """

    benchmark: Benchmark
    jobs: Sequence[Job] = field(repr=False)
    cases_in_all: int
    columns: Sequence[Column]
    preservation: str | None
    following: str | None
    ranked_by: str
    methods: Sequence[MethodResult]
    averages: Averages = field(repr=False)
    settings: Mapping[str, Any]
    stopped: str = ""

    def column(self, name: str) -> Column:
        """A column by its name."""
        return next(column for column in self.columns if column.name == name)

    def method(self, label: str) -> MethodResult:
        """A method by its label.

        Raises:
            LookupError: if there is none of that label.
        """
        for found in self.methods:
            if found.label == label:
                return found
        raise LookupError(f"There is no method {label!r}. Known: {', '.join(x.label for x in self.methods)}.")
