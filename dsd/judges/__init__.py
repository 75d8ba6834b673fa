"""Judges: how well a generated picture keeps its subject and follows its prompt, rated on a scale.

Write your own by deriving from `Judge` (one method, `rate`) and give it a name with
`@judges.register("name")`, or in your package's entry-point group `dsd.judges`.
"""

from typing import TYPE_CHECKING

from dsd.judges.base import RATING_STATUSES, Case, Judge, Rating, RatingStatus
from dsd.judges.rubrics import Example, Rubric
from dsd.registry import Registry

if TYPE_CHECKING:
    from dsd.judges.recorded import RecordedJudge
    from dsd.judges.rubric import RubricJudge

__all__ = [
    "RATING_STATUSES",
    "Case",
    "Example",
    "Judge",
    "Rating",
    "RatingStatus",
    "RecordedJudge",
    "Rubric",
    "RubricJudge",
    "create",
    "get",
    "names",
    "register",
    "registry",
    "spec",
]

registry: Registry[Judge] = Registry(
    "judges",
    base="dsd.judges.base:Judge",
    builtin={
        "recorded": "dsd.judges.recorded:RecordedJudge",
        "rubric": "dsd.judges.rubric:RubricJudge",
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
