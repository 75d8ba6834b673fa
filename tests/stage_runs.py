"""A run with prompts to begin with, and everything that a run holds."""

import dsd
from tests.cheap_world import write_prompt_file

QUIET = {"progress": False}


def prompted(folder):
    """A run of six prompts, from a file of twenty."""
    run = dsd.Run(folder / "run")
    dsd.write_prompts(run, writer=write_prompt_file(folder / "prompts.txt", 20), count=6, **QUIET)
    return run


def rows(run):
    """Everything a run holds, in order."""
    names = [stage for stage in run.stages() if not stage.startswith("failed")]
    tables = {name: run.table(name) for name in names}
    return {
        name: [row for shard in table.manifest.shards for row in table.whole(shard).to_pylist()]
        for name, table in tables.items()
    }
