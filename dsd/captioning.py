"""The stage of captions: beside those that the pairs have, in a table of their own for each captioner."""

from collections.abc import Mapping
from os import PathLike
from typing import Any

from dsd import captioners, engines
from dsd.data.part import Part, parse_shard
from dsd.data.rows import Captioned
from dsd.data.store import Run
from dsd.data.table import Table
from dsd.engines import StageSummary, fill
from dsd.engines.base import Engine
from dsd.engines.estimates import estimated
from dsd.engines.specs import file_name, what
from dsd.engines.spending import SpendingGauge
from dsd.engines.work import Captioning, asked_here

RunLike = Run | str | PathLike[str]


def caption_pairs(
    run: RunLike,
    captioner: str | Mapping[str, Any] | captioners.Captioner = "panel",
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
    """Let a captioner caption every pair that it has not captioned yet. The pairs themselves stay as they
    are.

    The captions stand in `captions/NAME/`, and are trained on with `PairDataModule(run, captions=NAME)`. A
    pair that has none, because a model declined or made no sense, is recorded in
    `run.failed("captions/NAME")` with the reason.

    Args:
        run: the run or its folder.
        captioner: a captioner, its name or its spec.
        name: under which to keep the captions, so that two kinds can stand side by side; by default the
            captioner's registered name.
        batch_size: how many pairs the captioner gets at once.
        engine: where the work is done: "local", "ray", or a spec such as `{"name": "ray", "num_gpus": 1}`.
            The rows are the same.
        shard: do this part of the run alone, "I/N" with I from 0, in a folder of its own; see `dsd.merge`.
        overwrite: discard the captions of that name.
        retry_failed: try those pairs again that failed before.
        dry_run: ask nobody who is paid and write nothing; tell how many pairs there are to caption, and what
            that would take in calls, tokens and dollars, estimated from a few of them.
        progress: show a progress bar on stderr, with tokens, dollars, and what the whole call will cost at
            that rate.

    Raises:
        ValueError: if `batch_size` is below 1.
        SpecError: if the captions of that name come from another spec.
        ManifestError: if the pairs were made anew since, or a shard is damaged.
        RuntimeError: if all pairs fail, or the first 16: then it is not the pairs.
        Stopped: if the money or the time that the captioner was given is spent, or its model has not answered
            for 16 pairs in a row (`OutOfService`). What was done is written, and the same call goes on later.
    """
    if batch_size < 1:
        raise ValueError(f"`batch_size` must be at least 1; got {batch_size}.")
    run, author = run if isinstance(run, Run) else Run(run), captioners.create(captioner)
    run = run if shard is None else Part(run, *parse_shard(shard))
    spec: dict[str, Any] = {"captioner": what(captioners.spec(author))}
    spec |= {"fingerprint": author.fingerprint} if author.fingerprint else {}
    table = run.captions(file_name(name or spec["captioner"]["name"].rpartition(":")[2]))
    name_hint = " To keep both, give this one its own `name`."

    def known(table: Table[Captioned]) -> set[str]:
        failed = run.failed(table.kind.stage)
        return table.keys() | (failed.keys() if failed.exists and not retry_failed else set())

    try:
        if dry_run:
            return estimated(
                run,
                table,
                spec,
                author.estimate,
                done=known,
                to_do="to caption",
                overwrite=overwrite,
                name_hint=name_hint,
            )
        pairs = run.earlier("captions")
        if pairs is not None and pairs.exists:  # else `fill` says what is missing, and nothing is created
            author.keep_answers(run.answers)
        return fill(
            run,
            table,
            spec,
            Captioning(author),
            engine=engines.create(engine),
            batch_size=batch_size,
            overwrite=overwrite,
            retry_failed=retry_failed,
            progress=progress,
            name_hint=name_hint,
            gauge=SpendingGauge(author.ledger),
            here=asked_here(author),
        )
    finally:
        if author is not captioner:
            author.close()
