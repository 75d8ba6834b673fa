"""Evaluation: what students are judged by, and the reports that show it.

`small_world` judges a student of the embedded model on characters that nothing was trained on; `report`
writes pages.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dsd.evaluation.bootstrap import Interval
    from dsd.evaluation.curation import Consistency, consistency
    from dsd.evaluation.page import Section, write_page
    from dsd.evaluation.report import report_run
    from dsd.evaluation.sheet import answers_sheet, write_answers
    from dsd.evaluation.small_world import Evaluation, HeldOut, MethodScores, evaluate_methods, held_out

__all__ = [
    "Consistency",
    "Evaluation",
    "HeldOut",
    "Interval",
    "MethodScores",
    "Section",
    "answers_sheet",
    "consistency",
    "evaluate_methods",
    "held_out",
    "report_run",
    "write_answers",
    "write_page",
]

_MODULE_OF_NAME = {
    "Consistency": "curation",
    "Evaluation": "small_world",
    "HeldOut": "small_world",
    "Interval": "bootstrap",
    "MethodScores": "small_world",
    "Section": "page",
    "answers_sheet": "sheet",
    "consistency": "curation",
    "evaluate_methods": "small_world",
    "held_out": "small_world",
    "report_run": "report",
    "write_answers": "sheet",
    "write_page": "page",
}


def __getattr__(name: str) -> object:
    if name in _MODULE_OF_NAME:
        return getattr(importlib.import_module(f"dsd.evaluation.{_MODULE_OF_NAME[name]}"), name)
    raise AttributeError(f"module 'dsd.evaluation' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
