"""What the stages do with a batch: grids, pairs, verdicts and captions."""

import hashlib
import logging
from dataclasses import dataclass

from dsd.captioners import Captioner
from dsd.curators import Curator
from dsd.data.rows import GRIDS, PAIRS, Captioned, Failure, Judged, captions, verdicts
from dsd.engines.base import Batch, Outage, Result, Work
from dsd.engines.checks import checked_grid, failure, pairs_of, told
from dsd.llm.outages import is_outage
from dsd.llm.records import Stopped
from dsd.teachers import Teacher
from dsd.types import Verdict

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Drawing(Work):
    """Prompts to grids."""

    teacher: Teacher
    seed: int

    def __call__(self, batch: Batch) -> list[Result]:
        """A grid of each prompt, with its own seed."""
        seeds = [draw_seed(self.seed, prompt_id) for prompt_id, _ in batch]
        try:
            drawn = self.teacher.draw([prompt for _, prompt in batch], seeds)
        except Exception as error:
            if len(batch) > 1:  # find out which one it was
                return [result for item in batch for result in self([item])]
            logger.warning("The grid of prompt %s could not be drawn", batch[0][0], exc_info=True)
            return [_failed(batch[0][0], error)]
        if len(drawn) != len(batch):
            raise ValueError(
                f"{type(self.teacher).__name__}.draw returned {len(drawn)} grids for {len(batch)} prompts."
            )
        checked = (checked_grid(grid, prompt_id) for grid, (prompt_id, _) in zip(drawn, batch, strict=True))
        return [found if isinstance(found, Failure) else GRIDS.to_rows(found) for found in checked]


@dataclass(frozen=True)
class Pairing(Work):
    """Grids to pairs."""

    max_pairs: int | None
    seed: int

    def __call__(self, batch: Batch) -> list[Result]:
        """The pairs of each grid."""
        found = (pairs_of(grid_id, grid, self.max_pairs, self.seed) for grid_id, grid in batch)
        return [pairs if isinstance(pairs, Failure) else PAIRS.to_rows(pairs) for pairs in found]


@dataclass(frozen=True)
class Judging(Work):
    """Pairs to verdicts."""

    curator: Curator

    def __call__(self, batch: Batch) -> list[Result]:
        """A verdict of each pair."""
        given = self.curator.judge_some([pair for _, pair in batch])
        if len(given) != len(batch):
            raise ValueError(
                f"{type(self.curator).__name__}.judge_batch gave {len(given)} verdicts for {len(batch)} "
                "pairs."
            )
        return [_judged(pair_id, verdict) for (pair_id, _), verdict in zip(batch, given, strict=True)]


@dataclass(frozen=True)
class Captioning(Work):
    """Pairs to captions."""

    captioner: Captioner

    def __call__(self, batch: Batch) -> list[Result]:
        """A caption of each pair."""
        given = self.captioner.caption_batch([pair for _, pair in batch])
        if len(given) != len(batch):
            raise ValueError(
                f"{type(self.captioner).__name__}.caption_batch gave {len(given)} captions for {len(batch)} "
                "pairs."
            )
        return [_captioned(pair_id, caption) for (pair_id, _), caption in zip(batch, given, strict=True)]


def _judged(pair_id: str, verdict: Verdict | Stopped) -> Result:
    if isinstance(verdict, Stopped):
        return verdict
    rows = verdicts("").to_rows([Judged(pair_id=pair_id, verdict=told(verdict))])
    return Outage(rows) if verdict.outage else rows


def _failed(source: str, error: Exception) -> Result:
    found = failure(source, error)
    return Outage(found) if is_outage(error) else found


def _captioned(pair_id: str, caption: str | Exception) -> Result:
    if isinstance(caption, Stopped):
        return caption
    if isinstance(caption, Exception):
        return _failed(pair_id, caption)
    if not caption.strip():
        return Failure(source=pair_id, reason="The captioner said nothing.")
    return captions("").to_rows([Captioned(pair_id=pair_id, caption=caption)])


def draw_seed(seed: int, prompt_id: str) -> int:
    """The seed of one grid: 32 bits of SHA-256 over the run's seed and the prompt's id."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{prompt_id}".encode()).digest()[:4], "big")


def asked_here(plug_in: Captioner | Curator) -> bool:
    """Whether a plug-in may ask somebody who is paid: then it is asked from one process alone, where its
    limits of rate and money hold, and its answers are kept.
    """
    return plug_in.llm is not None or plug_in.ledger is not None
