"""From what a judge wrote to the rating in it, or to none: a rating is never guessed."""

import re

RatingMode = str
"""One of `MODES`. `strict`: see `parse_rating`. `dreambench++`: its published rule, to compare with."""

MODES: tuple[RatingMode, ...] = ("strict", "dreambench++")

# Its `\s*[a-zA-Z]*\s*` in a form that takes no longer than the text is long.
_ORIGINAL = re.compile(r"(?:score|Score):\s*(?:[a-zA-Z]+\s*)?(\d+)", re.ASCII)
_MARKUP = re.compile(r"[*_`#\u200b\ufeff]+|\\(?=[\[\]*_])")
_TAG = re.compile(r"<(/?)\s*(?:[\w -]{0,40}\b)?(?:score|rating)s?\s*>", re.IGNORECASE)
_LABEL = r"(?<![^\W_])(?:score|rating)s?\b[\"')\]]{0,3}[ \t]*"
_STATED = re.compile(_LABEL + r"[:=\uff1a\uff1d|]", re.IGNORECASE)
_TOLD = re.compile(_LABEL + r"(?:is|of|as)\b(?![ \t]+(?:not|never|no)\b)", re.IGNORECASE)
_NUMBER = re.compile(r"[\s\"'(\[{|]{0,12}([-\u2212+]?)(0|[1-9][0-9]{0,8})(?![\w\u00bc-\u00be])", re.ASCII)
_MORE = re.compile(
    r"[\"')\]}]{0,6}(?:"
    r"[ \t]*[.,:][0-9]"  # 3.5, 3,5, 3:4
    r"|[+\u00b1%\u00b0]|-(?=\s|$)"  # 3+, 3-
    r"|[^\W\d]|[\u00b2\u00b3\u00b9\u00bc-\u00be]"  # 3rd, 3½
    r"|\s{0,4}[/\u2044\u00f7]"
    r"|[ \t]*(?:%|percent\b|out[ \t]+of\b|of\b|point\b|(?:and[ \t]+)?(?:a[ \t]+)?half\b)"
    r"|[ \t]*(?:[-\u2010-\u2015\u2212~,;&|+*x]|\.{2,3}|\u2026|to\b|or\b|and\b|bis\b|through\b|versus\b|vs\b)?"
    r"[ \t]*[\"'(\[{]{0,4}[ \t]*[-\u2212+]?[0-9]"  # 3-4, 3 or 4, 3, 4, 3 4
    r")",
    re.IGNORECASE,
)
_ITEM = re.compile(r"[.)][ \t]+\S")
_ALONE = re.compile(r"[\s\"'(\[{]*([-\u2212]?)(0|[1-9][0-9]{0,8})[\s\"')\]}.]*", re.ASCII)
_MAX_CHARS = 100_000
_MAX_DIGITS = 1000  # of a number that a text may make us read


def parse_rating(text: str, low: int = 0, high: int = 4, mode: RatingMode = "strict") -> int | None:
    r"""The one whole number that an answer gives as its rating; None where there is none, or a doubt.

    What counts is the number after "score" or "rating" and a colon (or "=", "is", "of"); without that word,
    the number that stands alone on the last line. Markdown, brackets, quotes, tags, JSON and capitals do not
    matter. There is no rating in a fraction ("3/4", "3.5", "3 out of 4"), a range or a choice ("3-4", "3 or
    4"), a number outside the scale, a number in words, or where several are given that differ, such as
    sub-scores.

    Args:
        text: the answer.
        low: lowest rating of the scale.
        high: highest rating of the scale.
        mode: "dreambench++" is the rule of its published code, to compare with: the digits after "score:" or
            "Score:", if those are there once. It reads "3.5" and "3/4" as 3, does not see "**Score:** 3",
            and does not look at the scale: "Score: 10" is 10.

    Raises:
        ValueError: if `low` is not below `high`, or there is no such mode.

    Example:
        >>> [parse_rating(x) for x in ("The ears differ.\n\n**Score:** 3", '{"score": 2}', "[4]")]
        [3, 2, 4]
        >>> [parse_rating(x) for x in ("Score: 3.5", "Score: 3/4", "Score: 2-3", "Score: 10", "two ears")]
        [None, None, None, None, None]
    """
    if low >= high:
        raise ValueError(f"A scale goes from `low` up to `high`; got {low} and {high}.")
    if mode not in MODES:
        raise ValueError(f"Unknown mode {mode!r}. Allowed: {', '.join(MODES)}.")
    if mode == "dreambench++":
        found = _ORIGINAL.findall(text)
        return int(found[0][:_MAX_DIGITS]) if len(found) == 1 else None
    values = set(_stated(text[-_MAX_CHARS:]))
    value = values.pop() if len(values) == 1 else None
    return value if value is not None and low <= value <= high else None


def _stated(text: str) -> list[int]:
    """All ratings that a text gives; none if its last word on it is no whole number."""
    text = _TAG.sub(lambda tag: " " if tag[1] else "\nscore: ", text)
    text = _MARKUP.sub(" ", text)
    for label in (_STATED, _TOLD):
        ends = [match.end() for match in label.finditer(text)]
        if ends:
            numbers = [_number(text, end) for end in ends]
            given = [number for number in numbers if number is not None]
            return [] if numbers[-1] is None else given
    return _alone(text)


def _number(text: str, start: int) -> int | None:
    """The whole number that begins there, unless it is part of something else."""
    match = _NUMBER.match(text, start)
    if match is None or match[1] == "+" or _MORE.match(text, match.end()):
        return None
    if "\n" in text[start : match.start(2)] and _ITEM.match(text, match.end()):
        return None  # the first item of a list
    return -int(match[2]) if match[1] else int(match[2])


def _alone(text: str) -> list[int]:
    """The numbers that stand alone on their lines; none if the last line is no number."""
    lines = [match for line in text.splitlines() if line.strip() for match in [_ALONE.fullmatch(line)]]
    if not lines or lines[-1] is None:
        return []
    return [-int(m[2]) if m[1] else int(m[2]) for m in lines if m is not None]
