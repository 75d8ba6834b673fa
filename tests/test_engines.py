"""What a batch holds is part of what its rows are: a stage stopped anywhere makes the same rows."""

import itertools

import numpy as np
import pytest

import dsd
from dsd import engines, prompts, teachers
from dsd.data.ids import Ids
from dsd.data.writer import TableWriter
from dsd.engines.base import Aligned, Engine, Job
from dsd.engines.local import LocalEngine
from dsd.types import Grid
from tests.cheap_world import picture, write_prompt_file

QUIET = {"progress": False}


class Neighbourly(teachers.Teacher):
    """Its grids depend on who stands in their batch, as those of a real model do in their last bits."""

    batch_size = 4

    def __init__(self):
        self.stop_at, self.calls = None, 0

    def draw(self, prompts, seeds):
        self.calls += 1
        if self.calls == self.stop_at:
            raise KeyboardInterrupt
        texts = [prompt.text for prompt in prompts]
        if len(texts) > 1 and any("005" in text for text in texts):
            raise RuntimeError("one of them is not liked")
        if "005" in texts[0]:
            raise RuntimeError("it is this one")
        return [
            Grid(image=picture(f"{i} {texts}"), prompt=prompt, seed=seed, teacher="neighbourly")
            for i, (prompt, seed) in enumerate(zip(prompts, seeds, strict=True))
        ]


def run_of(path, count=14):
    path.mkdir()
    run = dsd.Run(path / "run")
    dsd.write_prompts(run, writer=write_prompt_file(path / "p.txt", count), count=count, **QUIET)
    return run


def rows(table):
    return [row for shard in table.manifest.shards for row in table.whole(shard).to_pylist()]


@pytest.mark.parametrize("shard_rows", [1, 100])
def test_a_stage_that_is_stopped_anywhere_has_the_rows_of_one_that_is_not(tmp_path, monkeypatch, shard_rows):
    monkeypatch.setattr(TableWriter, "shard_rows", shard_rows)
    whole = run_of(tmp_path / "whole")
    dsd.draw_grids(whole, teacher=Neighbourly(), **QUIET)
    assert len(whole.grids) == 13
    for stop_at in (1, 2, 4, 6):
        run = run_of(tmp_path / str(stop_at))
        for attempt in itertools.count():
            teacher = Neighbourly()
            teacher.stop_at = stop_at if attempt < 3 else None
            try:
                dsd.draw_grids(run, teacher=teacher, **QUIET)
                break
            except KeyboardInterrupt:
                assert attempt < 3
        assert rows(run.grids) == rows(whole.grids)
        assert rows(run.failed("grids")) == rows(whole.failed("grids"))


def test_a_batch_that_is_half_there_is_done_as_a_whole_and_written_once(tmp_path):
    whole, run = run_of(tmp_path / "whole", 4), run_of(tmp_path / "half", 4)
    dsd.draw_grids(whole, teacher=Neighbourly(), **QUIET)
    dsd.draw_grids(run, teacher=Neighbourly(), limit=1, **QUIET)
    dsd.draw_grids(run, teacher=Neighbourly(), **QUIET)
    found = rows(run.grids)
    assert len(found) == 4
    assert found[1:] == rows(whole.grids)[1:]  # the first was drawn alone, as it was asked for


def test_batches_are_cut_at_fixed_places():
    ids = [f"{i}" for i in range(10)]

    def aligned(ids, done, size, whole=True):
        batches = Aligned(Ids(ids), np.array([i not in done for i in ids], dtype=bool), size, whole=whole)
        assert list(batches.ids()) == [row_id for batch in batches for row_id in batch]
        assert batches.done == {row_id for batch in batches for row_id in batch if row_id in done}
        return list(batches)

    assert aligned(ids, (), 4) == [ids[:4], ids[4:8], ids[8:]]
    assert aligned(ids, {"0", "5", "8", "9"}, 4) == [ids[:4], ids[4:8]]
    assert aligned(ids, {"0", "5", "8", "9"}, 4, whole=False) == [["1", "2", "3"], ["4", "6", "7"]]
    assert aligned(ids, {"0", "1", "2", "3", "8"}, 4) == [ids[4:8], ids[8:]]
    assert aligned(ids, set(ids), 4) == aligned([], (), 4) == []


def test_an_engine_of_ones_own(tmp_path):
    run = run_of(tmp_path / "own", 6)

    @engines.register("counting")
    class Counting(Engine):
        def __init__(self, most: int = 1) -> None:
            self.most, self.batches = most, []

        def run(self, job: Job):
            for done in LocalEngine().run(job):
                self.batches.append(len(done[0]))
                yield done

    try:
        engine = engines.create({"name": "counting", "most": 2})
        dsd.draw_grids(run, teacher="cheap", engine=engine, **QUIET)
        assert engine.batches == [3, 3]
        assert dsd.draw_grids(run, teacher="cheap", engine="counting", **QUIET).added == 0
        assert engines.spec(engine) == {"name": "counting", "most": 2}
    finally:
        engines.registry._registered.pop("counting")
    with pytest.raises(LookupError, match=r"No Engine is named 'locl'\. Did you mean 'local'"):
        dsd.draw_grids(run, teacher="cheap", engine="locl", **QUIET)


def test_spans_of_prompts_are_written_elsewhere_in_order(tmp_path):
    class Elsewhere(LocalEngine):
        remote = True
        spans = ()

        def run(self, job: Job):
            Elsewhere.spans = [batch for (batch,) in job.batches]
            return super().run(job)

    writer = write_prompt_file(tmp_path / "p.txt", 700)
    run, plain = dsd.Run(tmp_path / "run"), dsd.Run(tmp_path / "plain")
    dsd.write_prompts(run, writer=writer, count=100, engine=Elsewhere(), **QUIET)
    dsd.write_prompts(run, writer=writer, count=700, engine=Elsewhere(), **QUIET)
    assert Elsewhere.spans == ["100-356", "356-612", "612-700"]
    dsd.write_prompts(plain, writer=writer, count=700, **QUIET)
    assert rows(run.prompts) == rows(plain.prompts)

    class Careful(prompts.PromptWriter):
        """Must know all that were written, so it writes here."""

        def write(self, count, seed, *, start=0):
            return prompts.create(writer).write(count, seed, start=start)

        def resume(self, written):
            self.told = [prompt.id for prompt in written]

    Elsewhere.spans = ()
    dsd.write_prompts(dsd.Run(tmp_path / "careful"), writer=Careful(), count=9, engine=Elsewhere(), **QUIET)
    assert Elsewhere.spans == ()
