"""What is measured picture by picture: the metrics that a user names, and those that a benchmark brings."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from PIL import Image

from dsd.evaluation.comparison.figures import Column, Role
from dsd.evaluation.methods.base import Job
from dsd.evaluation.picture_metric import PictureMetric, Seen
from dsd.evaluation.small_world import picture_scores

Scores = dict[str, float | None]
"""A value for each of a measure's columns; None where a picture has none."""


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A picture and what it was asked for."""

    job: Job
    image: Image.Image


class Measure(ABC):
    """Gives each picture its numbers.

    Attributes:
        label: its name in files.
        spec: what its numbers come from, fit for JSON.
        columns: what it gives, in order.
        batch_size: pictures at once.
    """

    label: str
    spec: Mapping[str, Any]
    columns: Sequence[Column]
    batch_size: int = 32

    @abstractmethod
    def measure(self, shown: Sequence[Shown]) -> list[Scores]:
        """The numbers of each picture, in order."""


class SmallWorldMeasure(Measure):
    """Identity and scene by geometry and colour, and identity by the encoder.

    Args:
        workers: processes that measure.
        extractor: the encoder.
    """

    batch_size = 4096  # processes are started for each batch

    def __init__(self, workers: int = 2, extractor: Any = "mini") -> None:
        self.label, self._workers, self._extractor = "small_world", workers, extractor
        self.spec = {
            "name": "small_world",
            "extractor": extractor if isinstance(extractor, str) else repr(extractor),
        }
        by_geometry = {"measure": "dsd.mini.measure, geometry and colour, without a network"}
        by_encoder = {
            "model": "the identity encoder of dsd.mini",
            "scale": "cosine, negative ones counted as 0",
        }
        self.columns = (
            Column(name="identity", title="Identity", role="preservation", about=by_geometry),
            Column(name="identity_encoder", title="Identity, encoder", role="other", about=by_encoder),
            Column(name="scene", title="Scene", role="following", about=by_geometry),
            Column(
                name="product",
                title="Product",
                about={"rule": "identity times scene, picture by picture, then the mean"},
            ),
        )

    def measure(self, shown: Sequence[Shown]) -> list[Scores]:
        """The four numbers of each picture."""
        cases = [x.job.case for x in shown]
        found = picture_scores(
            [case.reference for case in cases],
            [x.image for x in shown],
            [case.kind for case in cases],
            self._extractor,
            workers=self._workers,
        )
        return [{name: float(values[i]) for name, values in found.items()} for i in range(len(shown))]


class MetricMeasure(Measure):
    """Any metric of the family `metrics`, see `dsd.evaluation.picture_metric.PictureMetric`: where it takes
    a truth, that is the true picture, or the subject's references but the first, which methods are given.

    Args:
        spec: a name or a spec, or a metric. In a spec, `label` names the column and `role` says what it is
            of, "preservation", "following", "copying" or "other", where the name does not.

    Raises:
        ValueError: for an unknown role.
        LookupError, TypeError: as `PictureMetric`.
    """

    def __init__(self, spec: Any) -> None:
        given = dict(spec) if isinstance(spec, Mapping) else spec
        label, role = (given.pop(key, None) if isinstance(given, dict) else None for key in ("label", "role"))
        if role is not None and role not in get_args(Role):
            raise ValueError(f"Unknown `role` {role!r} of a metric. Allowed: {', '.join(get_args(Role))}.")
        self._metric = PictureMetric(given)
        self.spec = self._metric.spec
        self.label = str(label or self._metric.name).rpartition(":")[2]
        preprocessing = self._metric.preprocessing
        self.columns = (
            Column(
                name=self.label,
                title=self.label.replace("_", " "),
                role=role or _role(f"{self._metric.name} {self.label}"),
                higher_is_better=self._metric.higher_is_better,
                about={
                    "metric": self.spec,
                    **({} if preprocessing is None else {"preprocessing": preprocessing}),
                },
            ),
        )

    def measure(self, shown: Sequence[Shown]) -> list[Scores]:
        """The metric's value for each picture alone; None where it has none."""
        with_truths = "truths" in self._metric.wants
        seen = [
            Seen(
                generated=x.image,
                references=x.job.case.references,
                prompt=x.job.case.prompt,
                truths=_truths(x) if with_truths else (),
            )
            for x in shown
        ]
        return [{self.label: value} for value in self._metric.values(seen)]


def _truths(shown: Shown) -> Sequence[Image.Image]:
    truth = shown.job.case.true_picture
    return [truth] if truth is not None else shown.job.case.references[1:]


_ROLES: Mapping[str, Role] = {
    "text_image_similarity": "following",
    "text_similarity": "following",
    "image_similarity": "preservation",
    "dino_similarity": "preservation",
    "embedding_identity": "preservation",
    "near_copy": "copying",
    "copy_paste": "copying",
}


def _role(name: str) -> Role:
    return next((role for part, role in _ROLES.items() if part in name), "other")
