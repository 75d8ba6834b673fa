"""The tables of the study of curators."""

from dsd.evaluation.page import percent
from dsd.studies.curators_results import ALL, HARD, WANTED_PRECISION, Results
from dsd.studies.tables import (
    Column,
    Table,
    dollars,
    seconds,
    signed,
    three_decimals,
    three_digits,
    two_decimals,
    with_minus,
)

_PART_TITLES = {ALL: "Against all pairs", HARD: "Against the hard negatives alone"}


def tables(results: Results) -> dict[str, Table]:
    """All tables by the name of their file."""
    pairs = results.pairs
    first = results.verdicts[0].entry.name
    found = {
        f"scores_{part}": Table(
            title=_PART_TITLES[part],
            text=_about(results, part),
            columns=_score_columns(first),
            rows=results.scores[part],
        )
        for part in results.parts
    }
    found["groups"] = Table(
        title="What each accepts",
        text="Of the pairs of each kind that it accepted or rejected, the share that it accepted.",
        columns=[
            Column(key="curator", title="Curator"),
            *(
                Column(key=key, title=key.partition(": ")[2].capitalize(), show=percent)
                for key in results.groups[0]
                if key != "curator"
            ),
        ],
        rows=results.groups,
    )
    found["thresholds"] = Table(
        title="Where to set the limit",
        text=(
            "The lower limit on the score with the best F1, and the lowest one with a precision of "
            f"{percent(WANTED_PRECISION)} or more; all pairs. Both are picked on these very pairs, so expect "
            "a little less on others."
        ),
        columns=_THRESHOLD_COLUMNS,
        rows=results.thresholds,
    )
    found["costs"] = Table(
        title="What became of the pairs, and what each cost",
        text=(
            f"{len(pairs.labels)} pairs. Refused, unparsable and failed ones enter no number above. Seconds "
            "are those of judging, without loading a model; dollars are shown where the curator knows them."
        ),
        columns=_COST_COLUMNS,
        rows=results.costs,
    )
    return found


def _about(results: Results, part: str) -> str:
    labels, hard = results.pairs.labels, results.pairs.hard
    num_same = sum(label.same for label in labels)
    others = [x for x in labels if not x.same and (part == ALL or x.group == hard)]
    what = f"different ones of the group “{hard}”" if part == HARD else "different ones"
    text = (
        f"{num_same} pairs of the same subject, {len(others)} of {what}. Precision, recall, F1 and Cohen's "
        "kappa are of the curator's own decisions, AUROC of its score. "
    )
    return (
        text + f"Intervals are 95\N{NO-BREAK SPACE}%, over {_drawn(results)}; bold is the best of the column."
    )


def _drawn(results: Results) -> str:
    """What the bootstrap draws."""
    pairs, count = results.pairs, results.num_clusters
    kinds = {pairs.units if x.subjects else "pictures" if x.pictures else "pairs" for x in pairs.labels}
    return f"{count} {' and '.join(x for x in (pairs.units, 'pictures', 'pairs') if x in kinds)}"


def _score_columns(first: str) -> list[Column]:
    return [
        Column(key="curator", title="Curator"),
        Column(key="judged", title="Decided", note="pairs", show=str),
        Column(key="precision", title="Precision", show=two_decimals, best="max"),
        Column(key="recall", title="Recall", show=two_decimals, best="max"),
        Column(key="f1", title="F1", show=two_decimals, best="max"),
        Column(key="auroc", title="AUROC", note="of the score", show=three_decimals, best="max"),
        Column(key="kappa", title="Kappa", note="Cohen's", show=with_minus, best="max"),
        Column(key="ahead", title=f"Ahead of {first}", note="in AUROC, on shared pairs", show=signed),
    ]


_THRESHOLD_COLUMNS = [
    Column(key="curator", title="Curator"),
    Column(key="best_threshold", title="Best F1", note="at score", show=three_digits),
    Column(key="best_f1", title="F1", note="there", show=two_decimals, best="max"),
    Column(key="best_precision", title="Precision", note="there", show=two_decimals),
    Column(key="best_recall", title="Recall", note="there", show=two_decimals),
    Column(key="strict_threshold", title="Precise", note="at score", show=three_digits),
    Column(key="strict_recall", title="Recall", note="there", show=two_decimals, best="max"),
]
_COST_COLUMNS = [
    Column(key="curator", title="Curator"),
    Column(key="accepted", title="Accepted"),
    Column(key="rejected", title="Rejected"),
    Column(key="refused", title="Refused"),
    Column(key="unparsable", title="Unparsable"),
    Column(key="failed", title="Failed"),
    Column(key="scored", title="With a score"),
    Column(
        key="cost_a_pair", title="Dollars a pair", note="mean of the known ones", show=dollars, best="min"
    ),
    Column(key="cost_usd", title="Dollars", note="together", show=dollars),
    Column(key="seconds_a_pair", title="Time a pair", note="mean", show=seconds, best="min"),
]
