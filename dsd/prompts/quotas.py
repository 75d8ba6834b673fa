"""Which kind of subject each prompt of a list shows, so that every kind has its share."""

from collections.abc import Iterator, Mapping
from fractions import Fraction
from math import isfinite, lcm


class Quotas:
    """An endless list of kinds with given shares, the same for every seed.

    The first `n` of them are shared out by the largest remainder (Hamilton's method; of equal remainders the
    kind named first has it), for every `n`. Only where that method would take a place back as `n` grows,
    which it can with three kinds and more, the list is one place off until it is level again. Where all
    shares of `n` are whole numbers they are exact.

    Args:
        shares: of each kind; they need not sum to 1.

    Raises:
        ValueError: if there is none, or one is not a positive number, or a name is empty.
    """

    def __init__(self, shares: Mapping[str, float]) -> None:
        if not shares:
            raise ValueError("`categories` is empty. Give shares, such as {'character': 0.7, 'object': 0.3}.")
        for kind, share in shares.items():
            number = isinstance(share, int | float) and not isinstance(share, bool)
            if not number or not isfinite(share) or share <= 0:
                raise ValueError(f"The share of {kind!r} must be a number above 0; got {share!r}.")
            if not kind.strip() or kind == "none":
                raise ValueError(f"A category needs a name other than 'none'; got {kind!r}.")
        exact = [Fraction(str(share)) for share in shares.values()]  # 0.1 is a tenth, not its nearest float
        scale = lcm(*(share.denominator for share in exact))
        self.kinds = tuple(shares)
        self._weights = [int(share * scale) for share in exact]

    def counts(self, count: int) -> dict[str, int]:
        """How many prompts of each kind are due among `count`, by the largest remainder."""
        total = sum(self._weights)
        counts = [count * weight // total for weight in self._weights]
        rest = [count * weight % total for weight in self._weights]
        order = sorted(range(len(counts)), key=lambda i: -rest[i])  # stable: the first named first
        for i in order[: count - sum(counts)]:
            counts[i] += 1
        return dict(zip(self.kinds, counts, strict=True))

    def __iter__(self) -> Iterator[tuple[str, int]]:
        """Each prompt's kind, and how many prompts of that kind stand before it."""
        given = dict.fromkeys(self.kinds, 0)
        number = 0
        while True:
            number += 1
            due = self.counts(number)
            kind = max(self.kinds, key=lambda kind: due[kind] - given[kind])
            yield kind, given[kind]
            given[kind] += 1
