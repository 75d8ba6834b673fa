"""Image APIs as methods: generation from the prompt, or editing of the references."""

import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from io import BytesIO
from typing import Any

from PIL import Image

from dsd.evaluation.benchmarks.pictures import decode_picture
from dsd.evaluation.methods.base import Drawing, DrawingStatus, Job, Method
from dsd.llm import loop
from dsd.llm.images import ImageModel
from dsd.llm.ledger import Ledger
from dsd.llm.records import AnswerError, CallFailed, ErrorKind, Stopped

_HOPELESS: frozenset[ErrorKind] = frozenset({"authentication", "not_found", "quota"})
"""Failures that every other picture would share."""


class ApiMethod(Method):
    """An image API, through litellm; pictures come as they are done, and each is kept as soon as it came.

    Args:
        model: as litellm names it, "provider/model".
        references: how many pictures of the subject the API's editing is given; 0 for generation from the
            prompt alone; None for all.
        template: what the API is told; `{prompt}` and `{subject}` are filled in. For editing say what the
            picture is: "Draw the {subject} of the picture anew: {prompt}".
        max_side_px: larger references are made smaller before they are sent.
        arguments: further arguments of the call, such as `{"size": "1024x1024", "quality": "medium"}`.
        api_base: another address of the provider.
        api_key: by default from the environment.
        concurrency: most calls at the same time.
        rpm: most requests a minute; None for no limit.
        timeout_s: of one call.
        run_deadline_s: of everything.
        max_cost_usd: no call is made that could exceed it; needs `price_usd`.
        price_usd: of one picture, where litellm does not know it.
        retries: tries by the kind of failure; see `dsd.llm`.

    Raises:
        ModuleNotFoundError: if litellm is not installed.
        ValueError: if a number is out of range, the template has no place for the prompt, or the provider is
            unknown.
    """

    def __init__(
        self,
        model: str,
        references: int | None = 1,
        template: str = "{prompt}",
        max_side_px: int = 1024,
        arguments: Mapping[str, Any] | None = None,
        api_base: str | None = None,
        api_key: str | None = None,
        concurrency: int = 4,
        rpm: float | None = None,
        timeout_s: float = 300.0,
        run_deadline_s: float | None = None,
        max_cost_usd: float | None = None,
        price_usd: float | None = None,
        retries: Mapping[str, int] | None = None,
    ) -> None:
        if references is not None and references < 0:
            raise ValueError(f"`references` must be at least 0; got {references}.")
        if max_side_px < 1:
            raise ValueError(f"`max_side_px` must be at least 1; got {max_side_px}.")
        if "{prompt}" not in template:
            raise ValueError(f"`template` must have a place for the prompt, {{prompt}}; got {template!r}.")
        self._model, self._references, self._template = model, references, template
        self._max_side_px, self._arguments = max_side_px, dict(arguments or {})
        self.about = (
            "the prompt, without the reference" if references == 0 else "the reference and the prompt"
        )
        self._door = ImageModel(
            model,
            api_base=api_base,
            api_key=api_key,
            concurrency=concurrency,
            rpm=rpm,
            timeout_s=timeout_s,
            run_deadline_s=run_deadline_s,
            max_cost_usd=max_cost_usd,
            price_usd=price_usd,
            retries=retries,
        )

    @property
    def model(self) -> str:
        """As litellm names it."""
        return self._model

    @property
    def ledger(self) -> Ledger:
        """What was asked and spent so far."""
        return self._door.ledger

    def draw(self, jobs: Sequence[Job]) -> list[Drawing]:
        """One picture a job, in order."""
        found = {id(job): drawing for job, drawing in self.draw_all(jobs)}
        return [found[id(job)] for job in jobs]

    def draw_all(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, Drawing]]:
        """Each job with what came of it, as the answers come.

        Raises:
            Stopped: if the money or the time is spent; what was being drawn is waited for, and comes first.
            CallFailed: if no other picture could be drawn either: a wrong key, an unknown model, no credit.
        """
        waiting: dict[Future[Drawing], Job] = {}
        source, stop = iter(jobs), None
        try:
            while True:
                while stop is None and len(waiting) < 2 * self._door.concurrency:
                    job = next(source, None)
                    if job is None:
                        break
                    waiting[loop.submit(self._drawn_by(job))] = job
                if not waiting:
                    break
                for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                    job = waiting.pop(future)
                    try:
                        drawing = future.result()
                    except (Stopped, CallFailed) as error:
                        stop = stop or error
                        continue
                    yield job, drawing
        finally:
            for future in waiting:
                future.cancel()
        if stop is not None:
            raise stop

    def close(self) -> None:
        """Close connections."""
        loop.result(loop.submit(self._door.close()))

    async def _drawn_by(self, job: Job) -> Drawing:
        text = self._template.replace("{subject}", job.case.subject_name or job.case.subject)
        text = text.replace("{prompt}", job.case.prompt)
        start = time.perf_counter()
        try:
            pictures = [self._encoded(x) for x in job.case.references[: self._references]]
            painted = await self._door.draw(text, pictures, **self._arguments)
        except AnswerError as error:
            if isinstance(error, CallFailed) and error.kind in _HOPELESS:
                raise
            status: DrawingStatus = "refused" if error.status == "refused" else "failed"
            return Drawing(status=status, reason=str(error), cost_usd=None, model=self._model)
        seconds = time.perf_counter() - start
        try:
            image = decode_picture(painted.data, f"that {self._model} drew")
        except ValueError as error:
            return Drawing(status="failed", reason=str(error), cost_usd=painted.cost_usd, model=self._model)
        return Drawing(image=image, seconds=seconds, cost_usd=painted.cost_usd, model=self._model)

    def _encoded(self, image: Image.Image) -> bytes:
        image = image.convert("RGB")
        image.thumbnail((self._max_side_px, self._max_side_px), Image.Resampling.LANCZOS)
        buffer = BytesIO()
        image.save(buffer, "PNG")
        return buffer.getvalue()
