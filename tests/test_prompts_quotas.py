"""Quotas of kinds: the largest remainder, exact for every count."""

import itertools
from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsd.prompts.quotas import Quotas


def hamilton(shares, count):
    """The largest remainder with exact fractions, written down from its definition."""
    total = sum(Fraction(str(share)) for share in shares.values())
    ideal = {kind: count * Fraction(str(share)) / total for kind, share in shares.items()}
    seats = {kind: int(value) for kind, value in ideal.items()}
    while sum(seats.values()) < count:
        best = max(shares, key=lambda kind: ideal[kind] - seats[kind])
        seats[best] += 1
    return seats


shares_of = st.dictionaries(
    st.sampled_from(["a", "b", "c", "d", "e"]), st.integers(1, 40).map(lambda n: n / 20), min_size=1
)


@settings(deadline=None)
@given(shares_of, st.integers(0, 300))
def test_quotas_are_the_largest_remainder(shares, count):
    quotas = Quotas(shares)
    assert quotas.counts(count) == hamilton(shares, count)
    got = Counter(kind for kind, _ in itertools.islice(quotas, count))
    assert all(abs(got[kind] - due) <= 1 for kind, due in hamilton(shares, count).items())
    total = sum(Fraction(str(share)) for share in shares.values())
    if all((count * Fraction(str(share)) / total).denominator == 1 for share in shares.values()):
        assert got == Counter(hamilton(shares, count))


@pytest.mark.parametrize("count", [1, 2, 3, 7, 10, 499, 1000])
def test_default_quotas_are_exact_for_every_count(count):
    shares = {"character": 0.5, "object": 0.3, "animal": 0.2}
    got = Counter(kind for kind, _ in itertools.islice(Quotas(shares), count))
    assert got == Counter(hamilton(shares, count))


def test_each_prompt_knows_how_many_of_its_kind_stand_before_it():
    kinds = list(itertools.islice(Quotas({"a": 0.1, "b": 0.6, "c": 0.3}), 200))
    before = Counter()
    for kind, number in kinds:
        assert number == before[kind]
        before[kind] += 1


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ({}, "is empty"),
        ({"a": 0}, "above 0; got 0"),
        ({"a": -1.0}, "above 0"),
        ({"a": float("nan")}, "above 0; got nan"),
        ({"a": True}, "above 0; got True"),
        ({"none": 1.0}, "other than 'none'"),
        ({" ": 1.0}, "needs a name"),
    ],
)
def test_quotas_that_are_none(shares, message):
    with pytest.raises(ValueError, match=message):
        Quotas(shares)
