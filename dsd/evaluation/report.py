"""The report of a run's data, for any run. Its parts are in `sections`, and `page` makes HTML of them."""

import json
from os import PathLike

from dsd.data.storage import Location, location
from dsd.data.store import Run
from dsd.evaluation import sections
from dsd.evaluation.page import Section, write_json, write_page

__all__ = ["Section", "report_run", "write_json", "write_page"]


def report_run(
    run: Run | str | PathLike[str],
    folder: str | PathLike[str] | None = None,
    *,
    samples: int = 12,
    search: int = 200,
) -> Location:
    """Write the report of a run's data: its grids, and the pairs that each curator kept, dropped and could
    not judge, with its words, to be searched in the page.

    Args:
        run: the run, its folder or its URL; it may be unfinished.
        folder: where `report.html` and `report.json` go; by default the run's own.
        samples: how many grids, and kept, dropped and unjudged pairs of each curator to show.
        search: how many more pairs of each kind the page holds for its search.

    Returns:
        the page.

    Raises:
        FileNotFoundError: if there is no run.
        FileExistsError: if the folder holds a report of another kind, such as a quickstart's.
        ManifestError: if a shard of it is damaged.
    """
    run = run if isinstance(run, Run) else Run(run)
    if not run.stages():
        raise FileNotFoundError(
            f"There is no run in {run.path}. Check the path, or begin one with dsd.write_prompts(run)."
        )
    target = run.path if folder is None else location(folder)
    _check_free(target / "report.json")
    parts = [sections.flow(sections.run_steps(run)), *sections.of_run(run, samples=samples, search=search)]
    parts.append(sections.making(sections.stage_rows(run)))
    write_json(target / "report.json", run.manifest())
    return write_page(
        target / "report.html", run.path.resolve().name, parts, "What this run drew, kept and dropped"
    )


def _check_free(facts: Location) -> None:
    if facts.is_file() and "stages" not in json.loads(facts.read_text()):
        raise FileExistsError(
            f"{facts} belongs to a report of another kind, which is not replaced. Give another `folder`."
        )
