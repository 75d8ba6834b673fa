"""The stages of a run: prompts, grids, pairs, verdicts, encodings.

Each reads the stage before it, does what is missing, and can be stopped at any moment and called again. What
a row holds depends on the specs and seeds alone, not on how the work was batched, interrupted or resumed.
"""

import hashlib
import logging
import time
from collections.abc import Mapping
from os import PathLike
from typing import TYPE_CHECKING, Any

from dsd import curators, prompts, teachers
from dsd.data.policy import Policy
from dsd.data.rows import Failure
from dsd.data.store import Run
from dsd.engines import StageSummary, fill, judging, progress_bar, writing
from dsd.engines.checks import checked_grid, failure, pairs_of
from dsd.engines.progress import VerdictGauge
from dsd.engines.specs import file_name, what
from dsd.types import Grid, GridPrompt, Pair

if TYPE_CHECKING:
    from dsd.backbones.base import Backbone
    from dsd.conditioning.base import Conditioning

__all__ = ["StageSummary", "curate", "draw_grids", "draw_seed", "encode", "make_pairs", "write_prompts"]

logger = logging.getLogger(__name__)
RunLike = Run | str | PathLike[str]


def write_prompts(
    run: RunLike,
    writer: str | Mapping[str, Any] | prompts.PromptWriter = "template",
    count: int = 500,
    seed: int = 0,
    *,
    overwrite: bool = False,
    dry_run: bool = False,
    progress: bool = True,
) -> StageSummary:
    """Write grid prompts until the run has `count` of them; calling again with a higher count adds to them.

    Args:
        run: the run or its folder, which is created.
        writer: a prompt writer, its name or its spec.
        count: how many prompts the run shall have.
        seed: of the writer's choices.
        overwrite: discard the prompts there are.
        dry_run: ask nobody who is paid and write nothing; tell how many prompts there are to write, and what
            that would take in calls, tokens and dollars.
        progress: show a progress bar on stderr, with tokens, dollars, and what the whole call will cost at
            that rate.

    Raises:
        ValueError: if `count` is below 1, or the writer does not have so many prompts.
        SpecError: if the run's prompts were written by another writer or seed.
        LockedError: if another process writes to the run.
    """
    _at_least_1(count=count)
    run, author = _run(run), prompts.create(writer)
    try:
        wanted = writing.Wanted(writer=author, count=count, seed=seed, overwrite=overwrite)
        return writing.estimated(run, wanted) if dry_run else writing.write(run, wanted, progress=progress)
    finally:
        if author is not writer:
            author.close()


def draw_grids(
    run: RunLike,
    teacher: str | Mapping[str, Any] | teachers.Teacher = "diffusers",
    seed: int = 0,
    limit: int | None = None,
    *,
    overwrite: bool = False,
    retry_failed: bool = False,
    progress: bool = True,
) -> StageSummary:
    """Let a teacher draw a grid for every prompt that has none.

    A prompt that the teacher fails at, or whose picture has the wrong size or shows nothing, is recorded in
    `run.failed("grids")` with the reason, and the others go on.

    Args:
        run: the run or its folder.
        teacher: a teacher, its name or its spec.
        seed: of the noise; that of each grid comes from it and the prompt's id.
        limit: draw the first so many prompts only.
        overwrite: discard the grids there are.
        retry_failed: try those again that failed before.
        progress: show a progress bar on stderr.

    Raises:
        ValueError: if `limit` is below 1.
        SpecError: if the run's grids were drawn by another teacher or seed.
        ManifestError: if the prompts were made anew since, or a shard is damaged.
        RuntimeError: if all grids fail, or the first 16 of a run: then it is not the prompts.
    """
    _at_least_1(limit=limit)
    run, artist = _run(run), teachers.create(teacher)
    _at_least_1(batch_size=artist.batch_size)

    def draw(batch: list[tuple[str, GridPrompt]]) -> list[list[Grid] | Failure]:
        seeds = [draw_seed(seed, prompt_id) for prompt_id, _ in batch]
        try:
            drawn = artist.draw([prompt for _, prompt in batch], seeds)
        except Exception as error:
            if len(batch) > 1:  # find out which one it was
                return [result for item in batch for result in draw([item])]
            logger.warning("The grid of prompt %s could not be drawn", batch[0][0], exc_info=True)
            return [failure(batch[0][0], error)]
        if len(drawn) != len(batch):
            raise ValueError(
                f"{type(artist).__name__}.draw returned {len(drawn)} grids for {len(batch)} prompts."
            )
        return [checked_grid(grid, prompt_id) for grid, (prompt_id, _) in zip(drawn, batch, strict=True)]

    return fill(
        run,
        run.grids,
        {"teacher": what(teachers.spec(artist)), "seed": seed},
        draw,
        batch_size=artist.batch_size,
        limit=limit,
        overwrite=overwrite,
        retry_failed=retry_failed,
        progress=progress,
    )


