"""What a judge answers by a rubric, and how the answers in both orders become one rating."""

import functools
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from pydantic import BaseModel, Field, create_model

from dsd.judges.base import Rating, RatingStatus
from dsd.judges.rubrics import Rubric
from dsd.llm.rating import parse_rating
from dsd.llm.records import AnswerError, Usage
from dsd.texts import one_line

Order = Literal["reference_first", "generated_first"]

ORDERS: tuple[Order, ...] = get_args(Order)
_REASON_CHARS = 1000
_RAW_CHARS = 24_000
_NOT_RATED: tuple[RatingStatus, ...] = (
    "failed",
    "refused",
    "unparsable",
)  # the first has a hope: another try


def schema(rubric: Rubric) -> type[BaseModel] | None:
    """The form of an answer in fields: an analysis of each criterion stands before the score."""
    if rubric.form == "text":
        return None
    fields: dict[str, Any] = {}
    if rubric.analysis:
        for name, text in (rubric.criteria or {"analysis": "What speaks for the score."}).items():
            fields[_identifier(name, fields)] = (str, Field(description=f"{name}: {text.strip()}"))
    if rubric.copying:
        told = "Whether the generated picture is a copy of the reference, and how much of it is."
        fields["copying"] = (str, Field(description=told))
    told = f"A whole number from {rubric.low} to {rubric.high}, by the scale."
    fields["score"] = (int, Field(strict=True, ge=rubric.low, le=rubric.high, description=told))
    made: type[BaseModel] = create_model("Scored", **fields)
    return made


def reader(rubric: Rubric) -> Callable[[str], int] | None:
    """What reads the score of an answer in words; None for a rubric whose answers are fields."""

    def read(text: str) -> int:
        score = parse_rating(text, rubric.low, rubric.high)
        if score is None:
            raise ValueError(
                f"it does not give one whole number from {rubric.low} to {rubric.high} as 'Score: N'"
            )
        return score

    return read if rubric.form == "text" else None


@dataclass(frozen=True, kw_only=True)
class Scored:
    """One answer.

    Attributes:
        order: of the pictures, as they were shown.
        score: None if there is none.
        words: the analysis.
        text: the answer as it came.
        model: who answered.
        usage: what it took.
        error: why there is no score.
    """

    order: Order
    score: int | None = None
    words: str = ""
    text: str = ""
    model: str = ""
    usage: Usage = field(default_factory=Usage)
    error: AnswerError | None = None


def words_of(value: Any, text: str) -> str:
    """What an answer says beside its score, on one line."""
    if not isinstance(value, BaseModel):
        return one_line(text, _REASON_CHARS)
    said = {name: str(x) for name, x in value.model_dump().items() if name != "score"}
    return one_line(" ".join(f"{name}: {words}" for name, words in said.items()), _REASON_CHARS)


def rating(scored: Sequence[Scored], *, key: str, rubric: Rubric, run: int, model: str) -> Rating:
    """One rating of the answers in all orders: their mean.

    If one of them is missing there is no rating, for the mean of the others would favour an order.
    """
    errors = [one.error for one in scored if one.error is not None]
    cost = sum((one.usage for one in scored), Usage()).cost_usd
    answered = ", ".join(dict.fromkeys(one.model for one in scored if one.model))
    made = functools.partial(
        Rating,
        key=key,
        rubric=rubric.name,
        judge=answered or model,
        run=run,
        raw=_raw(scored),
        cost_usd=cost,
    )
    if errors:
        status = next(status for status in _NOT_RATED if any(error.status == status for error in errors))
        last = next(error for error in errors if error.status == status)
        head = f"{len(errors)} of {len(scored)} orders did not come: " if len(scored) > 1 else ""
        return made(status=status, reason=one_line(f"{head}{last}", _REASON_CHARS))
    scores = [one.score for one in scored if one.score is not None]
    assert len(scored) == len(scores) > 0, "an answer has a score or an error"
    reason = scored[0].words
    if len(set(scores)) > 1:
        told = " and ".join(f"{one.score} {one.order.replace('_', ' ')}" for one in scored)
        reason = f"the orders disagree ({told}): " + " / ".join(one.words for one in scored)
    value = sum(scores) / len(scores)
    return made(value=value, reason=one_line(reason, _REASON_CHARS))


def _raw(scored: Sequence[Scored]) -> str:
    """All that was answered, as JSON; each text is cut to its share of the room."""
    share = _RAW_CHARS // (2 * len(scored))
    rows = []
    for one in scored:
        row: dict[str, Any] = {"order": one.order, "answer": one.text[:share]}
        if one.error is None:
            row |= {"score": one.score, "model": one.model}
        else:
            row |= {"status": one.error.status, "error": str(one.error)[:share]}
        rows.append(row)
    return json.dumps(rows, ensure_ascii=False)


def _identifier(name: str, taken: dict[str, Any]) -> str:
    """The name of a criterion as that of a field."""
    made = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_") or "criterion"
    made = f"criterion_{made}" if made[0].isdigit() or made in ("score", "copying") else made
    while made in taken or hasattr(BaseModel, made):
        made += "_"
    return made
