"""The names of all plug-ins, and where they come from."""

import importlib
from typing import Literal, get_args

from dsd.registry import Registry

Family = Literal[
    "prompts", "teachers", "captioners", "curators", "backbones", "conditioning", "metrics", "judges",
    "benchmarks", "methods",
]  # fmt: skip


_PACKAGES = {"benchmarks": "dsd.evaluation.benchmarks", "methods": "dsd.evaluation.methods"}


def list_names(
    family: Literal[
        "prompts",
        "teachers",
        "captioners",
        "curators",
        "backbones",
        "conditioning",
        "metrics",
        "judges",
        "benchmarks",
        "methods",
    ]
    | None = None,
) -> str:
    """Show the names that specs can use, and the package and class behind each. Imports none of them.

    Args:
        family: one family of plug-ins; all of them by default.
    """
    blocks = []
    for name in get_args(Family) if family is None else (family,):
        registry: Registry[object] = importlib.import_module(_PACKAGES.get(name, f"dsd.{name}")).registry
        width = max(map(len, registry.names()), default=0)
        lines = [f"  {entry:{width}}  {' and '.join(registry.origins(entry))}" for entry in registry.names()]
        blocks.append("\n".join([name, *(lines or ["  (none)"])]))
    return "\n\n".join(blocks)
