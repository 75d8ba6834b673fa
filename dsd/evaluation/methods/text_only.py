"""Text-to-image models, which never see the reference."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from PIL import Image

from dsd import teachers
from dsd.evaluation.methods.base import Job, Method
from dsd.types import GridPrompt

if TYPE_CHECKING:
    from dsd.teachers.base import Teacher


class TextOnlyMethod(Method):
    """A teacher that is asked for one panel: the prompt without the reference.

    Args:
        teacher: a name or a spec, or a teacher.
    """

    about = "the prompt, without the reference"

    def __init__(self, teacher: Any = "diffusers") -> None:
        self._given, self.teacher = teacher, teachers.create(teacher)
        self.batch_size = self.teacher.batch_size

    @property
    def model(self) -> str:
        """What the teacher calls itself."""
        return str(getattr(self.teacher, "name", type(self.teacher).__name__))

    def draw(self, jobs: Sequence[Job]) -> list[Image.Image]:
        """One picture a job."""
        return ask_teacher(self.teacher, [job.case.prompt for job in jobs], [job.seed for job in jobs])

    def close(self) -> None:
        """Let go of a teacher that was made here, and of its model."""
        self.teacher = teachers.create(self._given)


def ask_teacher(teacher: "Teacher", texts: Sequence[str], seeds: Sequence[int]) -> list[Image.Image]:
    """What a teacher draws of each text: one panel."""
    prompts = [GridPrompt(text=text, subject=text, panels=(text,), layout="1x1") for text in texts]
    return [grid.image for grid in teacher.draw(prompts, list(seeds))]
