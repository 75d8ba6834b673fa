"""What a training takes before it is paid for: `dsd plan`.

Counted on the real configuration without weights: memory of a step by part and by moment, floating-point
operations, rows on disk. Stated, each by an argument: rates and prices of devices and judges, and how much of
the candidates curation keeps.
"""

import importlib
from typing import TYPE_CHECKING

from dsd.planning.records import Data, Disk, Memory, Moment, Plan, Training

if TYPE_CHECKING:
    from dsd.planning.planner import plan
    from dsd.planning.report import write

__all__ = ["Data", "Disk", "Memory", "Moment", "Plan", "Training", "plan", "write"]

_MODULE_OF_NAME = {"plan": "dsd.planning.planner", "write": "dsd.planning.report"}


def __getattr__(name: str) -> object:
    if name in _MODULE_OF_NAME:
        return getattr(importlib.import_module(_MODULE_OF_NAME[name]), name)
    raise AttributeError(f"module 'dsd.planning' has no attribute {name!r}")
