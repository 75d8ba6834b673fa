"""Prompt writers: what the teacher shall draw.

Write your own by deriving from `PromptWriter` (one method, `write`) and give it a name with
`@prompts.register("name")`, or in your package's entry-point group `dsd.prompts`.
"""

from typing import TYPE_CHECKING

from dsd.prompts.base import PromptWriter, prompt_seed
from dsd.registry import Registry
from dsd.types import GridPrompt

if TYPE_CHECKING:
    from dsd.prompts.file import FileWriter
    from dsd.prompts.llm import LLMWriter
    from dsd.prompts.measure import Diversity, diversity
    from dsd.prompts.template import TemplateWriter

__all__ = [
    "Diversity",
    "FileWriter",
    "GridPrompt",
    "LLMWriter",
    "PromptWriter",
    "TemplateWriter",
    "create",
    "diversity",
    "get",
    "names",
    "prompt_seed",
    "register",
    "registry",
    "spec",
]

registry: Registry[PromptWriter] = Registry(
    "prompts",
    base="dsd.prompts.base:PromptWriter",
    builtin={
        "file": "dsd.prompts.file:FileWriter",
        "llm": "dsd.prompts.llm:LLMWriter",
        "template": "dsd.prompts.template:TemplateWriter",
    },
)
create = registry.create
get = registry.get
names = registry.names
register = registry.register
spec = registry.spec


def __getattr__(name: str) -> object:
    if name in ("Diversity", "diversity"):
        from dsd.prompts import measure

        return getattr(measure, name)
    return registry.member(name)


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
