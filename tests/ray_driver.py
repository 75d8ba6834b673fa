"""A program that draws the grids of a run on Ray, and is killed while it does.

ray_driver.py RUN     joins the cluster of RAY_ADDRESS, or starts one of its own
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import dsd
from dsd.data.writer import TableWriter
from tests.cheap_world import write_prompt_file

COUNT = 12
FAULTS = {"003": "raise", "007": "black"}


def draw(path, engine, pause_s=0.0, faults=None, overwrite=False):
    """Prompts and grids."""
    run = dsd.Run(path)
    writer = write_prompt_file(path.parent / f"{path.name}.txt", COUNT)
    dsd.write_prompts(run, writer=writer, count=COUNT, progress=False)
    teacher = {"name": "cheap", "pause_s": pause_s, "faults": faults or FAULTS, "batch_size": 2}
    dsd.draw_grids(run, teacher=teacher, engine=engine, overwrite=overwrite, progress=False)
    return run


def work(path, engine):
    """A whole run."""
    run, options = draw(path, engine), {"engine": engine, "progress": False}
    dsd.make_pairs(run, **options)
    dsd.curate(run, curator="parity", batch_size=16, **options)
    return run


if __name__ == "__main__":
    TableWriter.shard_rows = 4
    draw(Path(sys.argv[1]), {"name": "ray", "workers": 2}, pause_s=0.3)
