"""Studies: each is a question, answered by cells that are run one by one, a table and plots.

`compare_architectures` trains one student for each way of conditioning and seed, on the same pairs, and asks
which keeps a character best. `compare_curators` lets any curators judge labelled pairs, and asks how well
they decide. `compare_judges` puts judges' and metrics' scores beside people's ratings, and asks how far they
agree. `compare_extractors` asks which network tells subjects apart.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dsd.studies.architectures import compare_architectures
    from dsd.studies.curators import compare_curators
    from dsd.studies.curators_pairs import Label, LabelledPairs
    from dsd.studies.folder import Cell, StudyFolder
    from dsd.studies.identity import compare_extractors
    from dsd.studies.judge import compare_judges
    from dsd.studies.judge_ratings import RatedItems, Scores
    from dsd.studies.tables import Column, Table

__all__ = [
    "Cell",
    "Column",
    "Label",
    "LabelledPairs",
    "RatedItems",
    "Scores",
    "StudyFolder",
    "Table",
    "compare_architectures",
    "compare_curators",
    "compare_extractors",
    "compare_judges",
]

_MODULE_OF_NAME = {
    "Cell": "folder",
    "Column": "tables",
    "Label": "curators_pairs",
    "LabelledPairs": "curators_pairs",
    "RatedItems": "judge_ratings",
    "Scores": "judge_ratings",
    "StudyFolder": "folder",
    "Table": "tables",
    "compare_architectures": "architectures",
    "compare_curators": "curators",
    "compare_extractors": "identity",
    "compare_judges": "judge",
}


def __getattr__(name: str) -> object:
    if name in _MODULE_OF_NAME:
        return getattr(importlib.import_module(f"dsd.studies.{_MODULE_OF_NAME[name]}"), name)
    raise AttributeError(f"module 'dsd.studies' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
