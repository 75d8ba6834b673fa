"""What the harness runs: a table of metrics, each with batches and what an independent way gives.

Every file `*_cases.py` beside this one has a `CASES`, from a metric's registered name and anything after a
space to a `Case`. A registered metric without one, a stranger's say, is run on made-up pictures if the names
of its `update`'s arguments are known.
"""

import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchmetrics import Metric

from dsd import metrics

NAN = float("nan")


@dataclass(frozen=True, kw_only=True)
class Case:
    """A metric to be tested.

    Attributes:
        make: a new object.
        batches: the arguments of its updates.
        wanted: some of what it returns, found in another way.
        exact: whether its inputs keep their values in bfloat16.
    """

    make: Callable[[], Metric]
    batches: list[dict[str, Any]]
    wanted: dict[str, float] = field(default_factory=dict)
    exact: bool = True


def split(n: int, **columns: Any) -> list[dict[str, Any]]:
    """Columns in three batches of different sizes, one of which has a single item."""
    parts = (slice(0, 1), slice(1, n // 2), slice(n // 2, n))
    return [{name: values[part] for name, values in columns.items()} for part in parts]


def pictures(count: int, seed: int = 0, side: int = 24) -> list[Image.Image]:
    """Pictures of different sizes with structure at every scale."""
    rng = np.random.default_rng(seed)
    found = []
    for i in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (3, 3, 3), dtype=np.uint8))
        size = (side + i % 3, side + i % 2)
        smooth = np.asarray(coarse.resize(size, Image.Resampling.BICUBIC), dtype=np.int16)
        found.append(
            Image.fromarray((smooth + rng.integers(-20, 21, smooth.shape)).clip(0, 255).astype(np.uint8))
        )
    return found


def photo(seed: int = 0, side: int = 120) -> Image.Image:
    """Something with large and small structure that no mirror image or shift maps onto itself."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (7, 7, 3), dtype=np.uint8))
    return coarse.resize((side, side + 20), Image.Resampling.BICUBIC)


def noise(seed: int, n: int = 4, d: int = 5) -> torch.Tensor:
    """Rows of numbers."""
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(n, d)))


GIVEN: dict[str, Callable[[], list[Any]]] = {
    "generated": lambda: pictures(8, 1),
    "reference": lambda: pictures(8, 2),
    "truth": lambda: pictures(8, 3),
    "prompts": lambda: [f"prompt {i}" for i in range(8)],
    "values": lambda: [i / 8 for i in range(8)],
}
"""What a metric without a case is given, by the names of the arguments that its `update` needs."""


def stranger(name: str) -> Case | None:
    """A case for a stranger's metric, without another way to compare with."""
    cls = metrics.get(name)
    if cls.__module__.startswith("dsd."):
        return None
    needed = [
        p.name
        for p in list(inspect.signature(cls.update).parameters.values())[1:]
        if p.default is p.empty and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
    ]
    if not set(needed) <= set(GIVEN):
        return None
    columns = {argument: GIVEN[argument]() for argument in needed}
    return Case(make=lambda: metrics.create(name), batches=split(8, **columns))


def all_cases() -> dict[str, Case]:
    """Every case of every table, and one for each metric of strangers."""
    found: dict[str, Case] = {}
    for file in sorted(Path(__file__).parent.glob("*_cases.py")):
        table = importlib.import_module(f"tests.metrics.{file.stem}").CASES
        if both := set(table) & set(found):
            raise ValueError(f"Two tables have the case {min(both)!r}.")
        found.update(table)
    covered = {name.partition(" ")[0] for name in found}
    others = {name: stranger(name) for name in metrics.names() if name not in covered}
    return {**found, **{name: case for name, case in others.items() if case is not None}}
