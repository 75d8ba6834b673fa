"""Ratings from files: each stands at its case and run, what is missing is missing, and damage is told."""

import csv
import json
import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from dsd import judges
from dsd.judges import Case
from dsd.llm import Usage

ROWS = [
    {"key": "a-0", "value": 3, "run": 0},
    {"key": "a-0", "value": 2.5, "run": 1},
    {"key": "b-0", "value": 0, "run": 0},
    {"key": "b-0", "value": None, "run": 1},
]


def case(key):
    return Case(key=key, generated=Image.new("RGB", (4, 4)))


def write(path, rows):
    names = list(dict.fromkeys(name for row in rows for name in row))
    if path.suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps({n: row.get(n) for n in names}) + "\n" for row in rows))
    else:
        pq.write_table(pa.table({name: [row.get(name) for row in rows] for name in names}), path)
    return path


def recorded(path, **options):
    return judges.create({"name": "recorded", "path": str(path), **options})


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_the_same_ratings_from_every_kind_of_file(tmp_path, ending):
    rater = recorded(write(tmp_path / f"people.{ending}", ROWS))
    ratings = rater.rate_batch([case("b-0"), case("zz-0"), case("a-0")])
    assert [(r.key, r.run, r.value, r.status) for r in ratings] == [
        ("b-0", 0, 0, "rated"),
        ("b-0", 1, None, "unparsable"),
        ("zz-0", 0, None, "failed"),
        ("zz-0", 1, None, "failed"),
        ("a-0", 0, 3, "rated"),
        ("a-0", 1, 2.5, "rated"),
    ]
    assert rater.runs == 2
    assert {r.rubric for r in ratings} == {r.judge for r in ratings} == {"people"}
    assert {r.cost_usd for r in ratings} == {0.0}
    assert "has no rating of this case in run 1" in ratings[3].reason
    assert rater.estimate(case("a-0")) == Usage()
    assert rater.fingerprint == recorded(write(tmp_path / f"people2.{ending}", ROWS)).fingerprint
    assert rater.fingerprint != recorded(write(tmp_path / f"people3.{ending}", ROWS[1:])).fingerprint


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_not_a_number_is_missing(tmp_path, ending):
    rows = [{"key": "a", "value": float("nan")}, {"key": "b", "value": 1.0}]
    first, second = recorded(write(tmp_path / f"r.{ending}", rows)).rate_batch([case("a"), case("b")])
    assert (first.status, first.value, second.value) == ("unparsable", None, 1)


def test_ratings_of_a_model_come_back_as_they_were(tmp_path):
    """What a run has written is read again: statuses, words and the judge's name too."""
    rows = [
        {"key": "a", "rubric": "prompt_following", "judge": "m", "run": 0, "value": 4.0, "status": "rated"},
        {
            "key": "b",
            "rubric": "prompt_following",
            "judge": "m",
            "run": 0,
            "value": None,
            "status": "refused",
        },
    ]
    rows = [row | {"reason": f"of {row['key']}", "raw": "[]", "cost_usd": 0.1} for row in rows]
    rater = recorded(write(tmp_path / "ratings.jsonl", rows))
    first, second = rater.rate_batch([case("a"), case("b")])
    assert (first.rubric, first.judge, first.value, first.reason) == ("prompt_following", "m", 4, "of a")
    assert (second.status, second.reason) == ("refused", "of b")


def test_several_rubrics_and_raters_are_told_apart(tmp_path):
    rows = [
        {"key": "a", "value": value, "rubric": rubric, "judge": rater}
        for value, (rubric, rater) in enumerate((r, p) for r in ("keeps", "follows") for p in ("ann", "bob"))
    ]
    path = write(tmp_path / "r.csv", rows)
    with pytest.raises(ValueError, match=r"more than one rubric: 'follows', 'keeps'. Name one by `rubric`"):
        recorded(path)
    with pytest.raises(ValueError, match=r"more than one judge: 'ann', 'bob'. Name one by `judge`"):
        recorded(path, rubric="keeps")
    found = {
        (rubric, rater): recorded(path, rubric=rubric, judge=rater).rate(case("a")).value
        for rubric in ("keeps", "follows")
        for rater in ("ann", "bob")
    }
    assert found == {("keeps", "ann"): 0, ("keeps", "bob"): 1, ("follows", "ann"): 2, ("follows", "bob"): 3}
    with pytest.raises(LookupError, match=r"no ratings of the rubric 'charm'. It has: 'follows', 'keeps'"):
        recorded(path, rubric="charm")
    plain = write(tmp_path / "plain.csv", [{"key": "a", "value": 1}])
    assert recorded(plain, rubric="prompt_following").rate(case("a")).rubric == "prompt_following"


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"key": "a", "value": 5}], "rates 'a' 5, outside the scale from 0 to 4"),
        ([{"key": "a", "value": -1}], "outside the scale"),
        ([{"key": "a", "value": "good"}], "`value` must be a number; got 'good'"),
        ([{"key": "a", "value": "inf"}], "`value` must be finite"),
        ([{"key": "a", "value": 1}, {"key": "a", "value": 1}], "two ratings for the key 'a' and run 0"),
        ([{"key": "", "value": 1}], "Row 1 of .* has no key"),
        ([{"name": "a", "value": 1}], "has no column 'key' in row 1; it has: name, value"),
        ([{"key": "a", "value": 1, "run": 0.5}], "`run` is a whole number from 0"),
        ([{"key": "a", "value": 1, "run": -1}], "`run` is a whole number from 0"),
        ([{"key": "a", "value": 1, "status": "lost"}], "has the status 'lost'. Allowed: rated, refused"),
        ([{"key": "a", "value": 1, "status": "refused"}], "against its status 'refused'"),
        ([{"key": "a", "value": "", "status": "rated"}], "against its status 'rated'"),
    ],
)
def test_bad_rows_are_named(tmp_path, rows, words):
    with pytest.raises(ValueError, match=words):
        recorded(write(tmp_path / "r.csv", rows))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("r.txt", b"", "Ratings are read from .csv, .parquet, .jsonl files; got 'r.txt'"),
        ("r.jsonl", b'{"key": "a"', "Line 1 of .* is no JSON"),
        ("r.jsonl", b"[1]", "Line 1 of .* must be an object; got list"),
        ("r.jsonl", b'{"key": "a", "value": true}', "`value` must be a number; got True"),
        ("r.jsonl", b'{"key": "a", "value": [3]}', "`value` must be a number"),
        ("r.parquet", b"PAR1", "is no Parquet file that can be read"),
        ("r.csv", b"key,value\na\n", "not as many cells as its first line"),
        ("r.csv", b"key,value\na,1,2\n", "not as many cells as its first line"),
        ("r.csv", b"key,value\n\xff,1\n", "is no CSV in UTF-8"),
    ],
)
def test_damaged_files_are_clear_errors(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=words):
        recorded(tmp_path / name)


def test_there_must_be_a_file_and_a_scale(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no file of ratings at"):
        recorded(tmp_path / "none.csv")
    path = write(tmp_path / "r.csv", [{"key": "a", "value": 9}])
    assert recorded(path, low=1, high=10).rate(case("a")).value == 9
    for low, high in ((3, 3), (4, 1), (0, float("nan"))):
        with pytest.raises(ValueError, match=re.escape(f"from `low` up to `high`; got {low} and {high}")):
            recorded(path, low=low, high=high)
