"""The stages do what is missing, the same however they are cut up, and lose nothing to one that fails."""

import numpy as np
import pytest
from PIL import Image

import dsd
from dsd import curators, grids, stages, teachers
from dsd.data.writer import TableWriter
from dsd.types import Grid, Verdict
from tests.cheap_world import CheapTeacher, make_run, picture, write_prompt_file
from tests.stage_runs import QUIET, prompted, rows


@pytest.fixture
def run(tmp_path):
    return prompted(tmp_path)


def test_a_run_from_end_to_end(run):
    summary = dsd.draw_grids(run, teacher="cheap", **QUIET)
    assert (summary.stage, summary.rows, summary.added, summary.failed) == ("grids", 6, 6, 0)
    for grid in run.grids:
        seed = stages.draw_seed(0, grid.prompt.id)
        assert grid.seed == seed
        assert grid.image.tobytes() == picture(f"{grid.prompt.text} {seed}").tobytes()
    assert dsd.make_pairs(str(run.path), **QUIET).rows == 72  # a path will do
    by_id = {grid.id: grid for grid in run.grids}
    for pair in run.pairs:
        panels = grids.split(by_id[pair.grid_id].image, "2x2")
        assert pair.reference.tobytes() == panels[pair.reference_panel].tobytes()
        assert pair.target.tobytes() == panels[pair.target_panel].tobytes()
    summary = dsd.curate(run, curator="parity", **QUIET)
    said = {judged.pair_id: judged.verdict for judged in run.verdicts("parity")}
    judge = curators.create("parity")
    assert said == {pair_id: judge.judge(pair) for pair_id, pair in run.pairs.items()}
    accepted = [pair_id for pair_id in run.pairs.ids() if said[pair_id].accepted]
    rejected = sum(verdict.status == "rejected" for verdict in said.values())
    assert run.accepted() == accepted
    assert summary.counts["accepted"] == len(accepted)
    assert summary.counts["yield"] == pytest.approx(len(accepted) / (len(accepted) + rejected), abs=1e-4)
    assert summary.counts["cost_usd"] == pytest.approx(0.25 * (len(accepted) + rejected))
    assert "72 rows, 72 new" in str(summary)


def test_draw_seeds_are_fixed():
    """They are part of what a run is: a change would draw other grids from the same prompts."""
    assert stages.draw_seed(0, "a") == 0x9DF3C5FA  # printf '0:a' | sha256sum
    assert len({stages.draw_seed(seed, name) for seed in range(50) for name in "abcdefgh"}) == 400


@pytest.mark.parametrize("batch_size", [1, 4, 100])
@pytest.mark.parametrize("shard_rows", [1, 5])
def test_rows_do_not_depend_on_batches_shards_or_stops(tmp_path, monkeypatch, batch_size, shard_rows):
    expected = rows(make_run(tmp_path / "a" / "run", 4))
    monkeypatch.setattr(TableWriter, "shard_rows", shard_rows)
    run = dsd.Run(tmp_path / "b" / "run")
    writer = write_prompt_file(tmp_path / "a" / "run.txt", 4)
    for count in (1, 2, 4):
        dsd.write_prompts(run, writer=writer, count=count, **QUIET)
    for limit in (1, 3, None):
        dsd.draw_grids(run, teacher={"name": "cheap", "batch_size": batch_size}, limit=limit, **QUIET)
        dsd.make_pairs(run, **QUIET)
        dsd.curate(run, curator="parity", batch_size=batch_size, **QUIET)
    assert rows(run) == expected


def test_a_second_call_does_nothing(run):
    teacher = CheapTeacher()
    dsd.draw_grids(run, teacher=teacher, **QUIET)
    dsd.draw_grids(run, teacher=teacher, **QUIET)
    assert len(teacher.drawn) == 6
    before = (run.path / "grids" / "part-00000.parquet").stat().st_mtime_ns
    assert dsd.draw_grids(run, teacher=teacher, **QUIET).added == 0
    assert (run.path / "grids" / "part-00000.parquet").stat().st_mtime_ns == before


