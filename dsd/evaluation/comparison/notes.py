"""What a reader must know before the figures."""

import math

from dsd.evaluation.comparison.result import Comparison, MethodResult

MOST_MISSING = 0.01
"""Above this share of missing values, the report says so on top."""


def notes(comparison: Comparison) -> list[str]:
    """Warnings, the gravest first: unfinished, missing values, cut prompts, a sample instead of all."""
    found = []
    if comparison.stopped:
        found.append(f"Unfinished: {comparison.stopped}")
    for method in comparison.methods:
        found += _missing(comparison, method)
    for method in comparison.methods:
        if method.cut_prompts:
            found.append(
                f"{method.label}: {method.cut_prompts} prompts are longer than it reads; their ends "
                "were not seen."
            )
    whole = comparison.cases_in_all
    cases = len({job.case.key for job in comparison.jobs})
    if cases < whole:
        found.append(
            f"A sample: {cases} of {whole} cases, chosen by chance. Do not compare with whole tables."
        )
    subjects = len({job.case.subject for job in comparison.jobs})
    if subjects < 2:
        found.append("One subject only: there are no intervals.")
    return found


def _missing(comparison: Comparison, method: MethodResult) -> list[str]:
    found = []
    count = len(comparison.jobs)
    without = {status: n for status, n in method.statuses.items() if status != "drawn"}
    if sum(without.values()) > MOST_MISSING * count:
        told = ", ".join(f"{n} {status}" for status, n in sorted(without.items()))
        found.append(
            f"{method.label}: {_share(sum(without.values()), count)} of the pictures are missing ({told})."
        )
    drawn = count - sum(without.values())
    for column in comparison.columns:
        values = method.values.get(column.name)
        if values is None or column.name in method.ratings:
            continue
        lost = sum(map(math.isnan, values.tolist())) - (count - drawn)
        if lost > MOST_MISSING * count:
            found.append(
                f"{method.label}: {column.title} has no value for {_share(lost, count)} of the pictures."
            )
    for name, facts in method.ratings.items():
        asked = facts["ratings"] - (count - drawn) * comparison.column(name).runs
        lost = asked - facts["rated"]
        if asked and lost > MOST_MISSING * asked:
            kinds = ", ".join(
                f"{facts[kind]} {kind.replace('_', ' ')}"
                for kind in ("refused", "unparsable", "failed", "not_asked")
                if facts[kind]
            )
            found.append(
                f"{method.label}: {_share(lost, asked)} of the ratings by {comparison.column(name).title} "
                f"are missing ({kinds}). They are left out, never guessed."
            )
    return found


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %"
