"""The stages of a run: prompts, grids, pairs, verdicts, encodings.

Each reads the stage before it, does what is missing, and can be stopped at any moment and called again. What
a row holds depends on the specs and seeds alone, not on how the work was batched, interrupted or resumed.
"""

import time
from collections.abc import Mapping
from os import PathLike
from typing import TYPE_CHECKING, Any

from dsd import curators, engines, prompts, teachers
from dsd.data.part import Part, ShardLike, parse_shard
from dsd.data.policy import Policy
from dsd.data.store import Run
from dsd.engines import StageSummary, fill, judging, writing
from dsd.engines.base import Engine
from dsd.engines.progress import VerdictGauge
from dsd.engines.specs import file_name, what
from dsd.engines.watch import watched
from dsd.engines.work import Drawing, Judging, Pairing, asked_here, draw_seed

if TYPE_CHECKING:
    from dsd.backbones.base import Backbone
    from dsd.conditioning.base import Conditioning

__all__ = ["StageSummary", "curate", "draw_grids", "draw_seed", "encode", "make_pairs", "write_prompts"]

RunLike = Run | str | PathLike[str]

_GRIDS_AT_ONCE = 4  # that are cut together: their pictures are in memory


def write_prompts(
    run: RunLike,
    writer: str | Mapping[str, Any] | prompts.PromptWriter = "template",
    count: int = 500,
    seed: int = 0,
    *,
    engine: str | Mapping[str, Any] | Engine = "local",
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
        engine: where the work is done: "local", "ray", or a spec. Writers that ask a model, or must not
        repeat
            themselves, write in this process on every engine.
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
    run, author = _run(run, None), prompts.create(writer)
    try:
        wanted = writing.Wanted(writer=author, count=count, seed=seed, overwrite=overwrite)
        if dry_run:
            return writing.estimated(run, wanted)
        return writing.write(run, wanted, engine=engines.create(engine), progress=progress)
    finally:
        if author is not writer:
            author.close()


def draw_grids(
    run: RunLike,
    teacher: str | Mapping[str, Any] | teachers.Teacher = "diffusers",
    seed: int = 0,
    limit: int | None = None,
    *,
    engine: str | Mapping[str, Any] | Engine = "local",
    shard: str | tuple[int, int] | None = None,
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
        engine: where the work is done: "local", "ray", or a spec such as `{"name": "ray", "num_gpus": 1}`.
            The rows are the same.
        shard: do this part of the run alone, "I/N" with I from 0, in a folder of its own; see `dsd.merge`.
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
    if limit is not None and shard is not None:
        raise ValueError(
            "`limit` counts rows of the whole run, and `shard` takes a part of it: give one of them."
        )
    run, artist = _run(run, shard), teachers.create(teacher)
    _at_least_1(batch_size=artist.batch_size)
    return fill(
        run,
        run.grids,
        {"teacher": what(teachers.spec(artist)), "seed": seed},
        Drawing(artist, seed),
        engine=engines.create(engine),
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
    engine: str | Mapping[str, Any] | Engine = "local",
    shard: str | tuple[int, int] | None = None,
    overwrite: bool = False,
    retry_failed: bool = False,
    progress: bool = True,
) -> StageSummary:
    """Cut every grid that is not cut yet into its panels, and pair them in both directions.

    Args:
        run: the run or its folder.
        max_pairs: keep at most so many pairs of a grid, chosen at random; all by default.
        seed: of that choice.
        engine: where the work is done: "local", "ray", or a spec such as `{"name": "ray", "num_gpus": 1}`.
            The rows are the same.
        shard: do this part of the run alone, "I/N" with I from 0, in a folder of its own; see `dsd.merge`.
        overwrite: discard the pairs there are.
        retry_failed: try those grids again that failed before.
        progress: show a progress bar on stderr.

    Raises:
        ValueError: if `max_pairs` is below 1.
        SpecError: if the run's pairs were made with other arguments.
        ManifestError: if the grids were made anew since, or a shard is damaged.
    """
    _at_least_1(max_pairs=max_pairs)
    run = _run(run, shard)
    return fill(
        run,
        run.pairs,
        {"max_pairs": max_pairs, "seed": seed},
        Pairing(max_pairs, seed),
        engine=engines.create(engine),
        batch_size=_GRIDS_AT_ONCE,
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
    engine: str | Mapping[str, Any] | Engine = "local",
    shard: str | tuple[int, int] | None = None,
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
        engine: where the work is done: "local", "ray", or a spec such as `{"name": "ray", "num_gpus": 1}`.
            The rows are the same.
        shard: do this part of the run alone, "I/N" with I from 0, in a folder of its own; see `dsd.merge`.
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
        Stopped: if the money or the time that the curator was given is spent, or (`OutOfService`) it has not
            answered 16 times in a row. What was judged is written, and the same call goes on from there.
    """
    _at_least_1(batch_size=batch_size)
    run, judge = _run(run, shard), curators.create(curator)
    spec = judging.spec_of(judge)
    table = run.verdicts(file_name(name or spec["curator"]["name"].rpartition(":")[2]))
    name_hint = " To keep both, give this one its own `name`."
    try:
        if dry_run:
            return judging.estimated(
                run, table, judge, overwrite=overwrite, retry_failed=retry_failed, name_hint=name_hint
            )
        if _has_pairs(run):  # else `fill` says what is missing, and nothing is created
            judge.keep_answers(run.answers)
        return fill(
            run,
            table,
            spec,
            Judging(judge),
            engine=engines.create(engine),
            batch_size=batch_size,
            overwrite=overwrite,
            retry_failed=retry_failed,
            progress=progress,
            name_hint=name_hint,
            counts=lambda table: judging.verdict_counts(table, judge),
            gauge=VerdictGauge(judge),
            why_failed=judging.why_failed,
            here=asked_here(judge),
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
    engine: str | Mapping[str, Any] | Engine = "local",
    shard: str | tuple[int, int] | None = None,
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
        engine: where the work is done: "local", "ray", or a spec such as `{"name": "ray", "num_gpus": 1}`.
            The rows are the same.
        shard: do this part of the run alone, "I/N" with I from 0, in a folder of its own; see `dsd.merge`.
        overwrite: discard what was cached for this backbone and conditioning.
        progress: show a progress bar on stderr.

    Raises:
        ValueError: if `batch_size` is below 1, or there is no such dtype.
        SpecError: if the cache was made with another spec of the conditioning or dtype.
        ManifestError: if the pairs were made anew since, or a shard is damaged.
    """
    from dsd import backbones
    from dsd import conditioning as conditionings
    from dsd.data.encode import torch_dtype
    from dsd.engines.encoding import encode_pairs

    # What is cheap to check is checked before the model is loaded, and before a folder is made.
    _at_least_1(batch_size=batch_size)
    torch_dtype(dtype)
    run, method = _run(run, shard), conditionings.create(conditioning)
    run.accepted(policy)
    model = backbones.load(backbone, parts=("vae", "text"))
    if device is not None:
        model.to(device)
    started = time.monotonic()
    with run.lock("encode"):
        run.check("pairs")
        ids = run.accepted(policy)
        ids = ids if captions is None else run.captioned(captions, ids)
        with watched(run, "encode", len(ids), progress=progress) as bar:
            table, added = encode_pairs(
                run,
                ids,
                model,
                method,
                engine=engines.create(engine),
                backbone_name=file_name(backbones.spec(model)["name"].rpartition(":")[2]),
                conditioning_spec=what(conditionings.spec(method)),
                batch_size=batch_size,
                dtype=dtype,
                device=device,
                overwrite=overwrite,
                captions=captions,
                advance=bar.advance,
            )
        run.save_manifest()
        return StageSummary(
            stage=table.kind.stage, rows=len(table), added=added, seconds=time.monotonic() - started
        )


def _at_least_1(**numbers: int | None) -> None:
    for name, number in numbers.items():
        if number is not None and number < 1:
            raise ValueError(f"`{name}` must be at least 1; got {number}.")


def _run(run: RunLike, shard: ShardLike | None) -> Run:
    whole = run if isinstance(run, Run) else Run(run)
    return whole if shard is None else Part(whole, *parse_shard(shard))


def _has_pairs(run: Run) -> bool:
    pairs = run.earlier("verdicts")
    return pairs is not None and pairs.exists
