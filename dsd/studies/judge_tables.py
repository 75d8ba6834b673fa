"""The tables of the study of judges."""

from dsd.evaluation.page import percent
from dsd.studies.judge_results import ALL, JudgeResults
from dsd.studies.tables import (
    Column,
    Table,
    dollars,
    seconds,
    signed,
    three_decimals,
    two_decimals,
    with_minus,
)


def tables(results: JudgeResults) -> dict[str, Table]:
    """All tables by the name of their file; those without a row are left out."""
    beside = int(len(results.items.raters) > 1)
    found = {
        f"agreement_{number}" if number else "agreement": Table(
            title="Agreement with people" if part == ALL else f"Agreement with people: {part}",
            text=_about(results) if part == ALL else "",
            columns=_agreement_columns(results.judges[0].name),
            rows=results.agreement[part],
            num_beside=beside,
        )
        for number, part in enumerate(results.parts)
    }
    found["averages"] = Table(
        title="The groups' correlations, averaged",
        text=(
            "The mean over the groups on Fisher's scale: the hyperbolic tangent of the mean of their inverse "
            "hyperbolic tangents. Unlike the numbers over all items, it does not count that one group is "
            "better than another."
        ),
        columns=_AVERAGE_COLUMNS,
        rows=results.averages,
        num_beside=beside,
    )
    low, high = results.items.low, results.items.high
    found["by_score"] = Table(
        title="What people say where a judge says so much",
        text=(
            f"People's mean rating, from {low:g} to {high:g}, of the items that got a score, with its "
            "interval and the spread of the items. A judge that can be trusted has means that rise."
        ),
        columns=_BY_SCORE_COLUMNS,
        rows=results.by_score,
    )
    found["costs"] = Table(
        title="What became of the questions, and what each cost",
        text="Refused, unparsable and failed ratings are missing above, and none was put in their place.",
        columns=_COST_COLUMNS,
        rows=results.costs,
    )
    return {name: table for name, table in found.items() if table.rows}


def _about(results: JudgeResults) -> str:
    items = results.items
    raters = f"{len(items.raters)} people" if len(items.raters) > 1 else "one person"
    text = (
        f"{len(items.keys)} items, rated by {raters} from {items.low:g} to {items.high:g}. Pearson, Spearman "
        f"and Kendall (tau-b) are with the mean of the people's ratings. Alpha is Krippendorff's at the "
        f"level “{items.level}”, of the judge and each person, both on a scale from 0 to 1, on average. "
    )
    if len(items.raters) > 1:
        text += (
            "The last row is people among each other: alpha of all of them, and each one's correlation with "
            "the mean of the others, on average. "
        )
        pairs = results.agreement[ALL][-1]["alpha_of_pairs"]
        if pairs is not None:
            text += f"Alpha of two people alone, the measure of a judge's, is {pairs:.2f} on average. "
    return text + (
        f"Who is ahead in Spearman is taken on items that both scored. "
        f"Intervals are 95\N{NO-BREAK SPACE}%, over {results.num_clusters} {items.units}; bold is the best "
        "judge of the column."
    )


def _agreement_columns(first: str) -> list[Column]:
    return [
        Column(key="judge", title="Judge"),
        Column(key="items", title="Items", note="with a score"),
        Column(key="missing", title="Missing", show=percent),
        Column(key="alpha", title="Alpha", note="Krippendorff's", show=with_minus, best="max"),
        Column(key="spearman", title="Spearman", show=with_minus, best="max"),
        Column(key="pearson", title="Pearson", show=with_minus, best="max"),
        Column(key="kendall", title="Kendall", show=with_minus, best="max"),
        Column(key="ahead", title=f"Ahead of {first}", note="in Spearman", show=signed),
    ]


def _three(value: float) -> str:
    return three_decimals(value).replace("-", "\N{MINUS SIGN}")


_AVERAGE_COLUMNS = [
    Column(key="judge", title="Judge"),
    Column(key="groups", title="Groups"),
    Column(key="spearman", title="Spearman", show=_three, best="max"),
    Column(key="pearson", title="Pearson", show=_three, best="max"),
    Column(key="kendall", title="Kendall", show=_three, best="max"),
]
_BY_SCORE_COLUMNS = [
    Column(key="judge", title="Judge"),
    Column(key="score", title="Score"),
    Column(key="items", title="Items"),
    Column(key="people", title="People", note="mean rating", show=two_decimals),
    Column(key="spread", title="Spread", note="standard deviation", show=two_decimals),
]
_COST_COLUMNS = [
    Column(key="judge", title="Judge"),
    Column(key="rated", title="Rated"),
    Column(key="refused", title="Refused"),
    Column(key="unparsable", title="Unparsable"),
    Column(key="failed", title="Failed"),
    Column(
        key="cost_a_rating", title="Dollars a rating", note="mean of the known ones", show=dollars, best="min"
    ),
    Column(key="cost_usd", title="Dollars", note="together", show=dollars),
    Column(key="seconds_a_rating", title="Time a rating", note="mean", show=seconds, best="min"),
]
