"""The study of judges: tables of ratings, and what is said of those that cannot be used."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dsd.studies import RatedItems, Scores, compare_judges
from dsd.studies.judge import rated_items
from dsd.studies.judge_ratings import EMBEDDED, IMAGENHUB, of_imagenhub, of_table
from tests.judge_study import NAN, noisy, vars_of

TABLE = "name,a,b,s\nx,1,2,0.5\ny,0,,0.1\nz,2,2,\n"
GIVEN = {"item": "name", "people": ["a", "b"], "scores": {"judge": "s"}}


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_tables_of_both_kinds_are_read(tmp_path, kind):
    path = tmp_path / f"ratings.{kind}"
    if kind == "csv":
        path.write_text(TABLE, encoding="utf-8")
    else:
        content = {"name": ["x", "y", "z"], "a": [1, 0, 2], "b": [2.0, None, 2.0], "s": [0.5, 0.1, None]}
        pq.write_table(pa.table(content), path)
    found = of_table(path, GIVEN)
    assert found.keys == ["x", "y", "z"]
    np.testing.assert_array_equal(found.people, [[1, 0, 2], [2, NAN, 2]])
    np.testing.assert_array_equal(found.stored["judge"].values, [0.5, 0.1, NAN])
    assert (found.low, found.high, found.units) == (0, 2, "items")
    assert of_table(path, GIVEN, low=0, high=4).high == 4


@pytest.mark.parametrize(
    ("combine", "wanted"),
    [("min", [1, 2]), ("mean", [2.5, 5]), ("product", [4, 16]), ("geometric", [2, 4])],
)
def test_several_columns_become_one_score(tmp_path, combine, wanted):
    path = tmp_path / "ratings.csv"
    path.write_text("a,s,t\n1,1,4\n2,2,8\n0,,3\n", encoding="utf-8")
    found = of_table(path, {"people": "a", "scores": {"judge": {"columns": ["s", "t"], "combine": combine}}})
    np.testing.assert_allclose(found.stored["judge"].values, [*wanted, NAN])
    assert found.keys == ["1", "2", "3"]


@pytest.mark.parametrize(
    ("text", "columns", "given", "message"),
    [
        (TABLE, {"people": ["a", "c"]}, {}, "no column 'c'. It has: name, a, b, s"),
        (TABLE, {"people": []}, {}, "does not say which columns are people's"),
        (TABLE, {**GIVEN, "persons": "a"}, {}, "`columns` names 'persons'. Allowed: item, people"),
        (TABLE.replace("1,2", "one,2"), GIVEN, {}, "row 1, column 'a': 'one' is no number"),
        (TABLE.replace("1,2", "inf,2"), GIVEN, {}, "'inf' is not finite"),
        (TABLE.replace("z,", "x,"), GIVEN, {}, "the item 'x' twice"),
        (TABLE, GIVEN, {"high": 1.0}, "rating 2 is outside the scale from 0 to 1"),
        ("name,a,b,s\nx,1,1,1\n", GIVEN, {}, "scale goes from 1 to 1"),
        ("name,a,b,s\nx,,,1\n", GIVEN, {}, "no rating of people in the columns a, b"),
        ("name,a,b,s\n", GIVEN, {}, "has no rows"),
        (TABLE, {**GIVEN, "scores": {"judge": {"column": "s"}}}, {}, "names 'column'. Allowed: columns"),
        (
            TABLE,
            {**GIVEN, "scores": {"judge": {"columns": "s", "combine": "max"}}},
            {},
            "combine is one of min",
        ),
        (TABLE, {**GIVEN, "scores": {"judge": {"columns": "s", "range": [1, 0]}}}, {}, "from low up to high"),
        (
            TABLE,
            {**GIVEN, "scores": {"judge": {"columns": "s", "range": [0, 0.4]}}},
            {},
            "row 1: the score 0.5",
        ),
    ],
)
def test_a_table_that_cannot_be_used_says_where(tmp_path, text, columns, given, message):
    path = tmp_path / "ratings.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        of_table(path, columns, **given)


def test_arguments_that_do_not_go_together(tmp_path):
    for ratings, given, message in (
        ("imagenhub", {"low": 0.0}, "`low` is known for ImagenHub"),
        ("imagenhub", {"columns": {"people": "a"}}, "`columns` are known"),
        ("x.csv", {}, "Say with `columns` what the table holds"),
        (noisy(), {"high": 3.0}, "`high` goes with a table"),
        ("imagenhub", {"level": "cardinal"}, "Unknown level 'cardinal'"),
    ):
        with pytest.raises(ValueError, match=message):
            rated_items(ratings, **given)
    with pytest.raises(FileNotFoundError, match="no such file"):
        rated_items(tmp_path / "none.csv", columns=IMAGENHUB)
    with pytest.raises(ValueError, match="`resamples` must be at least 1"):
        compare_judges("imagenhub", tmp_path, resamples=0)
    empty = RatedItems(**{**vars_of(noisy()), "stored": {"judge": Scores(values=np.full(60, NAN))}})
    with pytest.raises(ValueError, match="judge has no score of any item"):
        compare_judges(empty, tmp_path / "out")
    with pytest.raises(ValueError, match="nothing to compare"):
        compare_judges(RatedItems(**{**vars_of(empty), "stored": {}}), tmp_path / "out")


def test_a_file_in_imagenhubs_layout_is_read_like_the_embedded_one(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_bytes(EMBEDDED.read_bytes())
    assert rated_items(path, columns="imagenhub").digest == rated_items("imagenhub").digest
    found = of_imagenhub()
    assert (len(found.keys), len(set(found.subjects)), found.level) == (300, 30, "ordinal")
    path.write_text(path.read_text(encoding="utf-8").replace("sample_7.jpg", "seventh"), encoding="utf-8")
    with pytest.raises(ValueError, match="a sample is called sample_NUMBER"):
        of_imagenhub(path)