def test_a_longer_list_of_prompts_adds_to_all_stages(run):
    dsd.draw_grids(run, teacher="cheap", **QUIET)
    dsd.make_pairs(run, **QUIET)
    old = run.pairs.ids()
    file = {"name": "file", "path": str(run.path.parent / "prompts.txt")}
    assert dsd.write_prompts(run, writer=file, count=8, **QUIET).added == 2
    assert dsd.draw_grids(run, teacher="cheap", **QUIET).added == 2
    assert dsd.make_pairs(run, **QUIET).added == 24
    assert run.pairs.ids()[:72] == old


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("raise", "RuntimeError: cannot draw 'prompt number 004.'"),
        ("size", "ValueError: A 15 x 16 px grid does not divide"),
        ("black", "The picture is one colour, (0, 0, 0)"),
        ("mode", "The picture has mode L, not RGB"),
    ],
)
def test_one_failing_grid_is_recorded_and_the_others_drawn(run, fault, reason):
    summary = dsd.draw_grids(run, teacher=CheapTeacher(faults={"004": fault}), **QUIET)
    assert (summary.rows, summary.failed) == (5, 1)
    (failure,) = run.failed("grids")
    assert failure.source == list(run.prompts)[4].id
    assert failure.reason.startswith(reason)
    assert run.manifest()["stages"]["grids"]["counts"] == {"failed": 1}
    again = dsd.draw_grids(run, teacher=CheapTeacher(faults={"004": fault}), **QUIET)
    assert (again.added, again.failed) == (0, 1)


def test_failed_grids_are_tried_again_when_asked(run):
    teacher = CheapTeacher()
    teacher.faults = {"002": "raise"}
    dsd.draw_grids(run, teacher=teacher, **QUIET)
    teacher.faults = {}
    teacher.drawn.clear()
    assert dsd.draw_grids(run, teacher=teacher, **QUIET).failed == 1
    assert teacher.drawn == []
    summary = dsd.draw_grids(run, teacher=teacher, retry_failed=True, **QUIET)
    assert (summary.rows, summary.added, summary.failed) == (6, 1, 0)
    assert teacher.drawn == [list(run.prompts)[2].id]


def test_a_teacher_that_never_works_stops_the_stage(tmp_path):
    run = dsd.Run(tmp_path / "run")
    dsd.write_prompts(run, writer=write_prompt_file(tmp_path / "prompts.txt", 40), count=40, **QUIET)
    with pytest.raises(
        RuntimeError, match="The first 16 of 'grids' all failed, at last with: RuntimeError: cannot draw"
    ):
        dsd.draw_grids(run, teacher=CheapTeacher(faults={"prompt": "raise"}), **QUIET)
    assert not run.failed("grids").exists
    with pytest.raises(RuntimeError, match=r"The first 3 of 'grids' all failed.*They are not recorded"):
        dsd.draw_grids(run, teacher=CheapTeacher(faults={"prompt": "raise"}), limit=3, **QUIET)
    assert not run.failed("grids").exists
    assert run.manifest()["stages"]["grids"]["complete"] is False
    # Once something works, so many failures are recorded: they are the prompts' own.
    few = CheapTeacher(faults={f"{i:03d}": "raise" for i in range(1, 30)})
    summary = dsd.draw_grids(run, teacher=few, overwrite=True, **QUIET)
    assert (summary.rows, summary.failed) == (11, 29)
    summary = dsd.draw_grids(run, teacher=few, retry_failed=True, **QUIET)
    assert (summary.rows, summary.failed) == (11, 29)


def test_a_grid_that_cannot_be_cut_is_recorded(run):
    dsd.draw_grids(run, teacher="cheap", **QUIET)
    prompt = next(iter(run.prompts))
    bad = dsd.GridPrompt(text="two captions", subject="", panels=("a", "b"), layout="2x2")
    with TableWriter(run.prompts, run.prompts.manifest.spec) as writer:
        writer.add([bad])
    dsd.draw_grids(run, teacher="cheap", **QUIET)
    summary = dsd.make_pairs(run, **QUIET)
    assert (summary.rows, summary.failed) == (72, 1)
    assert "describes 2 panels" in next(iter(run.failed("pairs"))).reason
    assert prompt.id in run.prompts


def test_failed_verdicts_are_judged_again_when_asked(run):
    dsd.draw_grids(run, teacher="cheap", **QUIET)
    dsd.make_pairs(run, **QUIET)
    unlucky = set(run.pairs.ids()[10:50:3])

    @curators.register("moody")
    class Moody(curators.Curator):
        broken = True

        def judge(self, pair):
            if self.broken and pair.id in unlucky:
                raise ConnectionError("lost")
            return Verdict(keep=True)

    first = dsd.curate(run, curator="moody", **QUIET)
    assert (first.rows, first.failed, first.counts["accepted"]) == (72, len(unlucky), 72 - len(unlucky))
    Moody.broken = False
    assert dsd.curate(run, curator="moody", **QUIET).added == 0
    second = dsd.curate(run, curator="moody", retry_failed=True, **QUIET)
    assert (second.rows, second.added, second.failed) == (72, len(unlucky), 0)
    ids = run.verdicts("moody").ids()
    assert sorted(ids) == sorted(run.pairs.ids())
    table = run.verdicts("moody")
    parts = {path.name for path in table.folder.glob("part-*")}
    assert parts == {shard.file for shard in table.manifest.shards}
    assert run.verify() == []


