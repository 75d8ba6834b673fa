"""The pages of a comparison: HTML, Markdown, JSON, and a table of all pictures' numbers."""

import csv
import io
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from dsd.data.atomic import replace_file
from dsd.data.manifest import versions
from dsd.evaluation.comparison import sections
from dsd.evaluation.comparison.markdown import markdown
from dsd.evaluation.comparison.notes import notes
from dsd.evaluation.comparison.result import Comparison
from dsd.evaluation.comparison.standings import gap, standings
from dsd.evaluation.page import write_json, write_page
from dsd.texts import csv_cell


def write_comparison(comparison: Comparison, out: str | PathLike[str], shown: int = 4) -> Path:
    """Write `evaluation.html`, `evaluation.md`, `evaluation.json` and `pictures.csv`.

    Args:
        comparison: from `compare`.
        out: the folder.
        shown: how many of the best and of the worst cases of each method are shown with pictures.

    Returns:
        the HTML page.

    Raises:
        OSError: explained, if the folder cannot be written.
    """
    folder = Path(out).expanduser()
    write_json(folder / "evaluation.json", facts(comparison))
    replace_file(folder / "evaluation.md", markdown(comparison).encode())
    replace_file(folder / "pictures.csv", _table(comparison).encode())
    parts = [
        sections.notes_section(comparison),
        sections.leaderboard(comparison),
        *sections.published_tables(comparison),
        *sections.plot(comparison),
        *sections.groups(comparison),
        sections.side_by_side(comparison),
        *sections.extremes(comparison, shown),
        sections.provenance(comparison),
    ]
    title = f"{comparison.benchmark.title}: {len(comparison.methods)} methods"
    return write_page(
        folder / "evaluation.html", title, [x for x in parts if x is not None], comparison.benchmark.source
    )


def facts(comparison: Comparison) -> dict[str, Any]:
    """All figures, and what each is of, fit for JSON."""
    return {
        "benchmark": comparison.benchmark.title,
        "source": comparison.benchmark.source,
        "settings": comparison.settings,
        "notes": notes(comparison),
        "pictures": len(comparison.jobs),
        "subjects": len({job.case.subject for job in comparison.jobs}),
        "cases_in_all": comparison.cases_in_all,
        "ranked_by": comparison.ranked_by,
        "preservation": comparison.preservation,
        "following": comparison.following,
        "columns": {
            x.name: {
                "title": x.title,
                "role": x.role,
                "higher_is_better": x.higher_is_better,
                "runs": x.runs,
                **x.about,
            }
            for x in comparison.columns
        },
        "methods": {
            method.label: {
                "rank": rank,
                "about": method.about,
                "models": list(method.models),
                "spec": method.spec,
                "pictures": method.statuses,
                "seconds_per_image": method.seconds_per_image,
                "tuning_s_per_subject": method.tuning_s_per_subject,
                "cost_usd": method.cost_usd,
                "cut_prompts": method.cut_prompts,
                "figures": {x.name: method.figures[x.name].to_json() for x in comparison.columns},
                "ratings": method.ratings,
            }
            for rank, method in enumerate(comparison.methods, 1)
        },
        "published": {name: [row.to_json() for row in rows] for name, rows in standings(comparison).items()},
        **gap(comparison),
        "versions": versions(),
    }


def _table(comparison: Comparison) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    names = [x.name for x in comparison.columns if x.name in comparison.methods[0].values]
    writer.writerow(["method", "key", "subject", "category", "kind", "status", "seconds", "cost_usd", *names])
    for method in comparison.methods:
        for number, job in enumerate(comparison.jobs):
            drawn = method.album.drawn(job)
            found = [method.values[name][number] for name in names]
            about = [job.key, job.case.subject, job.case.category, job.case.kind]
            writer.writerow(
                [csv_cell(x) for x in (method.label, *about)]
                + [drawn.status, drawn.seconds, drawn.cost_usd]
                + ["" if np.isnan(x) else repr(float(x)) for x in found]
            )
    return buffer.getvalue()
