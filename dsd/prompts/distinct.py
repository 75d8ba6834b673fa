"""Subjects that say nearly the same: found by MinHash among any number of others."""

from collections.abc import Iterable
from typing import Any

from dsd.texts import words_of

NUM_PERMUTATIONS = 128
_SMALL = frozenset("a an the of with and in on at its his her their".split())
_CANDIDATE = 0.8  # of the threshold: what the index lets through is compared exactly afterwards


def subject_words(subject: str) -> frozenset[str]:
    """The words that tell subjects apart: without articles and the like."""
    words = words_of(subject)
    return frozenset(word for word in words if word not in _SMALL) or frozenset(words)


def similarity(a: str, b: str) -> float:
    """Share of words that two subjects have in common (Jaccard), in [0, 1].

    >>> similarity("an old fisherman with a grey beard", "The old fisherman; grey beard.")
    1.0
    """
    left, right = subject_words(a), subject_words(b)
    return len(left & right) / len(left | right) if left | right else 1.0


class Signatures:
    """MinHash signatures of subjects, the same on every machine.

    Raises:
        ImportError: if datasketch is not installed, with the command that installs it.
    """

    def __init__(self) -> None:
        try:
            from datasketch import MinHash
        except ImportError as error:
            raise ImportError(
                "Finding near-duplicates needs the package datasketch: "
                "pip install 'diffusion-self-distillation[llm]'."
            ) from error
        self._empty = MinHash(num_perm=NUM_PERMUTATIONS, seed=1)

    def __call__(self, subject: str) -> Any:
        """The `datasketch.MinHash` of a subject's words."""
        signature = self._empty.copy()
        signature.update_batch([word.encode() for word in subject_words(subject)])
        return signature


class Distinct:
    """Subjects of which no two are nearly the same.

    MinHash LSH finds those that may be alike, and their words decide: whether two subjects are
    near-duplicates depends on the two alone.

    Args:
        threshold: the `similarity` from which on two subjects count as the same, in (0, 1].
        subjects: those there are already.

    Raises:
        ValueError: if the threshold is out of range.
        ImportError: if datasketch is not installed.
    """

    def __init__(self, threshold: float = 0.7, subjects: Iterable[str] = ()) -> None:
        if not 0 < threshold <= 1:
            raise ValueError(f"The `similarity` of near-duplicates must be in (0, 1]; got {threshold}.")
        self._threshold, self._sign = threshold, Signatures()
        from datasketch import MinHashLSH

        # Weighted against misses; candidates that are not alike cost one comparison each.
        self._index = MinHashLSH(
            threshold=_CANDIDATE * threshold, num_perm=NUM_PERMUTATIONS, weights=(0.1, 0.9)
        )
        self._subjects: list[str] = []
        for subject in subjects:
            self._insert(subject, self._sign(subject))

    def __len__(self) -> int:
        return len(self._subjects)

    def like(self, subject: str) -> str | None:
        """The subject that is most like this one, if it is nearly the same; the earliest of equals."""
        return self._like(subject, self._sign(subject))

    def add(self, subject: str) -> str | None:
        """Take a subject in, unless one is nearly the same, which is then returned."""
        signature = self._sign(subject)
        found = self._like(subject, signature)
        if found is None:
            self._insert(subject, signature)
        return found

    def _like(self, subject: str, signature: Any) -> str | None:
        numbers = sorted(self._index.query(signature))
        scored = [(similarity(subject, self._subjects[i]), i) for i in numbers]
        score, number = max(scored, key=lambda found: (found[0], -found[1]), default=(0.0, -1))
        return self._subjects[number] if score >= self._threshold else None

    def _insert(self, subject: str, signature: Any) -> None:
        self._index.insert(len(self._subjects), signature)
        self._subjects.append(subject)