def make_pairs(
    run: RunLike,
    max_pairs: int | None = None,
    seed: int = 0,
    *,
    overwrite: bool = False,
    retry_failed: bool = False,
    progress: bool = True,
) -> StageSummary:
    """Cut every grid that is not cut yet into its panels, and pair them in both directions.

    Args:
        run: the run or its folder.
        max_pairs: keep at most so many pairs of a grid, chosen at random; all by default.
        seed: of that choice.
        overwrite: discard the pairs there are.
        retry_failed: try those grids again that failed before.
        progress: show a progress bar on stderr.

    Raises:
        ValueError: if `max_pairs` is below 1.
        SpecError: if the run's pairs were made with other arguments.
        ManifestError: if the grids were made anew since, or a shard is damaged.
    """
    _at_least_1(max_pairs=max_pairs)
    run = _run(run)

    def pair(batch: list[tuple[str, Grid]]) -> list[list[Pair] | Failure]:
        return [pairs_of(grid_id, grid, max_pairs, seed) for grid_id, grid in batch]

    return fill(
        run,
        run.pairs,
        {"max_pairs": max_pairs, "seed": seed},
        pair,
        batch_size=1,
        overwrite=overwrite,
        retry_failed=retry_failed,
        progress=progress,
    )


def curate(
    run: RunLike,
    curator: str | Mapping[str, Any] | curators.Curator = "embedding",
    *,
    name: str | None = None,
    batch_size: int = 64,
    overwrite: bool = False,
    retry_failed: bool = False,
    dry_run: bool = False,
    progress: bool = True,
) -> StageSummary:
    """Let a curator judge every pair that it has not judged yet. The pairs themselves stay as they are.

    Answers of a paid model are kept in the run, so that none is paid for twice, whatever stopped the stage.

    Args:
        run: the run or its folder.
        curator: a curator, its name or its spec.
        name: under which to keep the verdicts, so that two settings of one curator can stand side by side; by
            default the curator's registered name.
        batch_size: how many pairs the curator gets at once.
        overwrite: discard this curator's verdicts.
        retry_failed: judge those pairs again whose verdict is "failed".
        dry_run: ask nobody who is paid and write nothing; tell how many pairs there are to judge, and what
            that would take in calls, tokens and dollars, estimated from a few of them.
        progress: show a progress bar on stderr, with the yield so far (accepted pairs among accepted and
            rejected ones), tokens, dollars, and what the whole call will cost at that rate.

    Raises:
        ValueError: if `batch_size` is below 1.
        SpecError: if the verdicts of that name come from another spec.
        ManifestError: if the pairs were made anew since, or a shard is damaged.
        RuntimeError: if all pairs fail, or the first 16 of a curator: then it is not the pairs.
        Stopped: if the money or the time that the curator was given is spent. What was judged is written.
    """
    _at_least_1(batch_size=batch_size)
    run, judge = _run(run), curators.create(curator)
    spec = judging.spec_of(judge)
    table = run.verdicts(file_name(name or spec["curator"]["name"].rpartition(":")[2]))
    name_hint = " To keep both, give this one its own `name`."
    try:
        if dry_run:
            return judging.estimated(
                run, table, judge, overwrite=overwrite, retry_failed=retry_failed, name_hint=name_hint
            )
        if run.pairs.exists:  # else `fill` says what is missing, and nothing is created
            judge.keep_answers(run.answers)
        return fill(
            run,
            table,
            spec,
            judging.work(judge),
            batch_size=batch_size,
            overwrite=overwrite,
            retry_failed=retry_failed,
            progress=progress,
            name_hint=name_hint,
            counts=lambda table: judging.verdict_counts(table, judge),
            gauge=VerdictGauge(judge),
            why_failed=judging.why_failed,
            at_once=judging.batches_at_once(judge, batch_size),
            cancel=judge.cancel,
        )
    finally:
        if judge is not curator:
            judge.close()


