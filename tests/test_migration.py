"""Runs of earlier formats are read, gone on with and migrated; those of later ones are refused."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

import dsd
from dsd.data import manifest as manifests
from dsd.data.manifest import FORMAT, ManifestError, StageManifest, written_format
from dsd.data.rows import PROMPTS, schema
from dsd.data.table import Table
from dsd.data.writer import TableWriter
from dsd.types import GridPrompt
from tests.cheap_world import make_run

OLD = Path(__file__).parent / "data" / "run-format-1"
"""Three grids of the cheap world, written by the first version of the store (format 1, no footers)."""


@pytest.fixture
def old(tmp_path):
    shutil.copytree(OLD, tmp_path / "run")
    return dsd.Run(tmp_path / "run")


def manifest_of(run, stage):
    return json.loads((run.path / stage / ".manifest.json").read_text())


def test_the_fixture_is_of_the_first_format():
    found = manifest_of(dsd.Run(OLD), "pairs")
    assert found["format"] == 1 < FORMAT
    assert len(found["shards"]) == 3
    assert not any("footer" in shard for shard in found["shards"])


def test_an_old_run_reads_as_one_made_today(old, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "new").mkdir()
    new = make_run(tmp_path / "new" / "run", 3)
    assert old.stages() == new.stages()
    for stage in old.stages():
        assert old.table(stage).ids() == new.table(stage).ids()
        assert list(old.table(stage).rows()) == list(new.table(stage).rows())
    assert old.accepted() == new.accepted()
    assert old.verify() == []
    wanted = new.pairs.ids()[20]
    assert old.pairs[wanted].id == wanted


def test_an_old_run_is_gone_on_with(old):
    assert dsd.make_pairs(old, progress=False).added == 0
    assert dsd.curate(old, curator="parity", progress=False).added == 0
    assert dsd.curate(old, curator={"name": "parity", "modulus": 3}, name="three", progress=False).added == 36
    assert manifest_of(old, "pairs")["format"] == FORMAT
    assert old.verify() == []


@pytest.mark.parametrize("migrated", [False, True])
def test_damage_is_noticed_in_single_rows_of_an_old_run(old, migrated):
    if migrated:
        old.migrate()
    shard = old.path / "prompts" / "part-00000.parquet"
    data, wanted = shard.read_bytes(), old.prompts.ids()[1]
    footer = int.from_bytes(data[-8:-4], "little") + 8
    for place in [*range(len(data) - footer, len(data), 61), *range(0, len(data), 97)]:
        shard.write_bytes(data[:place] + bytes([data[place] ^ 16]) + data[place + 1 :])
        with pytest.raises(ManifestError, match=r"part-00000\.parquet is damaged"):
            list(dsd.Run(old.path).prompts)
        if not migrated or place >= len(data) - footer:  # as in runs of today: see test_store
            with pytest.raises(ManifestError, match=r"part-00000\.parquet is damaged"):
                _ = dsd.Run(old.path).prompts[wanted]


def test_migration_adds_what_is_missing_and_changes_no_row(old):
    files = {path: path.read_bytes() for path in old.path.rglob("*.parquet")}
    before = {stage: list(old.table(stage).rows()) for stage in old.stages()}
    done = {found.stage: (found.format, found.shards) for found in old.migrate()}
    assert done == {"prompts": (1, 1), "grids": (1, 1), "pairs": (1, 3), "verdicts/parity": (1, 3)}
    assert {path: path.read_bytes() for path in old.path.rglob("*.parquet")} == files
    for stage, rows in before.items():
        found = manifest_of(old, stage)
        assert found["format"] == FORMAT
        assert all(len(shard["footer"]) == 64 for shard in found["shards"])
        assert list(dsd.Run(old.path).table(stage).rows()) == rows
        assert found["seconds"] == manifest_of(dsd.Run(OLD), stage)["seconds"]
    assert json.loads((old.path / "manifest.json").read_text())["format"] == FORMAT
    assert old.verify() == []
    assert {(found.format, found.shards) for found in old.migrate()} == {(FORMAT, 0)}


def test_migration_stopped_at_any_step_goes_on(old, monkeypatch):
    real, left = StageManifest.save, 0

    def save(self, folder):
        nonlocal left
        if not left:
            raise KeyboardInterrupt
        left -= 1
        real(self, folder)

    monkeypatch.setattr(StageManifest, "save", save)
    for steps in range(4):
        left = min(steps, 1)
        with pytest.raises(KeyboardInterrupt):
            old.migrate()
        assert [written_format(old.path / stage) for stage in old.stages()].count(FORMAT) == steps
        assert dsd.Run(old.path).verify() == []
    left = 1
    old.migrate()
    assert [written_format(old.path / stage) for stage in old.stages()] == [FORMAT] * 4


def test_migration_refuses_a_damaged_shard(old):
    shard = old.path / "pairs" / "part-00001.parquet"
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    with pytest.raises(ManifestError, match=r"part-00001\.parquet is damaged"):
        old.migrate()
    assert manifest_of(old, "pairs")["format"] == 1
    with pytest.raises(FileNotFoundError, match="There is no run"):
        dsd.Run(old.path / "nowhere").migrate()
    assert not (old.path / "nowhere").exists()


@pytest.mark.parametrize("extra", [{}, {"a field of the future": 1}])
def test_a_newer_format_is_refused_and_says_so(old, extra):
    path = old.path / "pairs" / ".manifest.json"
    found = manifest_of(old, "pairs")
    found["shards"] = [{**shard, **extra} for shard in found["shards"]]
    path.write_text(json.dumps({**found, **extra, "format": FORMAT + 1}))
    with pytest.raises(ManifestError, match=rf"has format {FORMAT + 1}; .*up to {FORMAT}\. Update dsd"):
        len(old.pairs)
    before = path.read_bytes()
    with pytest.raises(ManifestError, match="Update dsd"):
        dsd.make_pairs(old, progress=False)
    with pytest.raises(ManifestError, match="Update dsd"):
        old.migrate()
    assert path.read_bytes() == before


@pytest.mark.parametrize("bad", [0, -1, "2", None, 1.5, True])
def test_a_format_that_is_none_is_damage(old, bad):
    path = old.path / "pairs" / ".manifest.json"
    path.write_text(json.dumps({**manifest_of(old, "pairs"), "format": bad}))
    with pytest.raises(ManifestError, match="is damaged"):
        len(old.pairs)


def test_a_column_that_came_later_has_its_default(tmp_path):
    """Shards without it and with it stand in one table, and compaction brings it into all of them."""
    written = [GridPrompt(text=f"prompt {i}", subject="a fox", panels=()) for i in range(4)]
    table = Table(tmp_path / "prompts", PROMPTS)
    with TableWriter(table, {}) as writer:
        writer.add(written[:2])
    columns = {field.name: field.type for field in PROMPTS.schema} | {"mood": pa.string(), "rank": pa.int64()}

    def to_rows(prompts):
        return [{**row, "mood": "sad", "rank": 7} for row in PROMPTS.to_rows(prompts)]

    later = replace(PROMPTS, schema=schema(**columns), to_rows=to_rows, defaults={"mood": "calm"})
    table = Table(tmp_path / "prompts", later)
    with TableWriter(table, {}) as writer:
        writer.add(written[2:])
    moods = ["calm", "calm", "sad", "sad"]
    assert table.columns("mood")["mood"].to_pylist() == moods
    assert table.columns("id", "rank")["rank"].to_pylist() == [None, None, 7, 7]
    assert [row["mood"] for row in table.rows()] == moods
    assert list(table) == written
    assert [table[prompt.id] for prompt in written] == written


def test_every_format_has_its_upgrade():
    assert len(manifests._UPGRADES) == FORMAT - 1
