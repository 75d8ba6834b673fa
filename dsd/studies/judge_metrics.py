"""Metrics under study beside judges: measured on the pictures that people rated."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from torchmetrics import Metric

from dsd.engines.specs import what
from dsd.evaluation.picture_metric import PictureMetric, Seen
from dsd.judges import Case, Judge, Rating
from dsd.studies.entries import check_names, name_of, named_specs
from dsd.studies.judge_asking import JudgeEntry
from dsd.studies.judge_columns import ends_of
from dsd.studies.judge_pictures import RatedCase
from dsd.studies.judge_ratings import RatedItems

MetricsLike = str | Sequence[str | Mapping[str, Any] | Metric] | Mapping[str, Any]

_COLUMN_OF = {"references": "reference", "truths": "truth"}


class MetricJudge(Judge):
    """A metric in a judge's place: its rating of a picture is the metric's value, on no scale.

    A picture without a value, such as one that shows no face, is "failed". An exception of the metric, such
    as that of weights which are not there, is none of a picture, and leaves `rate_some`.

    Args:
        metric: that measures.

    Attributes:
        wants: as the metric.
    """

    low, high = float("-inf"), float("inf")
    free = True

    def __init__(self, metric: PictureMetric) -> None:
        self._metric, self.rubric_name, self.wants = metric, metric.name, metric.wants

    def rate(self, case: Case, run: int = 0) -> Rating:
        """The metric's value for one picture."""
        return self._measured([case])[0]

    def rate_some(self, cases: Sequence[Case], runs: int | None = None) -> list[Any]:
        """The metric's values for some pictures, in one batch."""
        return self._measured(cases)

    def _measured(self, cases: Sequence[Case]) -> list[Rating]:
        values = self._metric.values([_seen(case) for case in cases])
        return [self._rating(case.key, value) for case, value in zip(cases, values, strict=True)]

    def _rating(self, key: str, value: float | None) -> Rating:
        return Rating(
            key=key,
            rubric=self.rubric_name,
            judge=self.rubric_name,
            value=value,
            status="failed" if value is None else "rated",
            reason="The metric has no value for this picture." if value is None else "",
            cost_usd=0.0,
        )


def metric_entries(given: MetricsLike) -> list[JudgeEntry]:
    """The metrics that are asked for, as `dsd.studies.entries.named_specs` takes them.

    Raises:
        ValueError: if there is none, two have one name, or a `range` is none.
        LookupError, TypeError: as `PictureMetric`.
    """
    found = []
    for name, spec in named_specs(given, Metric):
        plain = dict(spec) if isinstance(spec, Mapping) else spec
        ends = plain.pop("range", None) if isinstance(plain, dict) else None
        metric = PictureMetric(plain)
        kept: dict[str, Any] = json.loads(json.dumps(what(metric.spec)))
        called = name or name_of(kept)
        if (preprocessing := metric.preprocessing) is not None:
            kept["preprocessing"] = preprocessing
        found.append(
            JudgeEntry(
                judge=MetricJudge(metric),
                name=called,
                spec=kept,
                made_here=True,
                range=ends_of(called, ends),
                higher_is_better=metric.higher_is_better,
                repeats=False,
            )
        )
    check_names(found, "metric")
    return found


def check_shown(metrics: Sequence[JudgeEntry], items: RatedItems) -> None:
    """Whether the items have what metrics look at.

    Raises:
        ValueError: if not.
    """
    for entry in metrics:
        assert isinstance(entry.judge, MetricJudge)
        wanted = [_COLUMN_OF.get(name, name) for name in sorted(entry.judge.wants)]
        missing = [name for name in wanted if items.load is None or name not in items.shows]
        if missing:
            raise ValueError(
                f"The metric {entry.name} needs {' and '.join(wanted)} of each item, and the ratings name no "
                f"{missing[0]}. Say with `columns` where they are, such as {{generated: image, reference: "
                "subject_image, prompt: prompt}, and with `images` the folder."
            )


def _seen(case: Case) -> Seen:
    known = case if isinstance(case, RatedCase) else None
    alone = () if case.reference is None else (case.reference,)
    truth = None if known is None else known.truth
    return Seen(
        generated=case.generated,
        references=(known.references if known is not None else ()) or alone,
        prompt=case.prompt,
        truths=() if truth is None else (truth,),
    )
