"""How diverse a list of prompts is: kinds, repetitions, wording and lengths, in numbers."""

import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from typing import Any

import numpy as np

from dsd.prompts.distinct import Distinct, Signatures, subject_words
from dsd.texts import words_of
from dsd.types import GridPrompt

_SAMPLE = 2000  # prompts whose wording is compared: a fixed number, as these measures fall with the number
_EXAMPLES = 5
_QUANTILES = {"least": 0.0, "10%": 0.1, "median": 0.5, "90%": 0.9, "most": 1.0}


@dataclass(frozen=True, kw_only=True)
class Diversity:
    """Measures of a list of prompts.

    Wording is that of at most 2,000 of the prompts, picked by chance; compare lists of 2,000 and more, or of
    equal length.

    Attributes:
        prompts: how many there are.
        kinds: prompts of each kind.
        layouts: prompts of each layout.
        subjects: how many different ones, by their words.
        near_duplicates: share of prompts whose subject has at least 70 % of its words (by Jaccard) in common
            with that of an earlier one; None without datasketch.
        examples: some of those, with the earlier one.
        self_similarity: mean share of words in common of two subjects, by MinHash; None without datasketch.
        nearest: mean share of words in common of a subject and the one most like it; None without datasketch.
        distinct_1: different words of the panels among all their words (type-token ratio, also distinct-1).
        distinct_2: the same of pairs of neighbouring words (Li et al., 2016).
        vocabulary: different words of the panels.
        text_words: quantiles of the words of a whole prompt.
        panel_words: quantiles of the words of a panel.
    """

    prompts: int
    kinds: Mapping[str, int]
    layouts: Mapping[str, int]
    subjects: int
    near_duplicates: float | None
    examples: Sequence[tuple[str, str]]
    self_similarity: float | None
    nearest: float | None
    distinct_1: float | None
    distinct_2: float | None
    vocabulary: int
    text_words: Mapping[str, float]
    panel_words: Mapping[str, float]

    def to_dict(self) -> dict[str, Any]:
        """Fit for JSON."""
        return asdict(self)

    def rows(self) -> list[tuple[str, str]]:
        """What is measured and how much it is, as texts for a table."""

        def share(value: float | None) -> str:
            return "needs the extra llm" if value is None else f"{value:.1%}"

        def spread(quantiles: Mapping[str, float]) -> str:
            return ", ".join(f"{name} {value:.0f}" for name, value in quantiles.items()) or "none"

        kinds = ", ".join(f"{kind} {count / self.prompts:.1%}" for kind, count in self.kinds.items())
        return [
            ("prompts", str(self.prompts)),
            ("kinds", kinds),
            ("different subjects", str(self.subjects)),
            ("near-duplicate subjects", share(self.near_duplicates)),
            ("words two subjects share, mean", share(self.self_similarity)),
            ("words shared with the nearest, mean", share(self.nearest)),
            ("distinct words in panels", "none" if self.distinct_1 is None else f"{self.distinct_1:.1%}"),
            (
                "distinct word pairs in panels",
                "none" if self.distinct_2 is None else f"{self.distinct_2:.1%}",
            ),
            ("vocabulary of panels", str(self.vocabulary)),
            ("words of a prompt", spread(self.text_words)),
            ("words of a panel", spread(self.panel_words)),
        ]


def diversity(prompts: Iterable[GridPrompt], *, similarity: float = 0.7) -> Diversity:
    """Measure a list of prompts, such as `run.prompts`. They are read once, and only their subjects kept.

    Args:
        prompts: by any writer.
        similarity: share of words in common from which on two subjects are near-duplicates, in (0, 1].

    Raises:
        ValueError: if there are no prompts, or `similarity` is out of range.
    """
    distinct = _distinct(similarity)
    kinds: Counter[str] = Counter()
    layouts: Counter[str] = Counter()
    words: set[frozenset[str]] = set()
    lengths: dict[str, list[int]] = {"text": [], "panel": []}
    sample: list[GridPrompt] = []
    examples: list[tuple[str, str]] = []
    rng, repeated, count = random.Random(0), 0, 0
    for count, prompt in enumerate(prompts, start=1):
        kinds[prompt.kind] += 1
        layouts[prompt.layout] += 1
        words.add(subject_words(prompt.subject))
        lengths["text"].append(len(words_of(prompt.text)))
        lengths["panel"] += [len(words_of(panel)) for panel in prompt.panels]
        if distinct is not None and (like := distinct.add(prompt.subject)) is not None:
            repeated += 1
            if len(examples) < _EXAMPLES:
                examples.append((prompt.subject, like))
        if len(sample) < _SAMPLE:
            sample.append(prompt)
        elif (place := rng.randrange(count)) < _SAMPLE:  # each prompt is as likely to stay
            sample[place] = prompt
    if not count:
        raise ValueError("There are no prompts to measure. Write some first: dsd.write_prompts(run).")
    panels = [words_of(panel) for prompt in sample for panel in prompt.panels]
    similar = None if distinct is None else _self_similarity([prompt.subject for prompt in sample])
    return Diversity(
        prompts=count,
        kinds=dict(kinds.most_common()),
        layouts=dict(layouts.most_common()),
        subjects=len(words),
        near_duplicates=None if distinct is None else repeated / count,
        examples=examples,
        self_similarity=None if similar is None else similar[0],
        nearest=None if similar is None else similar[1],
        distinct_1=_distinct_n(panels, 1),
        distinct_2=_distinct_n(panels, 2),
        vocabulary=len(set(chain.from_iterable(panels))),
        text_words=_quantiles(lengths["text"]),
        panel_words=_quantiles(lengths["panel"]),
    )


def _distinct(similarity: float) -> Distinct | None:
    try:
        return Distinct(similarity)
    except ImportError:  # an optional package; the other measures do without it
        return None


def _self_similarity(subjects: Sequence[str]) -> tuple[float, float] | None:
    """Mean over all pairs, and mean over subjects of that with the nearest other; None for fewer than two."""
    if len(subjects) < 2:
        return None
    sign = Signatures()
    signatures = np.stack([sign(subject).hashvalues for subject in subjects])
    total, nearest = 0.0, 0.0
    for i, signature in enumerate(signatures):
        alike = (signatures == signature).mean(axis=1)
        alike[i] = 0.0
        total += float(alike.sum())
        nearest += float(alike.max())
    count = len(subjects)
    return total / (count * (count - 1)), nearest / count


def _distinct_n(texts: Sequence[Sequence[str]], n: int) -> float | None:
    grams = [tuple(text[i : i + n]) for text in texts for i in range(len(text) - n + 1)]
    return len(set(grams)) / len(grams) if grams else None


def _quantiles(lengths: Sequence[int]) -> dict[str, float]:
    if not lengths:
        return {}
    return {name: float(np.quantile(lengths, share)) for name, share in _QUANTILES.items()}