def test_overwrite_starts_again(run):
    dsd.draw_grids(run, teacher=CheapTeacher(faults={"001": "raise"}), **QUIET)
    summary = dsd.draw_grids(run, teacher={"name": "cheap", "size": 32}, overwrite=True, **QUIET)
    assert (summary.rows, summary.failed) == (6, 0)
    assert {grid.image.size for grid in run.grids} == {(32, 32)}


def test_an_interrupted_stage_keeps_what_it_has(run):
    class Stopped(CheapTeacher):
        def draw(self, prompts, seeds):
            if len(self.drawn) == 4:
                raise KeyboardInterrupt
            return super().draw(prompts, seeds)

    with pytest.raises(KeyboardInterrupt):
        dsd.draw_grids(run, teacher=Stopped(batch_size=2), **QUIET)
    assert len(run.grids) == 4
    assert run.manifest()["stages"]["grids"]["complete"] is False


def test_errors_say_what_to_do_first(tmp_path, run):
    with pytest.raises(FileNotFoundError, match=r"There is no run in .*nowhere"):
        dsd.draw_grids(tmp_path / "nowhere", teacher="cheap", **QUIET)
    with pytest.raises(FileNotFoundError, match=r"There is no run in .*nowhere"):
        dsd.encode(tmp_path / "nowhere", **QUIET)
    assert not (tmp_path / "nowhere").exists()
    with pytest.raises(FileNotFoundError, match=r"no rows of the stage 'grids' yet.*draw_grids"):
        dsd.make_pairs(run, **QUIET)
    with pytest.raises(LookupError, match="Did you mean 'parallel'"):
        dsd.encode(run, conditioning="paralel", **QUIET)
    with pytest.raises(ValueError, match="Unknown dtype 'bfloat17'"):
        dsd.encode(run, dtype="bfloat17", **QUIET)
    with pytest.raises(LookupError, match="Did you mean 'parity'"):
        dsd.curate(run, curator="paritx", **QUIET)


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("count", lambda run: dsd.write_prompts(run, count=0)),
        ("limit", lambda run: dsd.draw_grids(run, teacher="cheap", limit=0)),
        ("batch_size", lambda run: dsd.draw_grids(run, teacher={"name": "cheap", "batch_size": 0})),
        ("max_pairs", lambda run: dsd.make_pairs(run, max_pairs=0)),
        ("batch_size", lambda run: dsd.curate(run, curator="parity", batch_size=0)),
        ("batch_size", lambda run: dsd.encode(run, batch_size=0)),
    ],
)
def test_a_count_below_one_is_refused_before_anything_is_written(run, name, call):
    before = sorted(run.path.rglob("*"))
    with pytest.raises(ValueError, match=f"^`{name}` must be at least 1; got 0.$"):
        call(run)
    assert sorted(run.path.rglob("*")) == before


def test_plug_ins_that_break_their_promise_are_named(run):
    class Short(CheapTeacher):
        def draw(self, prompts, seeds):
            return super().draw(prompts, seeds)[:1]

    with pytest.raises(ValueError, match=r"Short\.draw returned 1 grids for 3 prompts"):
        dsd.draw_grids(run, teacher=Short(), **QUIET)

    class Swapped(CheapTeacher):
        def draw(self, prompts, seeds):
            return super().draw(prompts, seeds)[::-1]

    with pytest.raises(ValueError, match="returned a grid of prompt"):
        dsd.draw_grids(run, teacher=Swapped(), overwrite=True, **QUIET)


def test_a_prompt_shard_set_aside_is_written_again(run, monkeypatch):
    monkeypatch.setattr(TableWriter, "shard_rows", 2)
    file = {"name": "file", "path": str(run.path.parent / "prompts.txt")}
    dsd.write_prompts(run, writer=file, count=10, overwrite=True, **QUIET)
    before = run.prompts.ids()
    (run.path / "prompts" / "part-00001.parquet").unlink()
    assert run.mend("prompts") == 2
    dsd.write_prompts(run, writer=file, count=10, **QUIET)
    assert sorted(run.prompts.ids()) == sorted(before)


def test_progress_goes_to_stderr(run, capsys):
    dsd.draw_grids(run, teacher="cheap")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "grids" in captured.err
    assert "6/6" in captured.err


def test_flat_pictures_only(run):
    """A dark picture that shows something is no failure."""
    dim = np.zeros((16, 16, 3), np.uint8)
    dim[:8] = 12

    class Dim(CheapTeacher):
        def draw(self, prompts, seeds):
            return [Grid(image=Image.fromarray(dim), prompt=p, seed=s, teacher="dim")
                    for p, s in zip(prompts, seeds, strict=True)]  # fmt: skip

    assert dsd.draw_grids(run, teacher=Dim(), **QUIET).failed == 0
    assert "cheap" in teachers.names()
