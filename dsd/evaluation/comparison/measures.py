"""What is measured picture by picture: the metrics that a user names, and those that a benchmark brings."""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from PIL import Image
from torch import Tensor

from dsd import metrics
from dsd.evaluation.comparison.figures import Column, Role
from dsd.evaluation.methods.base import Job
from dsd.evaluation.small_world import picture_scores
from dsd.extractors import Extractor
from dsd.extractors.sharing import SharedExtractor

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
    """Any `torchmetrics.Metric` of the family `metrics`, one picture at a time.

    What its `update` takes is given by the names of its arguments: `generated`, `reference` (or
    `references`), `prompt` (`prompts`, `text`, `texts`), `truth` (`true_view`). A subject's several
    references go together as one set where `update` takes sets (it then has an argument `reference_index`);
    else the metric sees a pair for each. Where it takes a truth, the reference is the first picture of the
    subject, which methods are given, and the truth what they are not: the true picture, or the other
    references.

    Args:
        spec: a name or a spec, or a metric. In a spec, `label` names the column and `role` says what it is
            of, "preservation", "following", "copying" or "other", where the name does not.

    Raises:
        ValueError: for an unknown role.
        LookupError, TypeError: as `dsd.metrics.create`, or if `update` needs what no benchmark has.
    """

    def __init__(self, spec: Any) -> None:
        given = dict(spec) if isinstance(spec, Mapping) else spec
        label, role = (given.pop(key, None) if isinstance(given, dict) else None for key in ("label", "role"))
        if role is not None and role not in get_args(Role):
            raise ValueError(f"Unknown `role` {role!r} of a metric. Allowed: {', '.join(get_args(Role))}.")
        self._metric = metrics.create(given)
        self.spec = _spec_of(self._metric)
        self.label = str(label or self.spec["name"]).rpartition(":")[2]
        if _BY_PROMPT & {str(self.spec["name"])}:
            raise TypeError(
                f"{self.spec['name']!r} compares the pictures of one prompt with each other; here each "
                "picture has a number of its own. Use the metric by itself."
            )
        self._wanted = _wanted(self._metric)
        self._takes_sets = "reference_index" in inspect.signature(self._metric.update).parameters
        self._embeddings = _shared(self._metric)
        good = getattr(self._metric, "higher_is_better", True)
        self.columns = (
            Column(
                name=self.label,
                title=self.label.replace("_", " "),
                role=role or _role(f"{self.spec['name']} {self.label}"),
                higher_is_better=good is not False,
                about={"metric": self.spec, **_preprocessing(self._metric)},
            ),
        )

    def measure(self, shown: Sequence[Shown]) -> list[Scores]:
        """The metric's value for each picture alone; None where it has none."""
        if self._embeddings is not None:
            self._embeddings([image for x in shown for image in (x.image, *x.job.case.references)])
        return [{self.label: self._value(x)} for x in shown]

    def _value(self, shown: Shown) -> float | None:
        given = {name: found for name in self._wanted if (found := self._given(name, shown))}
        if len(given) < len(self._wanted):
            return None
        longest = max(map(len, given.values()))
        self._metric.reset()
        self._metric.update(**{name: value * (longest // len(value)) for name, value in given.items()})
        counts = getattr(self._metric, "counts", None)
        if isinstance(counts, Tensor) and not bool(
            counts.any()
        ):  # it found no value, and keeps count of that
            return None
        return _number(self._metric.compute())

    def _given(self, name: str, shown: Shown) -> list[Any]:
        found = _GIVEN[name](shown)
        if name in _REFERENCES and _TRUTHS & {*self._wanted}:
            return found[:1]
        return [found] if name in _REFERENCES and self._takes_sets and len(found) > 1 else found


def _spec_of(metric: Any) -> dict[str, Any]:
    try:
        return metrics.spec(metric)
    except TypeError:  # built by hand, so that its arguments are not known
        return {"name": f"{type(metric).__module__}:{type(metric).__qualname__}"}


def _references(shown: Shown) -> list[Any]:
    return list(shown.job.case.references)


def _truth(shown: Shown) -> list[Any]:
    """Other true views of the subject than the first reference."""
    case = shown.job.case
    truth = case.true_picture
    return [truth] if truth is not None else list(case.references[1:])


_REFERENCES = ("reference", "references")
_TRUTHS = frozenset({"truth", "true_view"})
_BY_PROMPT = frozenset({"intra_prompt_diversity"})
_GIVEN: Mapping[str, Callable[[Shown], list[Any]]] = {
    **dict.fromkeys(("generated", "images"), lambda shown: [shown.image]),
    **dict.fromkeys(_REFERENCES, _references),
    **dict.fromkeys(("prompt", "prompts", "text", "texts"), lambda shown: [shown.job.case.prompt]),
    **dict.fromkeys(sorted(_TRUTHS), _truth),
}

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


def _wanted(metric: Any) -> list[str]:
    parameters = inspect.signature(metric.update).parameters.values()
    needed = [
        p.name for p in parameters if p.default is p.empty and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
    ]
    if unknown := [name for name in needed if name not in _GIVEN]:
        raise TypeError(
            f"{type(metric).__name__}.update needs {unknown[0]!r}, which no benchmark has. "
            f"Known: {', '.join(_GIVEN)}."
        )
    return needed


def _number(found: Any) -> float | None:
    value = found["score"] if isinstance(found, Mapping) else found
    number = float(value.detach().double().mean() if isinstance(value, Tensor) else value)
    return number if number == number else None


def _preprocessing(metric: Any) -> dict[str, str]:
    of = (metric, getattr(metric, "extractor", None))
    named = next((x for holder in of if (x := getattr(holder, "preprocessing", None)) is not None), None)
    return {} if named is None else {"preprocessing": str(named)}


def _shared(metric: Any) -> Extractor | None:
    """The metric's extractor, made to remember so that a picture goes through the network once; None if it
    has none.
    """
    for name in ("extractor", "encoder"):
        extractor = getattr(metric, name, None)
        if isinstance(extractor, Extractor):
            if not isinstance(extractor, SharedExtractor):
                extractor = SharedExtractor(extractor)
                setattr(metric, name, extractor)
            return extractor
    return None
