"""Runs of strangers whose manifests and shards are damaged or lie: read, or refused by a documented error."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

import dsd
from dsd.data import atomic
from dsd.data.manifest import ManifestError, StageManifest
from dsd.data.shard_files import footer_digest
from tests.cheap_world import make_run
from tests.fuzz_strategies import DEEP, FUZZ, VALUES, damaged, folder, outcome


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("fuzz") / "run", 3)


def mutated(content, path, value):
    """JSON with one value exchanged."""
    if not path or not isinstance(content, dict | list) or not content:
        return value
    if isinstance(content, dict):
        key = sorted(content)[path[0] % len(content)]
        return {**content, key: mutated(content[key], path[1:], value)}
    place = path[0] % len(content)
    return [*content[:place], mutated(content[place], path[1:], value), *content[place + 1 :]]


@FUZZ
@given(st.data())
def test_manifests(run, data):
    whole = (run.path / "pairs" / ".manifest.json").read_bytes()
    swapped = st.tuples(st.lists(st.integers(0, 20), min_size=1, max_size=3), VALUES)
    content = data.draw(
        st.one_of(
            damaged(whole),
            swapped.map(lambda x: json.dumps(mutated(json.loads(whole), *x)).encode()),
            st.sampled_from(DEEP),
        )
    )
    with folder() as path:
        (path / ".manifest.json").write_bytes(content)
        try:
            found = StageManifest.load(path)
        except ManifestError:
            return
        assert found.rows >= 0
        assert re.fullmatch("[0-9a-f]{64}", found.ids)
        assert json.dumps(found.summary())
        for shard in found.shards:
            assert Path(shard.file).name == shard.file
        found.save(path)
        assert StageManifest.load(path) == found


@FUZZ
@given(st.data())
def test_shards_whose_manifest_vouches_for_them(run, data):
    """What a stranger can do who writes both."""
    stage = data.draw(st.sampled_from(["prompts", "grids", "pairs", "verdicts/parity"]))
    table = run.table(stage)
    (shard,) = table.manifest.shards
    content = data.draw(damaged((table.folder / shard.file).read_bytes()))
    with folder() as path:
        theirs = dsd.Run(path / "run").table(stage)
        theirs.folder.mkdir(parents=True)
        file = theirs.folder / shard.file
        file.write_bytes(content)
        said = replace(shard, bytes=len(content), sha256=atomic.sha256_of(file), footer=footer_digest(file))
        replace(table.manifest, shards=(said,)).save(theirs.folder)
        for read in (lambda: list(theirs), theirs.ids, theirs.keys, theirs.verify, lambda: theirs["x"]):
            outcome(read, ManifestError, LookupError)


@pytest.mark.parametrize("seconds", ["1" + 400 * "0", "NaN", "-Infinity", "true", '"1"'])
def test_seconds_that_are_no_number_are_refused(run, tmp_path, seconds):
    whole = (run.path / "pairs" / ".manifest.json").read_text()
    damaged = re.sub(r'"seconds": [0-9.e-]+', f'"seconds": {seconds}', whole)
    assert damaged != whole
    (tmp_path / ".manifest.json").write_text(damaged)
    with pytest.raises(ManifestError, match="'seconds' is no number"):
        StageManifest.load(tmp_path)


def test_a_shard_whose_column_is_of_another_type_is_refused(run, tmp_path):
    table = run.table("prompts")
    (shard,) = table.manifest.shards
    content = pq.read_table(table.folder / shard.file)
    at = content.schema.get_field_index("subject")
    content = content.set_column(at, "subject", content["subject"].cast(pa.binary()))
    theirs = dsd.Run(tmp_path / "run").table("prompts")
    theirs.folder.mkdir(parents=True)
    file = theirs.folder / shard.file
    pq.write_table(content, file)
    size, footer = file.stat().st_size, footer_digest(file)
    said = replace(shard, bytes=size, sha256=atomic.sha256_of(file), footer=footer)
    replace(table.manifest, shards=(said,)).save(theirs.folder)
    with pytest.raises(ManifestError, match="its column 'subject' is binary, not string"):
        list(theirs)
