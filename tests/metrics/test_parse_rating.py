"""Ratings are read strictly, or not at all; the published rule is kept beside to compare with."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsd.metrics.functional import parse_rating

READ = {
    # what DreamBench++'s own rule reads too
    "Score: 3": 3,
    "**Score: 3**": 3,
    # and what it does not
    "**Score:** 3": 3,
    "[3]": 3,
    "SCORE: 2": 2,
    "Score = 2": 2,
    # layouts of judges' answers
    "### Score: \n4\n### Justification:\nAll is there.": 4,
    "Analysis:\n1. **Shape**: alike\n2. **Colour**: another\n\n### Score:\nScore: 3 Overall quite alike.": 3,
    "### :\n**Score: 3** - The picture resembles the reference.": 3,
    "Shape: 3, Colour: 2\nScore: 3": 3,
    "I saw 2 dogs.\n\n3": 3,
    "Score: 3\nFinal score: 3": 3,
    "My rating is 2.": 2,
    "a score of 3": 3,
    "Score: 3 (good)": 3,
    "Score: 3. The ears are alike.": 3,
    "Rating: 0": 0,
    "Score\uff1a3": 3,
    '{"score": 3}': 3,
    '{"score": "3"}': 3,
    '{"score": [3]}': 3,
    '{"rating": 3, "confidence": 0.9}': 3,
    '```json\n{"reason": "2 ears, 1 tail", "score": 1}\n```': 1,
    "<score>3</score>": 3,
    "| Score | 3 |": 3,
    "3": 3,
    "(3).": 3,
}
NOT_READ = [
    # fractions
    *(
        "Score: 3.5",
        "Score: 3,5",
        "Score: 3/4",
        "Score: 3 / 4",
        "3/4",
        "3.5",
        "Score: 3 out of 4",
        "Score: 3 of 4",
    ),
    *("Score: 3\u00bd", "\u00bd", "Score: 3 and a half", "Score: **3**.5", "Score: 75%", '{"score": 3.0}'),
    # ranges and choices
    *(
        "Score: 3-4",
        "Score: 3 - 4",
        "Score: 3\u20134",
        "Score: 3 to 4",
        "Score: between 2 and 3",
        "Score: 2..3",
    ),
    *("Score: 3 or 4", "2 or 3", "2 3", "Score: 3, 4", '{"score": [3, 4]}', "Score: [3]/[4]"),
    # several that differ
    *("2\n3", "Score: 3\nScore: 4", "Shape score: 3\nColour score: 2\nOverall score: 3"),
    *("Shape: 3, Colour: 2, Texture: 1", "Score:\n1. Shape: 3\n2. Colour: 2"),
    # the last word on it is none
    *("Score: 3\nFinal score: 3.5", "Score: 3. All in all, score: between 3 and 4", "Score: 3\nScore: n/a"),
    # outside the scale
    *("Score: -1", "-1", "Score: 10", "10", "Score: 5", "Score: \u22121"),
    # none, or no whole number
    *("", "Score:", "score", "Score: three", "There are 2 dogs.", "the score is not 3", '{"score": null}'),
    *("Score: ~3", "Score: >3", "Score: 3+", "+3", "Score: 3e1", "Score: 3rd", "Score: 3\u00b2", "Score: 03"),
    *("Score: \u0663", "I'm sorry, I can't rate people."),
]


@pytest.mark.parametrize("text", READ)
def test_what_is_read(text):
    assert parse_rating(text) == READ[text]


@pytest.mark.parametrize("text", NOT_READ)
def test_what_is_not_guessed(text):
    assert parse_rating(text) is None


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("Score: 3", 3),
        ("**Score: 3**", 3),
        ("score: good 3", 3),
        ("Score: 3.5", 3),
        ("Score: 3/4", 3),
        ("Score: 10", 10),
        ("**Score:** 3", None),
        ("[3]", None),
        ("SCORE: 2", None),
        ("Score = 2", None),
        ("Score: -1", None),
        ("Shape score: 3\nOverall score: 3", None),
        ("Score: 3\nScore: 3", None),
        ("", None),
    ],
)
def test_the_published_rule_with_its_faults(text, wanted):
    assert parse_rating(text, mode="dreambench++") == wanted


def test_scales_of_other_sizes():
    assert parse_rating("Score: 10", high=10) == 10
    assert parse_rating("Score: 0", low=1, high=5) is None
    assert parse_rating("Score: -1", low=-2, high=2) == -1
    assert parse_rating("-2", low=-2, high=2) == -2
    with pytest.raises(ValueError, match="from `low` up to `high`; got 4 and 4"):
        parse_rating("Score: 4", 4, 4)
    with pytest.raises(ValueError, match=r"'lenient'\. Allowed: strict, dreambench\+\+"):
        parse_rating("Score: 4", mode="lenient")


WORDS = "Score score: rating <score> </score> or to of is not : = / - . , * [ ] { } % \u00bd \u0663".split()
PIECES = st.sampled_from([*"0123456789", *WORDS, " ", "\n", '"'])


@given(
    st.lists(PIECES, max_size=14).map("".join) | st.text(max_size=60), st.integers(-3, 5), st.integers(1, 9)
)
def test_never_outside_the_scale(text, low, width):
    value = parse_rating(text, low, low + width)
    assert value is None or (type(value) is int and low <= value <= low + width)


@given(
    st.integers(0, 4),
    st.sampled_from(["Score: {}", "**Score:** {}", '{{"score": {}}}', "[{}]", "<rating>{}</rating>"]),
)
def test_what_is_written_plainly_is_read_whatever_stands_before(value, form):
    answer = form.format(value)
    assert parse_rating(answer) == value
    assert parse_rating(f"The dog has 2 ears and 14 spots.\n\n{answer}") == value
    assert parse_rating(f"{answer}/4") is None
    assert parse_rating(answer.replace(str(value), f"{value}.5")) is None


@pytest.mark.parametrize(
    "text",
    [
        "Score: " * 30_000,
        "score:" + " " * 200_000,
        "(" * 200_000,
        "<score " * 30_000,
        "3," * 100_000,
        "\n" * 200_000,
    ],
)
def test_long_answers_take_no_long_time(text):
    started = time.thread_time()
    assert parse_rating(text) is None
    assert parse_rating(text, mode="dreambench++") is None
    assert time.thread_time() - started < 2
