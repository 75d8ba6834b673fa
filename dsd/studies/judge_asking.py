"""Judges under study: what each is called, and what each said of every item, kept as it comes."""

import logging
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from dsd import judges as families
from dsd.data.rows import Row, TableKind, schema
from dsd.data.table import Table
from dsd.data.writer import TableWriter
from dsd.engines import progress_bar
from dsd.judges import Case, Judge, Rating
from dsd.llm.records import Stopped
from dsd.studies.entries import Named, members
from dsd.studies.judge_ratings import RatedItems

logger = logging.getLogger(__name__)
JudgesLike = str | Sequence[str | Mapping[str, Any] | Judge] | Mapping[str, Any]

_FLUSH_S = 15.0
_FIELDS = ("key", "rubric", "judge", "run", "value", "status", "reason", "raw", "cost_usd")


@dataclass(frozen=True, kw_only=True)
class JudgeEntry(Named):
    """A judge under study: `Named`, with the object.

    Attributes:
        judge: the object.
        range: the scores that stand for the ends of the people's scale; None where no scale is known.
        higher_is_better: whether a high score is to stand for a high rating.
        repeats: whether it may say something else when it is asked again.
    """

    judge: Judge
    range: tuple[float, float] | None
    higher_is_better: bool = True
    repeats: bool = True


@dataclass(frozen=True, kw_only=True)
class TimedRating:
    """A rating, and its share of the seconds that its batch took."""

    rating: Rating
    seconds: float


def judge_entries(judges: JudgesLike) -> list[JudgeEntry]:
    """The judges that are asked for, as `dsd.studies.entries.members`.

    Raises:
        ValueError: if there is none, or two have one name.
        LookupError, TypeError: if a spec stands for no judge.
    """
    return [
        JudgeEntry(
            judge=judge,
            name=named.name,
            spec=named.spec,
            made_here=named.made_here,
            range=(judge.low, judge.high),
        )
        for named, judge in members(families.registry, judges, Judge)
    ]


def ratings_of(folder: Path, entry: JudgeEntry) -> Table[TimedRating]:
    """What a judge said so far."""
    return Table(folder / "ratings" / entry.file, _kind(entry.file))


def ask_missing(
    folder: Path,
    entry: JudgeEntry,
    items: RatedItems,
    *,
    runs: int | None = None,
    batch_size: int = 16,
    retry_failed: bool = False,
    progress: bool = True,
) -> dict[str, list[TimedRating]]:
    """Let a judge rate the items that it has not rated so often, and return all that it said, by item.

    The caller holds the lock of the folder. Stopped at any moment, what was written stays, and no rating of
    more than the last 15 seconds and the running batch is lost. A judge that was built for this call is
    closed at its end.

    Args:
        folder: of the study.
        entry: the judge.
        items: all items, with their pictures.
        runs: how often each is to be rated; as often as the judge says by default, and where it does not
            repeat.
        batch_size: how many items it is given at once.
        retry_failed: ask again for ratings that are "failed".
        progress: show a progress bar on stderr.

    Returns:
        without the raw answers, which stay in the folder.

    Raises:
        ValueError: if the items have no pictures, or the judge gives other ratings than it was asked for.
        Stopped: if the money or the time given to the judge is spent; what was rated is kept.
    """
    if items.load is None:
        raise ValueError(
            f"{entry.name} is to look at pictures, but the ratings name none. Say with `columns` where "
            "they are, such as {generated: image, reference: subject_image, prompt: prompt}."
        )
    table = ratings_of(folder, entry)
    runs = entry.judge.runs if runs is None or not entry.repeats else runs
    wanted = {_id(key, run) for key in items.keys for run in range(runs)}
    entry.judge.keep_answers(folder / "answers.sqlite")
    try:
        with TableWriter(table, {"judge": entry.spec}, {"items": items.digest}) as output:
            output.flush_s = _FLUSH_S
            if retry_failed:
                output.remove(lambda row: row["status"] == "failed")
            missing = wanted - set(table.ids())
            cases = iter(items.load({rating_id.rpartition("#")[0] for rating_id in missing}))
            with progress_bar(entry.name, len(wanted), progress, len(wanted) - len(missing)) as bar:
                while batch := list(islice(cases, batch_size)):
                    said, stop = _asked(entry.judge, batch, runs)
                    given = [x for x in said if _id(x.rating.key, x.rating.run) in missing]
                    output.add(given)
                    bar.update(len(given))
                    if stop is not None:
                        raise stop
            output.finish()
    finally:
        if entry.made_here:
            entry.judge.close()
    found: defaultdict[str, list[TimedRating]] = defaultdict(list)
    for x in table:
        if _id(x.rating.key, x.rating.run) in wanted:
            found[x.rating.key].append(replace(x, rating=replace(x.rating, raw="")))
    failed = sum(x.rating.status == "failed" for said in found.values() for x in said)
    if failed:
        logger.warning(
            "%s failed at %d of %d ratings; retry_failed tries again.", entry.name, failed, len(wanted)
        )
    return {key: found[key] for key in items.keys}


def _asked(judge: Judge, batch: Sequence[Case], runs: int) -> tuple[list[TimedRating], Stopped | None]:
    """The ratings of a batch, and what stopped the judge in the midst of it; a rating outside the judge's
    scale is a failure, and no number.
    """
    started = time.perf_counter()
    found = judge.rate_some(batch, runs)
    wanted = [(case.key, run) for case in batch for run in range(runs)]
    given = [
        wanted[i] if isinstance(x, Stopped) else (x.key, x.run) for i, x in enumerate(found[: len(wanted)])
    ]
    if len(found) != len(wanted) or given != wanted:
        raise ValueError(
            f"{type(judge).__name__} was asked for {runs} ratings of each of {len(batch)} items, and gave "
            f"others: {given[:3]}..."
        )
    seconds = (time.perf_counter() - started) / len(found)
    ratings = [x for x in found if isinstance(x, Rating)]
    timed = [TimedRating(rating=_checked(judge, rating), seconds=seconds) for rating in ratings]
    return timed, next((x for x in found if isinstance(x, Stopped)), None)


def _checked(judge: Judge, rating: Rating) -> Rating:
    if rating.value is None or judge.low <= rating.value <= judge.high:
        return rating
    reason = f"The rating {rating.value:g} is outside the scale from {judge.low:g} to {judge.high:g}."
    return replace(rating, value=None, status="failed", reason=reason)


def _id(key: str, run: int) -> str:
    return f"{key}#{run}"


def _rows(timed: Sequence[TimedRating]) -> list[Row]:
    return [
        {"rating_id": _id(x.rating.key, x.rating.run), "seconds": x.seconds}
        | {name: getattr(x.rating, name) for name in _FIELDS}
        for x in timed
    ]


def _record(row: Row) -> TimedRating:
    return TimedRating(rating=Rating(**{name: row[name] for name in _FIELDS}), seconds=row["seconds"])


def _kind(name: str) -> TableKind[TimedRating]:
    return TableKind(
        stage=f"ratings/{name}",
        schema=schema(
            rating_id=pa.string(),
            key=pa.string(),
            rubric=pa.string(),
            judge=pa.string(),
            run=pa.int64(),
            value=pa.float64(),
            status=pa.string(),
            reason=pa.string(),
            raw=pa.string(),
            cost_usd=pa.float64(),
            seconds=pa.float64(),
        ),
        id_column="rating_id",
        key_column="rating_id",
        made_by="dsd.studies.compare_judges(...)",
        to_rows=_rows,
        from_row=_record,
    )
