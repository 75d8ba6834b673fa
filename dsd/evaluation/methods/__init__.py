"""Methods: who draws a benchmark's cases.

Write your own by deriving from `Method` (one method, `draw`) and give it a name with
`@methods.register("name")`, or in your package's entry-point group `dsd.methods`.
"""

from typing import TYPE_CHECKING

from dsd.evaluation.methods.base import Drawing, Job, Method
from dsd.registry import Registry

if TYPE_CHECKING:
    from dsd.evaluation.methods.api import ApiMethod
    from dsd.evaluation.methods.diffusers import DiffusersMethod
    from dsd.evaluation.methods.folder import FolderMethod
    from dsd.evaluation.methods.known import CeilingMethod, CopyMethod
    from dsd.evaluation.methods.student import StudentMethod, UntrainedMethod
    from dsd.evaluation.methods.text_only import TextOnlyMethod

__all__ = [
    "ApiMethod",
    "CeilingMethod",
    "CopyMethod",
    "DiffusersMethod",
    "Drawing",
    "FolderMethod",
    "Job",
    "Method",
    "StudentMethod",
    "TextOnlyMethod",
    "UntrainedMethod",
    "create",
    "get",
    "names",
    "register",
    "registry",
    "spec",
]

registry: Registry[Method] = Registry(
    "methods",
    base="dsd.evaluation.methods.base:Method",
    builtin={
        "student": "dsd.evaluation.methods.student:StudentMethod",
        "untrained": "dsd.evaluation.methods.student:UntrainedMethod",
        "text_only": "dsd.evaluation.methods.text_only:TextOnlyMethod",
        "diffusers": "dsd.evaluation.methods.diffusers:DiffusersMethod",
        "api": "dsd.evaluation.methods.api:ApiMethod",
        "folder": "dsd.evaluation.methods.folder:FolderMethod",
        "copy": "dsd.evaluation.methods.known:CopyMethod",
        "ceiling": "dsd.evaluation.methods.known:CeilingMethod",
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
