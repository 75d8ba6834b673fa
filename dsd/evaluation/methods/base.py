"""What a method is: one that draws the subject of a reference as a prompt says."""

import hashlib
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal, get_args

from PIL import Image

from dsd.evaluation.benchmarks.base import BenchmarkCase
from dsd.llm.records import Stopped
from dsd.registry import Recorded

logger = logging.getLogger(__name__)

DrawingStatus = Literal["drawn", "refused", "missing", "failed"]
"""What became of a picture. `refused`: a provider would not draw it; `missing`: a folder does not have it;
`failed`: an error. All but "drawn" are missing values; "missing" and "failed" are tried again by the next
call."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One picture to be drawn.

    Attributes:
        case: what is asked for.
        index: number of the picture among those of its case.
        seed: of the noise, the same for every method.
    """

    case: BenchmarkCase
    index: int = 0
    seed: int = 0

    @property
    def key(self) -> str:
        """Name of the picture: the case's key for the first one, `<key>_<number>` for the others."""
        return self.case.key if self.index == 0 else f"{self.case.key}_{self.index}"


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """What came of a job.

    Attributes:
        image: the picture; None unless the status is "drawn".
        status: see `DrawingStatus`.
        reason: what went wrong.
        seconds: how long it took, its share of a batch's time; None if unknown.
        cost_usd: what it cost; None if unknown, 0 for what is drawn on this machine.
        model: what drew it.

    Raises:
        ValueError: if there is a picture without the status "drawn", or that status without a picture.
    """

    image: Image.Image | None = field(default=None, repr=False)
    status: DrawingStatus = "drawn"
    reason: str = ""
    seconds: float | None = None
    cost_usd: float | None = 0.0
    model: str = ""

    def __post_init__(self) -> None:
        if self.status not in get_args(DrawingStatus) or (self.image is None) == (self.status == "drawn"):
            raise ValueError(
                f"A drawing has a status of {', '.join(get_args(DrawingStatus))}, and a picture if and "
                f"only if that is 'drawn'; got {self.status!r} and image={self.image!r}."
            )


class Method(Recorded, ABC):
    """Draws pictures. A picture depends on its job alone, never on its neighbours in a batch.

    Attributes:
        about: in a few words, what it is given and what it does, for reports.
        batch_size: how many jobs it wants at once.
        kept: whether its pictures are kept in files; not needed where they are at hand anyway.
        timed: whether its time means anything.
    """

    about: str = ""
    batch_size: int = 1
    kept: ClassVar[bool] = True
    timed: ClassVar[bool] = True

    @property
    def model(self) -> str:
        """The name of what draws, for reports."""
        return type(self).__name__

    @abstractmethod
    def draw(self, jobs: Sequence[Job]) -> Sequence[Image.Image | Drawing]:
        """One picture a job, in order.

        It may raise if one of them cannot be drawn: the others are then asked for one by one.
        """

    def tune(self, case: BenchmarkCase) -> bool:
        """Get to know a subject before its first picture, for methods that are tuned on it at test time.

        Args:
            case: any case of the subject; its `references` are what may be looked at.

        Returns:
            whether there was anything to do, so that its time is reported.
        """
        return False

    def draw_all(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, Drawing]]:
        """Each job with what came of it, whatever happened, as soon as it is there, in any order.

        Raises:
            Stopped: if the money or the time given for the run is spent; nothing else but Ctrl-C leaves it.
        """
        for start in range(0, len(jobs), self.batch_size):
            batch = jobs[start : start + self.batch_size]
            yield from zip(batch, self._drawn(batch), strict=True)

    def cut_prompts(self, prompts: Sequence[str]) -> list[str]:
        """Those of the prompts that are longer than the method reads, so that it is said."""
        return []

    def tuning_seconds(self) -> float | None:
        """Seconds of tuning a subject, where `tune` did none: 0 for zero-shot methods; None if unknown."""
        return 0.0

    def use_spellings(self, canonical: Callable[[str], str]) -> None:
        """Hear how a benchmark's keys may be spelt, for methods that look pictures up by them.

        Args:
            canonical: from another spelling of a case's key to the benchmark's; `ValueError` for what is
                none.
        """

    def close(self) -> None:
        """Let go of models and connections. Called when its last picture is drawn."""

    def _drawn(self, batch: Sequence[Job]) -> list[Drawing]:
        start = time.perf_counter()
        try:
            found = list(self.draw(batch))
            if len(found) != len(batch):
                raise ValueError(f"{type(self).__name__} drew {len(found)} pictures for {len(batch)} jobs.")
        except Stopped:
            raise
        except Exception as error:
            if len(batch) > 1:
                logger.warning("A batch could not be drawn; drawing its pictures one by one", exc_info=True)
                return [drawing for job in batch for drawing in self._drawn([job])]
            logger.warning("The picture %r could not be drawn", batch[0].key, exc_info=True)
            reason = f"{type(error).__name__}: {error}"
            return [Drawing(status="failed", reason=reason, model=self.model)]
        seconds = (time.perf_counter() - start) / len(batch) if self.timed else None
        return [
            x if isinstance(x, Drawing) else Drawing(image=x, seconds=seconds, model=self.model)
            for x in found
        ]


def jobs_of(cases: Sequence[BenchmarkCase], images_per_prompt: int = 1, seed: int = 0) -> list[Job]:
    """Every picture that is asked for, case by case.

    Raises:
        ValueError: if `images_per_prompt` is below 1.
    """
    if images_per_prompt < 1:
        raise ValueError(f"`images_per_prompt` must be at least 1; got {images_per_prompt}.")
    return [
        Job(case=case, index=index, seed=seed_of(case.key, index, seed))
        for case in cases
        for index in range(images_per_prompt)
    ]


def seed_of(key: str, index: int, seed: int) -> int:
    """The seed of one picture's noise: the same for every method."""
    text = f"picture:{seed}:{index}:{key}".encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.sha256(text).digest()[:4], "big")
