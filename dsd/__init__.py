"""Diffusion Self-Distillation: a text-to-image model teaches itself to keep an identity.

A model draws grids of one subject, the grids become pairs, curators drop the inconsistent ones, and the same
model is trained on the rest into a text + image model (Cai et al., 2024, https://arxiv.org/abs/2411.18616).

The names below are loaded when they are first used, so that `import dsd` stays quick: it imports no torch.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dsd import (
        backbones,
        captioners,
        conditioning,
        curators,
        labels,
        metrics,
        mini,
        planning,
        prompts,
        teachers,
    )
    from dsd.captioning import caption_pairs
    from dsd.data.datamodule import PairDataModule
    from dsd.data.merge import merge
    from dsd.data.store import Run
    from dsd.enhance import enhance_prompt
    from dsd.pipeline import DSDPipeline
    from dsd.planning import plan
    from dsd.stages import curate, draw_grids, encode, make_pairs, write_prompts
    from dsd.student import Student
    from dsd.types import Grid, GridPrompt, Pair, Verdict

__version__ = "0.1.0"

__all__ = [
    "DSDPipeline",
    "Grid",
    "GridPrompt",
    "Pair",
    "PairDataModule",
    "Run",
    "Student",
    "Verdict",
    "__version__",
    "backbones",
    "caption_pairs",
    "captioners",
    "conditioning",
    "curate",
    "curators",
    "draw_grids",
    "encode",
    "enhance_prompt",
    "labels",
    "make_pairs",
    "merge",
    "metrics",
    "mini",
    "plan",
    "planning",
    "prompts",
    "teachers",
    "write_prompts",
]

_MODULE_OF_NAME = {
    "DSDPipeline": "dsd.pipeline",
    "Grid": "dsd.types",
    "GridPrompt": "dsd.types",
    "Pair": "dsd.types",
    "PairDataModule": "dsd.data.datamodule",
    "Run": "dsd.data.store",
    "Student": "dsd.student",
    "Verdict": "dsd.types",
    "caption_pairs": "dsd.captioning",
    "curate": "dsd.stages",
    "draw_grids": "dsd.stages",
    "encode": "dsd.stages",
    "enhance_prompt": "dsd.enhance",
    "make_pairs": "dsd.stages",
    "merge": "dsd.data.merge",
    "plan": "dsd.planning",
    "write_prompts": "dsd.stages",
}
_SUBPACKAGES = frozenset(
    {
        "backbones",
        "captioners",
        "conditioning",
        "curators",
        "labels",
        "metrics",
        "mini",
        "planning",
        "prompts",
        "teachers",
    }
)


def __getattr__(name: str) -> object:
    if name in _SUBPACKAGES:
        return importlib.import_module(f"dsd.{name}")
    if name in _MODULE_OF_NAME:
        return getattr(importlib.import_module(_MODULE_OF_NAME[name]), name)
    raise AttributeError(f"module 'dsd' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
