"""Benchmarks: the cases that methods are compared on, all as the same records.

Write your own by deriving from `Benchmark` (one method, `load`) and give it a name with
`@benchmarks.register("name")`, or in your package's entry-point group `dsd.benchmarks`.
"""

from typing import TYPE_CHECKING

from dsd.evaluation.benchmarks.base import Benchmark, BenchmarkCase
from dsd.registry import Registry

if TYPE_CHECKING:
    from dsd.evaluation.benchmarks.dreambench_plus import DreamBenchPlus
    from dsd.evaluation.benchmarks.dreambooth import DreamBooth
    from dsd.evaluation.benchmarks.own_folder import OwnFolder
    from dsd.evaluation.benchmarks.small_world import SmallWorld

__all__ = [
    "Benchmark",
    "BenchmarkCase",
    "DreamBenchPlus",
    "DreamBooth",
    "OwnFolder",
    "SmallWorld",
    "create",
    "get",
    "names",
    "register",
    "registry",
    "spec",
]

registry: Registry[Benchmark] = Registry(
    "benchmarks",
    base="dsd.evaluation.benchmarks.base:Benchmark",
    builtin={
        "dreambench++": "dsd.evaluation.benchmarks.dreambench_plus:DreamBenchPlus",
        "dreambooth": "dsd.evaluation.benchmarks.dreambooth:DreamBooth",
        "folder": "dsd.evaluation.benchmarks.own_folder:OwnFolder",
        "small_world": "dsd.evaluation.benchmarks.small_world:SmallWorld",
    },
)
create = registry.create
get = registry.get
names = registry.names
register = registry.register
spec = registry.spec


def __getattr__(name: str) -> object:
    return registry.member(name)


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
