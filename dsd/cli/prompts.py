"""Writing prompts, and telling how diverse they are."""

import io
import json
from collections.abc import Mapping
from typing import Any


def prompts(
    run: str,
    writer: str | Mapping[str, Any] = "template",
    count: int = 500,
    seed: int = 0,
    *,
    engine: str | Mapping[str, Any] = "local",
    overwrite: bool = False,
    dry_run: bool = False,
    progress: bool = True,
) -> str:
    """Write grid prompts until the run has `count` of them; calling again with a higher count adds to them.

    How diverse they are is shown at the end, and kept in `prompts/diversity.json`.

    Args:
        run: the run's folder, which is created.
        writer: a prompt writer's name or its spec.
        count: how many prompts the run shall have.
        seed: of the writer's choices.
        engine: where the work is done: "local", "ray" or a spec.
        overwrite: discard the prompts there are.
        dry_run: ask nobody who is paid and write nothing; tell what the prompts would take in calls, tokens
            and dollars.
        progress: show a progress bar on stderr.

    Raises:
        ValueError: if `count` is below 1, or the writer does not have so many prompts.
    """
    from dsd.data.atomic import replace_file
    from dsd.data.store import Run
    from dsd.prompts.measure import diversity
    from dsd.stages import write_prompts

    folder = Run(run)
    summary = write_prompts(
        folder, writer, count, seed, engine=engine, overwrite=overwrite, dry_run=dry_run, progress=progress
    )
    if dry_run:
        return str(summary)
    measured = diversity(folder.prompts)
    content = json.dumps(measured.to_dict(), indent=1, ensure_ascii=False) + "\n"
    replace_file(folder.prompts.folder / "diversity.json", content.encode())
    return f"{summary}\n{_table(measured.rows(), measured.examples)}"


def _table(rows: list[tuple[str, str]], examples: Any) -> str:
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from dsd.texts import printable

    table = Table(box=box.SIMPLE_HEAD, show_header=False)
    for name, value in rows:
        table.add_row(name, escape(printable(value)))
    for subject, like in examples:
        table.add_row("such as", escape(printable(f"{subject} / {like}")))
    console = Console(file=io.StringIO(), width=100)
    console.print(table)
    assert isinstance(console.file, io.StringIO)
    return "\n".join(line.rstrip() for line in console.file.getvalue().strip("\n").splitlines())
