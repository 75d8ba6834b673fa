"""The sections of reports: what each shows, taken from runs and results. `page` puts them together."""

import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from dsd import prompts
from dsd.data.manifest import versions
from dsd.data.rows import Judged
from dsd.data.store import Run
from dsd.data.table import Table
from dsd.evaluation import plots
from dsd.evaluation.curation import Consistency
from dsd.evaluation.page import Section, percent
from dsd.evaluation.small_world import Answers, Evaluation, HeldOut
from dsd.llm.ledger import dollars
from dsd.types import STATUSES, Pair, Verdict

_NAMES = {
    "prompts": "Prompts",
    "grids": "Grids",
    "pairs": "Pairs",
    "verdicts": "Verdicts",
    "captions": "Captions",
    "encoded": "Encodings",
}
_MEASURED = 10_000  # prompts, so that a page is made in seconds
METHOD_NAMES = {
    "student": ("Student", "one reference picture and the caption"),
    "text_only": ("Teacher, text alone", "the caption, without the reference"),
    "copy": ("Copy", "the reference itself, unchanged"),
    "untrained": ("Untrained student", "the same network before its first step"),
    "ceiling": ("True picture", "the character itself, drawn in the scene"),
}


def hero(case: HeldOut, answers: Sequence[Any], text: str = "") -> Section:
    """One reference and what became of it, large; `text` tells above it what the page is about."""
    return Section(template="hero", text=text, data={"case": case, "answers": answers})


def tiles(items: Sequence[tuple[str, str, str]]) -> Section:
    """Numbers to see first, as (value, what it is, a remark)."""
    return Section(template="tiles", data={"tiles": items})


def flow(steps: Sequence[tuple[str, int, str]]) -> Section:
    """The way from prompts to pictures in one line, as (name, count, a remark)."""
    return Section(template="flow", data={"steps": steps})


def run_steps(run: Run) -> list[tuple[str, int, str]]:
    """The stages of a run for `flow`."""
    steps = [
        (name, len(run.table(name)), _remark(run, name))
        for name in run.stages()
        if name in ("prompts", "grids", "pairs")
    ]
    for name in run.curators():
        steps.append(
            ("kept", sum(judged.verdict.accepted for judged in _light(run, name).values()), f"by {name}")
        )
    return steps


def _remark(run: Run, stage: str) -> str:
    failed = run.failed(stage)
    return f"{len(failed)} failed" if failed.exists else ""


def of_run(run: Run, *, samples: int = 12, search: int = 0, seed: int = 0) -> list[Section]:
    """What a run's data looks like: grids, and the pairs that each curator kept and dropped."""
    found = [written(run)] if "prompts" in run.stages() and len(run.prompts) else []
    if "grids" in run.stages():
        found.append(grids(run, samples=samples, seed=seed))
    if "pairs" in run.stages():
        found += [pairs(run, name, samples=samples, search=search, seed=seed) for name in run.curators()]
    return found


def written(run: Run) -> Section:
    """How diverse a run's prompts are."""
    measured = prompts.diversity(islice(run.prompts, _MEASURED))
    told = [*measured.rows(), *(("such as", " / ".join(example)) for example in measured.examples)]
    rows = [[{"text": text, "best": False} for text in row] for row in told]
    first = f"the first {_MEASURED:,} of {len(run.prompts):,}" if len(run.prompts) > _MEASURED else "all"
    return Section(
        template="table",
        title="What was asked for",
        text=f"How diverse the prompts are, measured on {first}.",
        data={"heads": [("measure", ""), ("value", "")], "rows": rows},
    )


def grids(run: Run, *, samples: int = 12, seed: int = 0) -> Section:
    """Some of a run's grids with their prompts, picked by chance."""
    picked = _pick(run.grids.ids(), samples, seed)
    shown = [grid for _, grid in run.grids.items(picked)]
    return Section(
        template="grids",
        title="What the teacher drew",
        text=f"{len(shown)} of {len(run.grids)} grids, picked by chance, with their prompts.",
        data={"grids": shown},
    )


def pairs(
    run: Run,
    curator: str,
    *,
    samples: int = 12,
    search: int = 0,
    seed: int = 0,
    measured: Consistency | None = None,
) -> Section:
    """Some pairs that a curator kept, dropped and could not judge, with its words, and what measurement says
    of its work. With `search`, so many more of each kind are in the page, and can be searched there.
    """
    judged = _light(run, curator)
    statuses: Counter[str] = Counter(j.verdict.status for j in judged.values())
    groups = []
    for name, wanted in {"Kept": ("accepted",), "Dropped": ("rejected",), "Not judged": STATUSES[2:]}.items():
        ids = [i for i, j in judged.items() if j.verdict.status in wanted]
        first = _pick(ids, samples, seed)
        more = _pick([i for i in ids if i not in set(first)], search, seed)
        if ids or name != "Not judged":
            groups.append((name, len(ids), _shown(run, curator, first), _shown(run, curator, more)))
    kept, dropped = (
        [
            score
            for j in judged.values()
            if j.verdict.status == status and (score := j.verdict.score) is not None
        ]
        for status in STATUSES[:2]
    )
    return Section(
        template="pairs",
        title=f"What the curator “{curator}” kept and dropped",
        text="Picked by chance. Dropped pairs stay in the run, with the reason beside them.",
        script="search" if search else "",
        data={
            "groups": groups,
            "statuses": {status: statuses[status] for status in STATUSES if statuses[status]},
            "bill": _bill(run, curator, statuses, [j.verdict.cost_usd for j in judged.values()]),
            "histogram": plots.histogram(kept, dropped, x_label="the curator's score"),
            "measured": measured,
        },
    )