def encode(
    run: RunLike,
    backbone: "str | PathLike[str] | Mapping[str, Any] | Backbone" = "mini",
    conditioning: "str | Mapping[str, Any] | Conditioning" = "parallel",
    *,
    policy: str | Mapping[str, Any] | Policy | None = None,
    captions: str | None = None,
    batch_size: int = 8,
    dtype: str | None = None,
    device: str | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> StageSummary:
    """Cache the latents and text embeddings that training reads, for every accepted pair that has none.

    They stand under `encoded/`, by the backbone's revision and the conditioning, so that those of another
    model are never taken for them. Equal captions and equal references are encoded and stored once.

    Args:
        run: the run or its folder.
        backbone: as `Student(base=...)` takes it; its denoiser is not needed.
        conditioning: as `Student(conditioning=...)` takes it.
        policy: which pairs; see `Run.accepted`. A pair that is accepted later can be added by calling again.
        captions: the name of captions that are cached beside the pairs' own; see `dsd.caption_pairs`.
        batch_size: how many pairs are encoded at once.
        dtype: to store tensors in, such as "bfloat16"; as they come by default.
        device: to encode on; where the backbone is by default.
        overwrite: discard what was cached for this backbone and conditioning.
        progress: show a progress bar on stderr.

    Raises:
        ValueError: if `batch_size` is below 1, or there is no such dtype.
        SpecError: if the cache was made with another spec of the conditioning or dtype.
        ManifestError: if the pairs were made anew since, or a shard is damaged.
    """
    from dsd import backbones
    from dsd import conditioning as conditionings
    from dsd.data.encode import encode_pairs, torch_dtype

    # What is cheap to check is checked before the model is loaded, and before a folder is made.
    _at_least_1(batch_size=batch_size)
    torch_dtype(dtype)
    run, method = _run(run), conditionings.create(conditioning)
    run.accepted(policy)
    model = backbones.load(backbone, parts=("vae", "text"))
    if device is not None:
        model.to(device)
    started = time.monotonic()
    with run.lock("encode"):
        run.check("pairs")
        ids = run.accepted(policy)
        ids = ids if captions is None else run.captioned(captions, ids)
        with progress_bar("encode", len(ids), progress) as bar:
            table, added = encode_pairs(
                run,
                ids,
                model,
                method,
                backbone_name=file_name(backbones.spec(model)["name"].rpartition(":")[2]),
                conditioning_spec=what(conditionings.spec(method)),
                batch_size=batch_size,
                dtype=dtype,
                overwrite=overwrite,
                captions=captions,
                advance=bar.update,
            )
        run.save_manifest()
        return StageSummary(
            stage=table.kind.stage, rows=len(table), added=added, seconds=time.monotonic() - started
        )


def draw_seed(seed: int, prompt_id: str) -> int:
    """The seed of one grid: 32 bits of SHA-256 over the run's seed and the prompt's id."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{prompt_id}".encode()).digest()[:4], "big")


def _at_least_1(**numbers: int | None) -> None:
    for name, number in numbers.items():
        if number is not None and number < 1:
            raise ValueError(f"`{name}` must be at least 1; got {number}.")


def _run(run: RunLike) -> Run:
    return run if isinstance(run, Run) else Run(run)
