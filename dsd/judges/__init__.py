"""Judges: how well a generated picture keeps its subject and follows its prompt, rated on a scale.

Write your own by deriving from `Judge` (one method, `rate`) and give it a name with
`@judges.register("name")`, or in your package's entry-point group `dsd.judges`.
"""

from dsd.judges.base import RATING_STATUSES, Case, Judge, Rating, RatingStatus
from dsd.registry import Registry

__all__ = [
    "RATING_STATUSES",
    "Case",
    "Judge",
    "Rating",
    "RatingStatus",
    "create",
    "get",
    "names",
    "register",
    "registry",
    "spec",
]

registry: Registry[Judge] = Registry("judges", base="dsd.judges.base:Judge", builtin={})
create = registry.create
get = registry.get
names = registry.names
register = registry.register
spec = registry.spec


def __getattr__(name: str) -> object:
    return registry.member(name)


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