def loss_curve(steps: Sequence[int], losses: Sequence[float], text: str) -> Section:
    """How the loss fell."""
    return Section(
        template="curve", title="How it learned", text=text, data={"curve": plots.curve(steps, losses)}
    )


def methods(
    result: Evaluation, cases: Sequence[HeldOut], answers: Mapping[str, Answers], beside: int = 2
) -> Section:
    """The methods' scores with their intervals, and pictures of all of them for the first cases."""
    names = {name: METHOD_NAMES.get(name, (name, "")) for name in result.methods}
    drawn = {
        **answers,
        "copy": [[c.reference] * len(c.scenes) for c in cases],
        "ceiling": [c.truths for c in cases],
    }
    return Section(
        template="methods",
        title="Beside what it must be compared with",
        text=(
            "Every method answers the same captions. Identity is likeness to the reference; a copy has all "
            "of it and shows the wrong scene, so no column counts alone. "
            "Thin lines: 95\N{NO-BREAK SPACE}% intervals."
        ),
        data={
            "methods": result.methods,
            "names": names,
            "beside": list(enumerate(cases[:beside])),
            "answers": drawn,
        },
    )


def gallery(cases: Sequence[HeldOut], answers: Answers, result: Evaluation, shown: int = 24) -> Section:
    """Every held-out reference beside the student's answers."""
    pictures = result.methods["student"].pictures
    rows = [
        {"case": case, "answers": drawn, "identity": alike, "scene": there}
        for case, drawn, alike, there in zip(
            cases, answers, pictures["identity"], pictures["scene"], strict=True
        )
    ]
    return Section(
        template="gallery",
        title="Characters it had never seen",
        text=(
            "Framed: the one picture that the student was given. Beside it: its answers to four captions, as "
            "they came, with the measured likeness to the reference, and whether the scene is as asked."
        ),
        data={"rows": rows[:shown], "more": rows[shown:]},
    )


def making(stages: Sequence[Mapping[str, Any]], settings: Mapping[str, Any] | None = None) -> Section:
    """How it was made: the spec of every stage, how long each took, versions, and further settings."""
    return Section(
        template="making",
        title="How it was made",
        text="Each stage can be stopped, resumed and run again alone; its manifest holds what stands here.",
        data={"stages": stages, "versions": versions(), "settings": settings or {}},
    )


def stage_rows(run: Run) -> list[dict[str, Any]]:
    """A run's stages for `making`."""
    found = run.manifest()["stages"]
    return [
        {
            "name": _name(stage),
            "rows": summary["rows"],
            "seconds": summary["seconds"],
            "spec": summary["spec"],
            "counts": {key: value for key, value in summary["counts"].items() if value},
        }
        for stage, summary in found.items()
        if not stage.startswith("failed/")
    ]


def _name(stage: str) -> str:
    family, _, name = stage.partition("/")
    label = _NAMES.get(family, family.capitalize())
    return f"{label}: {name}" if name else label


def _light(run: Run, curator: str) -> dict[str, Judged]:
    """The verdicts by pair id, without words: of millions of pairs they would not fit into memory."""
    table: Table[Judged] = run.verdicts(curator)
    columns = table.columns("pair_id", "status", "score", "cost_usd")
    return {
        row["pair_id"]: Judged(
            pair_id=row["pair_id"],
            verdict=Verdict(status=row["status"], score=row["score"], cost_usd=row["cost_usd"]),
        )
        for row in _rows(columns)
    }


def _rows(table: Any) -> Iterator[dict[str, Any]]:
    for batch in table.to_batches():
        yield from batch.to_pylist()


def _shown(run: Run, curator: str, ids: Sequence[str]) -> list[tuple[Pair, Verdict]]:
    found, judged = dict(run.pairs.items(ids)), dict(run.verdicts(curator).items(ids))
    return [(found[i], judged[i].verdict) for i in ids if i in found]


def _bill(run: Run, curator: str, statuses: Mapping[str, int], costs: Sequence[float | None]) -> list[Any]:
    """What came of a curator's work and what it cost, as (name, value)."""
    accepted, rejected = statuses.get("accepted", 0), statuses.get("rejected", 0)
    told = [("yield", percent(accepted / (accepted + rejected)))] if accepted + rejected else []
    known = [cost for cost in costs if cost is not None]
    if known:
        rest = "" if len(known) == len(costs) else f", known of {len(known)} of {len(costs)} verdicts"
        told.append(("cost", dollars(sum(known)) + rest))
    elif "cost_usd" in run.verdicts(curator).manifest.counts:
        told.append(("cost", "unknown"))
    return told


def _pick(ids: Sequence[str], count: int, seed: int) -> list[str]:
    """Some of them by chance, in their order."""
    chosen = set(random.Random(seed).sample(sorted(ids), min(count, len(ids))))
    return [i for i in ids if i in chosen]
