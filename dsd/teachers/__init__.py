"""Teachers: who draws the grids.

Write your own by deriving from `Teacher` (one method, `draw`) and give it a name with
`@teachers.register("name")`, or in your package's entry-point group `dsd.teachers`.
"""

from typing import TYPE_CHECKING

from dsd.registry import Registry
from dsd.teachers.base import Teacher
from dsd.types import Grid, GridPrompt

if TYPE_CHECKING:
    from dsd.teachers.diffusers import DiffusersTeacher
    from dsd.teachers.folder import FolderTeacher

__all__ = [
    "DiffusersTeacher",
    "FolderTeacher",
    "Grid",
    "GridPrompt",
    "Teacher",
    "create",
    "get",
    "names",
    "register",
    "registry",
    "spec",
]

registry: Registry[Teacher] = Registry(
    "teachers",
    base="dsd.teachers.base:Teacher",
    builtin={
        "diffusers": "dsd.teachers.diffusers:DiffusersTeacher",
        "folder": "dsd.teachers.folder:FolderTeacher",
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
