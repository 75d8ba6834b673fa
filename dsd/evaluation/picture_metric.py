"""Any metric, picture by picture: what `dsd evaluate` and `dsd study judge` measure with."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image
from torch import Tensor

from dsd import metrics
from dsd.extractors import Extractor
from dsd.extractors.sharing import SharedExtractor


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A generated picture, and what is known of it.

    Attributes:
        generated: the picture.
        references: of the subject; the first is what the method was shown.
        prompt: what was to be drawn; empty if unknown.
        truths: true pictures of the subject that the method was not shown.
    """

    generated: Image.Image
    references: Sequence[Image.Image] = ()
    prompt: str = ""
    truths: Sequence[Image.Image] = ()


class PictureMetric:
    """Any `torchmetrics.Metric` of the family `metrics`, one picture at a time.

    What its `update` takes is given by the names of its arguments: `generated` (`images`), `reference`
    (`references`), `prompt` (`prompts`, `text`, `texts`), `truth` (`true_view`). A subject's several
    references go together as one set where `update` takes sets (it then has an argument `reference_index`);
    else the metric sees a pair for each. Where it takes a truth, the reference is the first one alone.

    Args:
        spec: a name, a spec or a metric.

    Attributes:
        spec: the metric's, fit for JSON.
        name: of the metric.
        wants: what `update` needs, of `Seen`'s attributes.
        higher_is_better: as the metric says; True if it does not say.

    Raises:
        LookupError, TypeError: as `dsd.metrics.create`, or if `update` needs what is not known of a picture.
    """

    def __init__(self, spec: Any) -> None:
        self._metric = metrics.create(spec)
        self.spec = _spec_of(self._metric)
        self.name = str(self.spec["name"])
        if self.name in _BY_PROMPT:
            raise TypeError(
                f"{self.name!r} compares the pictures of one prompt with each other; here each "
                "picture has a number of its own. Use the metric by itself."
            )
        parameters = inspect.signature(self._metric.update).parameters
        self._arguments = {name: _known(self._metric, name) for name in _needed(parameters)}
        self.wants = frozenset(self._arguments.values())
        self._takes_sets = "reference_index" in parameters
        self._embeddings = _remembering(self._metric)
        self.higher_is_better = getattr(self._metric, "higher_is_better", True) is not False

    @property
    def preprocessing(self) -> str | None:
        """What is done to a picture before a network sees it, which is loaded; None if that is not known."""
        of = (self._metric, getattr(self._metric, "extractor", None))
        named = next((x for holder in of if (x := getattr(holder, "preprocessing", None)) is not None), None)
        return None if named is None else str(named)

    def values(self, seen: Sequence[Seen]) -> list[float | None]:
        """The metric's value for each picture alone; None where it has none."""
        if self._embeddings is not None:  # in one batch; then each is remembered
            self._embeddings([image for x in seen for image in (x.generated, *x.references)])
        return [self._value(x) for x in seen]

    def _value(self, seen: Seen) -> float | None:
        given = {name: found for name, what in self._arguments.items() if (found := self._given(what, seen))}
        if len(given) < len(self._arguments):
            return None
        longest = max(map(len, given.values()))
        self._metric.reset()
        self._metric.update(**{name: value * (longest // len(value)) for name, value in given.items()})
        counts = getattr(self._metric, "counts", None)
        if isinstance(counts, Tensor) and not bool(counts.any()):  # no value was found, and that was counted
            return None
        return _number(self._metric.compute())

    def _given(self, what: str, seen: Seen) -> list[Any]:
        found = _GIVEN[what](seen)
        if what != "references":
            return found
        if "truths" in self.wants:
            return found[:1]
        return [found] if self._takes_sets and len(found) > 1 else found


_BY_PROMPT = frozenset({"intra_prompt_diversity"})
_ARGUMENTS: Mapping[str, str] = {
    **dict.fromkeys(("generated", "images"), "generated"),
    **dict.fromkeys(("reference", "references"), "references"),
    **dict.fromkeys(("prompt", "prompts", "text", "texts"), "prompt"),
    **dict.fromkeys(("truth", "true_view"), "truths"),
}
_GIVEN: Mapping[str, Callable[[Seen], list[Any]]] = {
    "generated": lambda seen: [seen.generated],
    "references": lambda seen: list(seen.references),
    "prompt": lambda seen: [seen.prompt] if seen.prompt else [],
    "truths": lambda seen: list(seen.truths),
}


def _needed(parameters: Mapping[str, inspect.Parameter]) -> list[str]:
    free = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    return [p.name for p in parameters.values() if p.default is p.empty and p.kind not in free]


def _known(metric: Any, name: str) -> str:
    if name not in _ARGUMENTS:
        raise TypeError(
            f"{type(metric).__name__}.update needs {name!r}, which is not known of a picture. "
            f"Known: {', '.join(_ARGUMENTS)}."
        )
    return _ARGUMENTS[name]


def _spec_of(metric: Any) -> dict[str, Any]:
    try:
        return metrics.spec(metric)
    except TypeError:  # built by hand, so that its arguments are not known
        return {"name": f"{type(metric).__module__}:{type(metric).__qualname__}"}


def _number(found: Any) -> float | None:
    value = found["score"] if isinstance(found, Mapping) else found
    number = float(value.detach().double().mean() if isinstance(value, Tensor) else value)
    return number if number == number else None


def _remembering(metric: Any) -> Extractor | None:
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
