"""A run in a store, of cheap stand-ins and in small shards; other processes make it too, and are killed."""

import multiprocessing
import os

import dsd
from dsd.data.writer import TableWriter
from tests.cheap_world import CheapTeacher, ParityCurator

COUNT, SHARD_ROWS = 5, 4
assert CheapTeacher
assert ParityCurator


def stages(run, captions=False):
    """Prompts, grids, pairs and verdicts; captions if asked for."""
    dsd.write_prompts(run, writer="template", count=COUNT, progress=False)
    dsd.draw_grids(run, teacher="cheap", progress=False)
    dsd.make_pairs(run, progress=False)
    dsd.curate(run, curator="parity", progress=False)
    if captions:
        dsd.caption_pairs(run, captioner="panel", progress=False)
    return dsd.Run(run)


def child(run, environment, answers):
    os.environ |= environment
    TableWriter.shard_rows = SHARD_ROWS
    try:
        stages(run)
        answers.put("done")
    except Exception as error:
        answers.put(f"{type(error).__name__}: {error}")


def begin(run, environment):
    """Make the run in a new process, forked by a server that has done the imports and nothing else."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    answers = context.Queue()
    process = context.Process(target=child, args=(run, environment, answers))
    process.start()
    return process, answers
