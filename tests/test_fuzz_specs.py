"""Parsers of specs, policies and layouts give a valid value or the error they document, whatever is given."""

import math

import pyarrow as pa
from hypothesis import example, given
from hypothesis import strategies as st

from dsd import curators, grids
from dsd.data.policy import Policy
from tests.fuzz_strategies import FUZZ, TEXTS, VALUES, outcome

NAMES = st.sampled_from(
    [
        "heuristic",
        "folder",
        "file",
        "os:system",
        "json:JSONDecoder",
        "a:b",
        ":",
        "x:",
        ":y",
        ".:.",
        "..a:b",
        "json:nothing",
        "a b",
        "sys:path.x",
    ]
)


@FUZZ
@given(
    st.one_of(
        VALUES,
        NAMES,
        st.dictionaries(st.one_of(st.just("name"), TEXTS), st.one_of(NAMES, VALUES), max_size=3),
    )
)
@example("json:nothing")
@example(".:.")
@example(":y")
def test_specs(spec):
    made = outcome(lambda: curators.create(spec), TypeError, LookupError, ValueError, ImportError)
    assert made is None or isinstance(made, curators.Curator)


FIELDS = st.sampled_from([*Policy.__dataclass_fields__, "name"])
RULES = st.sampled_from(["every", "all", "any", "vote", "weights", "cascade"])


@FUZZ
@given(
    st.one_of(
        VALUES, st.dictionaries(FIELDS, st.one_of(RULES, VALUES, st.lists(TEXTS, max_size=3)), max_size=4)
    )
)
@example({"rule": ["all"]})
@example({"curators": 3})
@example({"rule": "vote", "votes": "two"})
@example({"rule": "weights", "curators": ["a"], "weights": ["x"]})
@example({"min_score": "low"})
@example({"min_score": 10**400})
@example({"max_score": math.nan})
@example({"rule": "weights", "curators": ["a"], "weights": [10**400]})
@example({"rule": "weights", "curators": ["a"], "threshold": -(10**400)})
@example({"rule": "cascade", "curators": ["a", "b"], "unsure": [[0, 10**400]]})
@example({"rule": "cascade", "curators": ["a", "b"], "unsure": [3]})
def test_policies(given_):
    try:
        policy = Policy.parse(given_)
    except (TypeError, ValueError):
        return
    count = len(policy.curators) or 2
    table = pa.table(
        {
            "pair_id": ["a", "b"],
            "status": ["accepted", "failed"],
            "score": pa.array([0.5, None], pa.float64()),
        }
    )
    try:
        kept = policy.accepts(["a", "b", "c"], [table] * count)
    except ValueError:  # more votes than curators
        assert policy.rule == "vote"
        return
    assert set(kept) <= {"a", "b", "c"}


@FUZZ
@given(st.text(max_size=12))
def test_layouts(text):
    try:
        layout = grids.Layout.parse(text)
    except ValueError:
        return
    assert str(layout) == text
    assert 1 <= layout.num_panels <= 99 * 99
