"""Pairs from and to the layouts of others: the released data set, Subjects200K, WebDataset, image folders."""

import importlib

__all__ = ["LAYOUTS", "Exported", "Imported", "export_pairs", "import_pairs", "write_card"]

LAYOUTS = ("release", "subjects200k", "webdataset", "imagefolder")
"""`release`: Parquet with the columns of primecai/dsd_data; `subjects200k`: Parquet of pictures side by side;
`webdataset`: tar archives; `imagefolder`: pictures and `metadata.jsonl`."""

_MODULE_OF_NAME = {
    "Exported": "dsd.exchange.exporting",
    "Imported": "dsd.exchange.importing",
    "export_pairs": "dsd.exchange.exporting",
    "import_pairs": "dsd.exchange.importing",
    "write_card": "dsd.exchange.card",
}


def __getattr__(name: str) -> object:
    if name in _MODULE_OF_NAME:
        return getattr(importlib.import_module(_MODULE_OF_NAME[name]), name)
    raise AttributeError(f"module 'dsd.exchange' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
