"""The whole loop on one computer in a few minutes: `dsd quickstart`.

Prompts, grids, pairs, a curator, encodings, training and evaluation, all through the public stages, in the
folder of one run that also gets `student/`, `report.html` and `report.json`. Stopped at any moment, it goes
on where it was.
"""

import math
from os import PathLike
from pathlib import Path
from typing import Any

from dsd.quickstart.recipe import Recipe

__all__ = ["Recipe", "quickstart"]


def quickstart(
    out: str | PathLike[str], minutes: float = 12.0, seed: int = 0, recipe: Recipe | None = None
) -> dict[str, Any]:
    """Run it all and write the report; called again for the same folder, it goes on.

    Counts depend on `minutes` alone; training gets the time that the other stages leave, as measured on this
    machine. A script that calls this needs the usual `if __name__ == "__main__":`, because pictures are
    measured by processes that are started afresh.

    Args:
        out: the folder, which becomes a run.
        minutes: how long everything is to take.
        seed: of everything.
        recipe: the numbers; the default ones suit the embedded model on two cores.

    Returns:
        what `report.json` holds.

    Raises:
        ValueError: if the folder was begun with other arguments, `minutes` is not above 0, or the curator
            keeps fewer pairs than a batch.
        FileNotFoundError: when the package was installed without its weights.
        LockedError: if another quickstart goes on in the folder, or another process writes to the run.
        RuntimeError: if the loss is not finite.
    """
    if not (minutes > 0 and math.isfinite(minutes)):
        raise ValueError(f"`minutes` must be above 0; got {minutes}.")
    from dsd.quickstart.loop import Loop

    return Loop(Path(out).expanduser(), minutes, seed, recipe or Recipe()).run_all()
