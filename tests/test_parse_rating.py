"""From a judge's words to a rating: what is read, what is not, and what the rule of DreamBench++ does."""

import random
import re
import time

import pytest

from dsd.llm.rating import parse_rating

READ = {
    "Score: 3": 3,
    "score: 0": 0,
    "SCORE: 2": 2,
    "Score = 2": 2,
    "**Score:** 3": 3,
    "**Score: 3**": 3,
    "### Score\n\n# Score: 4": 4,
    "[3]": 3,
    "Score: [2]": 2,
    "3": 3,
    " 4.\n": 4,
    '{"score": 2}': 2,
    '```json\n{"analysis": "the ears differ", "score": 1}\n```': 1,
    "The shape is kept; two ears of 3 are not.\n\nScore: 1": 1,
    "Rating: 4": 4,
    "<score>3</score>": 3,
    "Score: 3\nSo the final score is 3.": 3,
    "The score is 2 because both ears are missing.": 2,
}
NOT_READ = [
    "",
    "   ",
    "no idea",
    "two",
    "Score: three",
    "Score:",
    "Score: 3.5",
    "Score: 3,5",
    "Score: 3/4",
    "3/4",
    "Score: 3 / 4",
    "Score: 3 out of 4",
    "Score: 3-4",
    "Score: 3 to 4",
    "Score: 3 or 4",
    "2-3",
    "Score: 10",
    "Score: 5",
    "Score: -1",
    "-1",
    "Score: 3\nScore: 2",
    "Shape score: 3\nColour score: 1\n",
    '{"score": 3, "colour_score": 1}',
    "Score: 75%",
    "Score: 3+",
    "I'm sorry, I can't rate pictures of people.",
    '{"score": 3.5}',
    '{"score": null}',
    "Score: N/A",
    "Score: 1e3",
    "There are 3 ears, and I like 4 of them.",
]


@pytest.mark.parametrize(("text", "rating"), READ.items())
def test_one_number_in_range_is_read(text, rating):
    assert parse_rating(text) == rating


@pytest.mark.parametrize("text", NOT_READ)
def test_a_doubt_is_no_rating(text):
    assert parse_rating(text) is None


@pytest.mark.parametrize(
    ("text", "rating"),
    [
        ("Score: 3", 3),
        ("**Score: 3**", 3),
        ("score: A 2", 2),
        ("**Score:** 3", None),
        ("[3]", None),
        ("SCORE: 2", None),
        ("Score = 2", None),
        ("-1", None),
        ("Score: -1", None),
        ("Shape score: 3\nColour score: 1", None),
        ("Score: 3\nScore: 3", None),
        ("Score: 3.5", 3),
        ("Score: 3/4", 3),
        ("Score: 10", 10),
    ],
)
def test_the_published_rule_with_its_faults(text, rating):
    assert parse_rating(text, mode="dreambench++") == rating


def test_another_scale():
    assert parse_rating("Score: 10", low=0, high=10) == 10
    assert parse_rating("Score: -2", low=-3, high=3) == -2
    assert parse_rating("Score: 0", low=1, high=5) is None
    with pytest.raises(ValueError, match="from `low` up to `high`"):
        parse_rating("3", low=4, high=4)


def test_whatever_is_written_a_rating_is_a_number_that_stands_there():
    rng = random.Random(0)
    parts = [
        "Score",
        "score:",
        ":",
        " ",
        "\n",
        "**",
        "[",
        "]",
        "{",
        '"',
        "3",
        "4",
        "10",
        ".",
        "/",
        "-",
        "of",
        "rating is",
        "5",
        "\u00bd",
    ]
    read = 0
    for _ in range(20_000):
        text = "".join(rng.choice(parts) for _ in range(rng.randint(1, 12)))
        rating = parse_rating(text)
        if rating is not None:
            read += 1
            assert 0 <= rating <= 4
            assert str(rating) in re.findall(r"\d+", text)
    assert read > 500  # the law is not empty


@pytest.mark.parametrize(
    "text", ["score" * 200_000, "score: " * 100_000 + "3", "1" * 1_000_000, "(" * 500_000, "\n" * 500_000]
)
def test_a_hostile_answer_takes_no_time(text):
    started = time.perf_counter()
    parse_rating(text)
    parse_rating(text, mode="dreambench++")
    assert time.perf_counter() - started < 2.0
