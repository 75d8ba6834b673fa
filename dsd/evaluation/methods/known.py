"""Methods that draw nothing: between what they score, others stand."""

from collections.abc import Sequence

from PIL import Image

from dsd.evaluation.methods.base import Drawing, Job, Method


class CopyMethod(Method):
    """The reference, unchanged: it keeps the subject best of all, and follows no prompt."""

    about = "the reference itself, unchanged"
    kept = timed = False
    batch_size = 16

    @property
    def model(self) -> str:
        """None."""
        return "none"

    def draw(self, jobs: Sequence[Job]) -> list[Image.Image]:
        """The first reference of each job."""
        return [job.case.reference for job in jobs]


class CeilingMethod(Method):
    """What a perfect artist would draw, for benchmarks that know it."""

    about = "what a perfect artist would draw"
    kept = timed = False
    batch_size = 16

    @property
    def model(self) -> str:
        """None."""
        return "none"

    def draw(self, jobs: Sequence[Job]) -> list[Drawing]:
        """The true picture of each job; missing where the benchmark has none."""
        found = [job.case.true_picture for job in jobs]
        return [
            Drawing(image=x)
            if x is not None
            else Drawing(status="missing", reason="The benchmark does not know what would be right.")
            for x in found
        ]
