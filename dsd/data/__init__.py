"""Runs on disk: every stage's rows, cached encodings, and the data module that training reads."""

import importlib

__all__ = ["EncodedPairs", "PairDataModule", "Policy", "Run", "Table"]

_MODULE_OF_NAME = {
    "EncodedPairs": "dsd.data.encoded",
    "PairDataModule": "dsd.data.datamodule",
    "Policy": "dsd.data.policy",
    "Run": "dsd.data.store",
    "Table": "dsd.data.table",
}


def __getattr__(name: str) -> object:
    if name in _MODULE_OF_NAME:
        return getattr(importlib.import_module(_MODULE_OF_NAME[name]), name)
    raise AttributeError(f"module 'dsd.data' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
