"""Parts of a run, made apart and merged, are the run that is made without parts."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import dsd
from dsd import backbones, captioners
from dsd.captioning import caption_pairs
from dsd.cli import main
from dsd.data import atomic
from dsd.data.manifest import ManifestError, SpecError, ids_digest
from dsd.data.part import Part, bounds, parse_shard
from dsd.data.writer import TableWriter
from tests.cheap_world import make_run, write_prompt_file

QUIET = {"progress": False}
FAULTS = {"003": "raise", "007": "black"}


def rows(run):
    """Everything a run holds, in order."""
    tables = {name: run.table(name) for name in run.stages()}
    return {
        name: [row for shard in table.manifest.shards for row in table.whole(shard).to_pylist()]
        for name, table in tables.items()
    }


class Namer(captioners.Captioner):
    def caption(self, pair):
        return f"a thing of {pair.target.getpixel((0, 0))}"


def prompts(path, count=12):
    run = dsd.Run(path / "run")
    dsd.write_prompts(run, writer=write_prompt_file(path / "run.txt", count), count=count, **QUIET)
    return run


def part_stages(run, shard, **teacher):
    dsd.draw_grids(run, teacher={"name": "cheap", "faults": FAULTS, **teacher}, shard=shard, **QUIET)
    dsd.make_pairs(run, shard=shard, **QUIET)
    return dsd.curate(run, curator="parity", shard=shard, **QUIET)


@pytest.fixture
def expected(tmp_path):
    (tmp_path / "whole").mkdir()
    return make_run(tmp_path / "whole" / "run", 12, faults=FAULTS)


@pytest.mark.parametrize("count", [1, 2, 5, 40, 300])
@pytest.mark.parametrize("total", [0, 1, 39, 64, 1000, 100_000])
def test_every_row_is_in_one_part(count, total):
    cuts = [bounds(i, count, total) for i in range(count)]
    assert [row for start, stop in cuts for row in range(start, stop)] == list(range(total))
    lengths = [stop - start for start, stop in cuts]
    assert max(lengths) - min(lengths) <= 128
    if total >= 256 * count:
        assert all(start % 64 == 0 for start, _ in cuts)


@pytest.mark.parametrize("given", ["4/4", "-1/4", "1", "1/0", "a/b", "1/2/3", (3, 2), (), (1,), "0.5/2", ""])
def test_a_shard_that_is_none_is_refused(given):
    with pytest.raises(ValueError, match="`shard` must be I/N"):
        parse_shard(given)


def test_merged_parts_are_the_whole_run(tmp_path, expected):
    run = prompts(tmp_path)
    for index in (2, 0, 3, 1):  # jobs end in any order
        part_stages(run, f"{index}/4")
    assert run.stages() == ["prompts"]
    made_from = {"stage": "prompts", "rows": 3, "ids": ids_digest(run.prompts.ids()[3:6])}
    assert Part(run, 1, 4).grids.manifest.made_from == made_from
    summary = dsd.merge(run)
    assert summary.added == {
        "grids": 10, "pairs": 120, "verdicts/parity": 120, "failed/grids": 2
    }  # fmt: skip
    assert rows(run) == rows(expected)
    assert run.verify() == []
    for stage in run.stages()[1:]:  # the prompts' files have names of their own
        one, other = run.table(stage).manifest, expected.table(stage).manifest
        assert (one.ids, one.rows, one.spec, one.made_from, one.complete, one.counts) == (
            other.ids, other.rows, other.spec, other.made_from, other.complete, other.counts,
        )  # fmt: skip
    again = dsd.merge(run)
    assert set(again.added.values()) == {0}
    assert rows(run) == rows(expected)
    # and the stages go on from there
    writer = write_prompt_file(tmp_path / "run.txt", 14)
    assert dsd.write_prompts(run, writer=writer, count=14, **QUIET).added == 2
    assert dsd.draw_grids(run, teacher={"name": "cheap", "faults": FAULTS}, **QUIET).added == 2


def test_a_part_can_begin_at_any_stage(tmp_path, expected, tiny_flux):
    """Verdicts, captions and encodings in parts of a run whose pairs are there."""
    backbone = backbones.load(str(tiny_flux), parts=("vae", "text"))
    run = make_run(tmp_path / "run", 12, faults=FAULTS, curator=None)
    for one, shards in ((expected, (None,)), (run, ("1/3", "0/3", "2/3"))):
        for shard in shards:
            if shard is not None:
                dsd.curate(one, curator="parity", shard=shard, **QUIET)
            caption_pairs(one, Namer(), name="namer", shard=shard, **QUIET)
            dsd.encode(one, backbone, captions="namer", batch_size=4, shard=shard, **QUIET)
    dsd.merge(run)
    found, wanted = rows(run), rows(expected)
    assert list(found) == list(wanted)
    for stage in wanted:
        if stage.startswith("encoded/") and not stage.endswith("/pairs"):
            ids = [row["id"] for row in found[stage]]
            assert len(set(ids)) == len(ids)
            assert set(ids) == {row["id"] for row in wanted[stage]}
        elif stage.endswith("/pairs"):  # the same pairs in the same order; numbers by batches of other pairs
            assert [{**r, "tensors": 0} for r in found[stage]] == [{**r, "tensors": 0} for r in wanted[stage]]
        else:
            assert found[stage] == wanted[stage]
    assert run.verify() == []


def test_parts_in_which_everything_failed_or_nothing_is(tmp_path):
    (tmp_path / "whole").mkdir()
    expected = make_run(tmp_path / "whole" / "run", 3)
    run = prompts(tmp_path, 3)
    for index in range(5):  # two of which have no prompts
        dsd.draw_grids(run, teacher={"name": "cheap"}, shard=(index, 5), **QUIET)
        dsd.make_pairs(run, shard=(index, 5), **QUIET)
        dsd.curate(run, curator="parity", shard=(index, 5), **QUIET)
    dsd.merge(run)
    assert rows(run) == rows(expected)


def test_missing_and_unfinished_parts_are_named(tmp_path, expected):
    run = prompts(tmp_path)
    for index in (0, 3):
        part_stages(run, (index, 4))
    before = rows(run)
    with pytest.raises(ManifestError, match="Parts 1, 2 of 4 are missing"):
        dsd.merge(run)
    part_stages(run, (1, 4))
    dsd.draw_grids(run, teacher={"name": "cheap", "faults": FAULTS}, shard="2/4", **QUIET)
    with pytest.raises(ManifestError, match=r"00002-of-00004 has no rows of 'pairs', and others have"):
        dsd.merge(run)
    assert rows(run) == before
    part = Part(run, 2, 4)
    dsd.make_pairs(run, shard="2/4", **QUIET)
    manifest = part.pairs.folder / ".manifest.json"
    manifest.write_text(manifest.read_text().replace('"complete": true', '"complete": false'))
    dsd.curate(run, curator="parity", shard="2/4", **QUIET)
    with pytest.raises(ManifestError, match=r"00002-of-00004 is not complete in 'pairs'"):
        dsd.merge(run)
    assert rows(run) == before
    assert dsd.merge(run, partial=True).added["grids"] == 10
    assert not run.pairs.manifest.complete
    dsd.make_pairs(run, shard="2/4", **QUIET)
    assert dsd.merge(run).added["pairs"] == 0
    assert run.pairs.manifest.complete
    assert rows(run) == rows(expected)


def test_partial_takes_what_there_is(tmp_path, expected):
    run = prompts(tmp_path)
    part_stages(run, (1, 4))
    summary = dsd.merge(run, partial=True)
    assert list(summary.missing) == [0, 2, 3]
    assert "parts 0, 2, 3 are missing" in str(summary)
    assert len(run.grids) == 2
    for index in (0, 2, 3):
        part_stages(run, (index, 4))
    dsd.merge(run)
    found, wanted = rows(run), rows(expected)
    for stage in wanted:  # what was merged first stands first
        name = run.table(stage).kind.id_column
        assert sorted(found[stage], key=lambda row: row[name]) == sorted(
            wanted[stage], key=lambda row: row[name]
        )
    with pytest.raises(ValueError, match="has rows of 'grids' already"):
        part_stages(expected, (0, 4))


def test_what_does_not_belong_together_is_refused(tmp_path, expected):
    run = prompts(tmp_path)
    part_stages(run, (0, 2))
    with pytest.raises(ValueError, match="give one of them"):
        dsd.draw_grids(run, teacher="cheap", limit=2, shard=(0, 2), **QUIET)
    dsd.draw_grids(run, teacher={"name": "cheap", "faults": FAULTS, "size": 32}, shard=(1, 2), **QUIET)
    dsd.make_pairs(run, shard=(1, 2), **QUIET)
    dsd.curate(run, curator="parity", shard=(1, 2), **QUIET)
    with pytest.raises(SpecError, match=r"00001-of-00002 and .*00000-of-00002 were not made alike.*size"):
        dsd.merge(run)
    part_stages(run, (2, 3))
    with pytest.raises(ManifestError, match=r"different divisions: of 2 and of 3"):
        dsd.merge(run)
    assert run.stages() == ["prompts"]
    with pytest.raises(FileNotFoundError, match="has no parts to merge"):
        dsd.merge(expected)
    with pytest.raises(FileNotFoundError, match=r"no rows in .*nowhere"):
        dsd.merge(run, [str(tmp_path / "nowhere")])
    with pytest.raises(ValueError, match="into itself"):
        dsd.merge(run, [str(run.path)])
    (tmp_path / "other").mkdir()
    other = prompts(tmp_path / "other", 5)
    with pytest.raises(ManifestError, match=r"was made from 12 rows of 'prompts'; .* has 5"):
        dsd.merge(other, [str(Part(run, i, 2).path) for i in range(2)])


def test_a_part_sees_that_the_whole_run_has_changed(tmp_path):
    run = prompts(tmp_path)
    dsd.draw_grids(run, teacher="cheap", shard=(0, 2), **QUIET)
    writer = write_prompt_file(tmp_path / "run.txt", 20)
    dsd.write_prompts(run, writer=writer, count=20, **QUIET)
    with pytest.raises(ManifestError, match=r"had 12 rows of 'prompts'; now it has 20"):
        dsd.draw_grids(run, teacher="cheap", shard=(0, 2), **QUIET)


def test_runs_made_apart_are_joined_and_no_row_twice(tmp_path):
    one, other = (make_run(tmp_path / name, count) for name, count in (("one", 3), ("other", 3)))
    (tmp_path / "b.txt").write_text("something else a.\nsomething else b.\n")
    third = dsd.Run(tmp_path / "third")
    file = {"name": "file", "path": str(tmp_path / "one.txt")}
    assert rows(one)["prompts"] == rows(other)["prompts"]
    with pytest.raises(SpecError, match="not made alike"):  # the file's path is part of the spec
        dsd.merge(third, [str(one.path), str(other.path)])
    assert not third.stages()
    twin = dsd.Run(tmp_path / "twin")
    dsd.write_prompts(twin, writer=file, count=3, **QUIET)
    dsd.draw_grids(twin, teacher="cheap", **QUIET)
    with pytest.raises(ValueError, match="have rows of 'prompts' made from"):
        dsd.merge(third, [str(one.path), str(twin.path)], partial=True)
    dsd.merge(third, [str(one.path)])
    assert rows(third) == rows(one)
    assert third.verify() == []


def test_a_row_in_two_parts_is_refused(tmp_path, monkeypatch):
    run = prompts(tmp_path)
    part_stages(run, (0, 2))
    monkeypatch.setattr("dsd.data.part.bounds", lambda index, count, total: (5, 12))
    part_stages(run, (1, 2))
    with pytest.raises(ValueError, match=r"Both .*00000-of-00002 and .*00001-of-00002 have rows of 'grids'"):
        dsd.merge(run)


def test_a_damaged_part_is_not_merged(tmp_path):
    run = prompts(tmp_path)
    for index in range(2):
        part_stages(run, (index, 2))
    shard = next(Part(run, 1, 2).pairs.folder.glob("part-*.parquet"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    with pytest.raises(ManifestError, match="is damaged"):
        dsd.merge(run)


def test_a_merge_that_is_killed_at_any_step_goes_on(tmp_path, expected, monkeypatch):
    monkeypatch.setattr(TableWriter, "shard_rows", 30)
    run = prompts(tmp_path)
    for index in range(2):
        part_stages(run, (index, 2))

    class Killed(BaseException):
        pass

    true_replace, steps = os.replace, 0

    def attempt(stop_at):
        nonlocal steps
        steps = 0

        def replace(*args):
            nonlocal steps
            steps += 1
            if steps == stop_at:
                # As if killed: what is in memory is not written when the error passes.
                monkeypatch.setattr(TableWriter, "__exit__", lambda *args: None)
                raise Killed
            return true_replace(*args)

        with monkeypatch.context() as patch:
            patch.setattr(atomic.os, "replace", replace)
            true_exit = TableWriter.__exit__
            try:
                dsd.merge(run)
            except Killed:
                return False
            finally:
                monkeypatch.setattr(TableWriter, "__exit__", true_exit)
        return True

    stops = 0
    while not attempt(stops + 1):
        stops += 1
        assert stops < 100
    assert stops > 5
    assert rows(run) == rows(expected)
    assert run.verify() == []


def test_by_the_command_line_as_a_slurm_array(tmp_path, expected, capsys):
    """Four jobs at the same time, one of which is killed and begun again; then a merge."""
    run = prompts(tmp_path)
    root = Path(dsd.__file__).parents[1]
    program = (
        "import sys; from tests import cheap_world; from dsd.cli import main\n"
        "run, shard = sys.argv[1:]\n"
        'faults = \'{"003": raise, "007": black}\'\n'
        "for words in (['grids', '--teacher', '{name: cheap, pause_s: 0.05, faults: ' + faults + '}'],"
        " ['pairs'], ['curate', '--curator', 'parity']):\n"
        "    assert main([words[0], '--run', run, '--shard', shard, '--no_progress', *words[1:]]) == 0\n"
    )
    command = [sys.executable, "-c", program, str(run.path)]
    with subprocess.Popen([*command, "1/2"], cwd=root, stderr=subprocess.DEVNULL) as killed:
        part = Part(run, 1, 2)
        deadline = time.monotonic() + 60
        while not (part.path / "grids").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        os.kill(killed.pid, signal.SIGKILL)
    jobs = [subprocess.Popen([*command, f"{i}/2"], cwd=root, stdout=subprocess.PIPE) for i in range(2)]
    assert [job.communicate() and job.returncode for job in jobs] == [0, 0]
    assert main(["merge", str(run.path)]) == 0
    assert "merged 2: grids 10 (10 new), pairs 120 (120 new)" in capsys.readouterr().out
    assert rows(run) == rows(expected)
    assert main(["merge", str(tmp_path / "both"), str(run.path)]) == 0
    assert rows(dsd.Run(tmp_path / "both")) == rows(expected)
    assert main(["grids", "--run", str(run.path), "--shard", "4/2"]) == 2
    assert "`shard` must be I/N" in capsys.readouterr().err


def test_answers_that_were_paid_for_come_along(tmp_path):
    from dsd.llm.cache import RequestCache

    run = prompts(tmp_path)
    for index in range(2):
        part_stages(run, (index, 2))
        cache = RequestCache(Part(run, index, 2).answers)
        cache._connection.execute(
            "INSERT INTO answers VALUES (?, ?)", (f"key {index}", json.dumps({"n": index}))
        )
        cache._connection.execute("INSERT INTO answers VALUES (?, ?)", ("both", json.dumps({"n": 5})))
        cache.close()
    dsd.merge(run)
    assert len(RequestCache(run.answers)) == 3
