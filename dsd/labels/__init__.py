"""Labels of one's own: people say of pairs whether both pictures show the same subject, one press a pair.

`serve` shows the pairs on a page of this machine; `read`, `agreement`, `majority` and `export` are for what
they said.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dsd.labels.choice import choose_pairs
    from dsd.labels.consensus import Agreement, agreement, agreement_by_two, export, majority
    from dsd.labels.server import serve
    from dsd.labels.store import LABELS, Label, LabelFile, read

__all__ = [
    "LABELS",
    "Agreement",
    "Label",
    "LabelFile",
    "agreement",
    "agreement_by_two",
    "choose_pairs",
    "export",
    "majority",
    "read",
    "serve",
]

_MODULE_OF_NAME = {
    "LABELS": "dsd.labels.store",
    "Agreement": "dsd.labels.consensus",
    "Label": "dsd.labels.store",
    "LabelFile": "dsd.labels.store",
    "agreement": "dsd.labels.consensus",
    "agreement_by_two": "dsd.labels.consensus",
    "choose_pairs": "dsd.labels.choice",
    "export": "dsd.labels.consensus",
    "majority": "dsd.labels.consensus",
    "read": "dsd.labels.store",
    "serve": "dsd.labels.server",
}


def __getattr__(name: str) -> object:
    if name in _MODULE_OF_NAME:
        return getattr(importlib.import_module(_MODULE_OF_NAME[name]), name)
    raise AttributeError(f"module 'dsd.labels' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
