"""What a judge answers about a pair, and how several answers become one verdict."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from pydantic import BaseModel, Field, create_model

from dsd.llm.outages import is_outage
from dsd.llm.records import AnswerError, Usage
from dsd.texts import one_line
from dsd.types import Status, Verdict

Mode = Literal["cot", "turns", "direct"]
"""`cot`: name what both show, describe each, compare and conclude, in one answer; `turns`: the same in three
turns of a dialogue; `direct`: the conclusion alone."""

MODES: tuple[str, ...] = get_args(Mode)
Order = Literal["given", "swapped"]

_REASON_CHARS = 1000
_RAW_CHARS = 24_000
_DECIMALS = 6
_NO_JUDGEMENT: tuple[Status, ...] = ("failed", "refused", "unparsable")

_REASONING = {
    "subject": "The subject that both pictures have in common.",
    "first_picture": "The subject of the first picture, in detail.",
    "second_picture": "The subject of the second picture, in detail.",
    "comparison": "The two compared, feature by feature.",
}
_FIELDS_OF_MODE = {"cot": tuple(_REASONING), "turns": ("comparison",), "direct": ()}


def schema(mode: Mode, copy_check: bool) -> type[BaseModel]:
    """The form of the answer that concludes: what reasons stands before what concludes."""
    fields: dict[str, Any] = {
        name: (str, Field(description=_REASONING[name])) for name in _FIELDS_OF_MODE[mode]
    }
    if copy_check:
        told = "Whether these are two different pictures; false if one repeats the other."
        fields["different_pictures"] = (bool, Field(description=told))
    fields["same_subject"] = (bool, Field(description="Whether both pictures show the same individual."))
    told = "How likely it is that both show the same individual, from 0 (certainly not) to 1 (certainly)."
    fields["score"] = (float, Field(ge=0, le=1, description=told))
    made: type[BaseModel] = create_model("Judgement", **fields)
    return made


@dataclass(frozen=True, kw_only=True)
class Opinion:
    """One vote.

    Attributes:
        order: of the pictures, as they were shown.
        texts: the answers of its turns, as they came.
        usage: what they took.
        error: why there is none; then the rest is as by default.
        same: whether the judge says that both show the same individual.
        copy: whether it says that one picture repeats the other.
        likely: how likely the same individual is, by the judge, in [0, 1].
        words: its comparison.
        model: who answered.
    """

    order: Order
    texts: tuple[str, ...] = ()
    usage: Usage = field(default_factory=Usage)
    error: AnswerError | None = None
    same: bool = False
    copy: bool = False
    likely: float = 0.0
    words: str = ""
    model: str = ""

    @property
    def score(self) -> float:
        """How good the pair is, in [0, 1]: a copy teaches nothing, however alike it is."""
        return 0.0 if self.copy else self.likely

    def accepts(self, threshold: float) -> bool:
        """Whether it is for keeping the pair."""
        return self.same and self.score >= threshold and not self.copy


def read(value: BaseModel, *, order: Order, texts: Sequence[str], usage: Usage, model: str) -> Opinion:
    """An answer of the form of `schema` as a vote."""
    given = value.model_dump()
    return Opinion(
        order=order,
        texts=tuple(texts),
        usage=usage,
        same=given["same_subject"],
        copy=not given.get("different_pictures", True),
        likely=given["score"],
        words=given.get("comparison", ""),
        model=model,
    )


def verdict(opinions: Sequence[Opinion], threshold: float) -> Verdict:
    """One verdict of all votes.

    The majority of an order's votes decides, at a tie their mean score against `threshold`. Where the two
    orders of the pictures disagree, the mean score of all decides. Votes that did not come must not be able
    to turn it: else the verdict has the status of what went wrong.
    """
    orders = list(dict.fromkeys(opinion.order for opinion in opinions))
    decided = {_decided([o for o in opinions if o.order == order], threshold) for order in orders}
    agree = len(decided) == 1
    came = [opinion for opinion in opinions if opinion.error is None]
    cost = sum((opinion.usage for opinion in opinions), Usage()).cost_usd
    outcome = None if None in decided else decided.pop() if agree else _by_mean(opinions, threshold)
    if outcome is None:
        errors = [o.error for o in opinions if o.error is not None]
        status, why = _missing(errors, len(came))
        return Verdict(
            status=status,
            reason=one_line(why, _REASON_CHARS),
            cost_usd=cost,
            raw=_raw(opinions),
            outage=status == "failed" and any(map(is_outage, errors)),
        )
    return Verdict(
        keep=outcome,
        score=round(_mean(came), _DECIMALS),
        reason=one_line(_reason(came, len(opinions), outcome, threshold, agree), _REASON_CHARS),
        cost_usd=cost,
        raw=_raw(opinions),
    )


def _decided(opinions: Sequence[Opinion], threshold: float) -> bool | None:
    """Whether the votes of one order are for the pair; None if those that are missing could turn it."""
    came = [opinion for opinion in opinions if opinion.error is None]
    missing = len(opinions) - len(came)
    accepting = sum(opinion.accepts(threshold) for opinion in came)
    lead = accepting - (len(came) - accepting)
    if abs(lead) > missing:
        return lead > 0
    return _mean(came) >= threshold if not missing else None


def _by_mean(opinions: Sequence[Opinion], threshold: float) -> bool | None:
    """Whether the mean score of all votes is for the pair; None if those that are missing could turn it."""
    known = sum(opinion.score for opinion in opinions if opinion.error is None)
    missing = sum(opinion.error is not None for opinion in opinions)
    worst, best = known / len(opinions), (known + missing) / len(opinions)
    return None if worst < threshold <= best else worst >= threshold


def _mean(opinions: Sequence[Opinion]) -> float:
    return sum(opinion.score for opinion in opinions) / len(opinions)


def _missing(errors: Sequence[AnswerError], num_came: int) -> tuple[Status, str]:
    """A status and a reason for votes that are missing; the one that may pass at another try comes first."""
    status = next(status for status in _NO_JUDGEMENT if any(error.status == status for error in errors))
    last = next(error for error in errors if error.status == status)
    if len(errors) + num_came == 1:
        return status, str(last)
    return status, f"{len(errors)} of {len(errors) + num_came} votes did not come, too many: {last}"


def _reason(came: Sequence[Opinion], asked: int, keep: bool, threshold: float, agree: bool) -> str:
    """The judge's words, after what they came to."""
    accepting = [opinion for opinion in came if opinion.accepts(threshold)]
    siding = accepting if keep else [o for o in came if not o.accepts(threshold)]
    spokesman = max(siding or came, key=lambda o: o.copy)
    if keep:
        head = "the same subject"
    elif spokesman.copy:
        head = "a copy"
    elif spokesman.same:
        head = f"not surely the same subject, wanted {threshold:g}"
    else:
        head = "not the same subject"
    if asked > 1:
        head += f" by {len(siding)} of {asked} votes"
    if len(came) < asked:
        head += f" ({asked - len(came)} did not come)"
    head += f", score {_mean(came):.2f}"
    if not agree:
        means = {order: _mean([o for o in came if o.order == order]) for order in get_args(Order)}
        head = (
            f"the orders disagree (score {means['given']:.2f} as given, {means['swapped']:.2f} swapped, "
            f"wanted {threshold:g}): {head}"
        )
    return f"{head}: {spokesman.words}" if spokesman.words else head


def _raw(opinions: Sequence[Opinion]) -> str:
    """All that was answered, as JSON; each text is cut to its share of the room."""
    share = _RAW_CHARS // max(1, sum(len(opinion.texts) + 1 for opinion in opinions))
    rows = []
    for opinion in opinions:
        row: dict[str, Any] = {"order": opinion.order, "answers": [text[:share] for text in opinion.texts]}
        if opinion.model:
            row["model"] = opinion.model
        if opinion.error is not None:
            row |= {"status": opinion.error.status, "error": str(opinion.error)[:share]}
        rows.append(row)
    return json.dumps(rows, ensure_ascii=False)
