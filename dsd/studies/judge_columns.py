"""What the columns of a table of ratings stand for: the argument `columns`, checked and in full."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

COMBINE: Mapping[str, Callable[[Float[np.ndarray, "columns items"]], Float[np.ndarray, " items"]]] = {
    "min": lambda table: table.min(0),
    "mean": lambda table: table.mean(0),
    "product": lambda table: table.prod(0),
    "geometric": lambda table: table.prod(0) ** (1 / len(table)),
}
"""How several columns become one score; it is missing where one of them is."""

ONE = ("group", "subject", "prompt")
PICTURES = ("generated", "reference", "truth")
_KEYS = ("item", "people", "scores", *ONE, *PICTURES)
_OF_A_SCORE = ("columns", "combine", "range", "higher_is_better")


def checked(columns: Mapping[str, Any]) -> dict[str, Any]:
    """`columns` in full.

    Raises:
        ValueError: if it names what is none of them, or no people, or says a score wrongly.
    """
    if strange := sorted(set(columns) - set(_KEYS)):
        raise ValueError(f"`columns` names {strange[0]!r}. Allowed: {', '.join(_KEYS)}.")
    if not columns.get("people"):
        raise ValueError("`columns` does not say which columns are people's: {people: [rater_1, rater_2]}.")
    found: dict[str, Any] = {key: str(columns.get(key) or "") for key in ONE}
    found |= {key: str(columns.get(key) or "") for key in ("generated", "truth")}
    found["reference"] = names_in(columns.get("reference") or [])
    found["item"], found["people"] = names_in(columns.get("item") or []), names_in(columns["people"])
    found["scores"] = {}
    for name, spec in dict(columns.get("scores") or {}).items():
        given = dict(spec) if isinstance(spec, Mapping) else {"columns": spec}
        if strange := sorted(set(given) - set(_OF_A_SCORE)):
            raise ValueError(f"The score {name!r} names {strange[0]!r}. Allowed: {', '.join(_OF_A_SCORE)}.")
        combine, ends = given.get("combine", "min"), given.get("range")
        if combine not in COMBINE:
            raise ValueError(f"The score {name!r}: combine is one of {', '.join(COMBINE)}; got {combine!r}.")
        better = given.get("higher_is_better", True)
        if not isinstance(better, bool):
            raise ValueError(f"The score {name!r}: higher_is_better is true or false; got {better!r}.")
        found["scores"][str(name)] = {
            "columns": names_in(given.get("columns") or name),
            "combine": combine,
            "range": ends_of(str(name), ends),
            "higher_is_better": better,
        }
    return found


def ends_of(name: str, given: Any) -> tuple[float, float] | None:
    """The `range` of a score, if one is given.

    Raises:
        ValueError: if it is not two numbers, the lower first.
    """
    if given is None:
        return None
    if isinstance(given, str) or len(given) != 2 or not float(given[0]) < float(given[1]):
        raise ValueError(f"The score {name!r}: a range goes from low up to high; got {given!r}.")
    return float(given[0]), float(given[1])


def names_in(given: str | Sequence[str]) -> list[str]:
    """One name or several, as a list."""
    return [given] if isinstance(given, str) else [str(name) for name in given]
