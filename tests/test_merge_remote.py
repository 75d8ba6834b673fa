"""Parts of a run at URLs of a store, put together: the rows of a run in a folder that was never parted."""

import pytest

import dsd
from dsd.cli import main
from dsd.data.manifest import ManifestError
from tests.cheap_world import make_run, write_prompt_file
from tests.s3_server import FaultyS3
from tests.test_merge import FAULTS, part_stages, rows
from tests.test_remote_runs import prepared

COUNT, PARTS = 4, 2
QUIET = {"progress": False}


@pytest.fixture(scope="module")
def server():
    server = FaultyS3(seed=3)
    yield server
    server.stop()


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("whole") / "run", COUNT, faults=FAULTS)


@pytest.fixture
def s3(server, tmp_path, monkeypatch):
    server.calm()
    return prepared(server, tmp_path / "cache", monkeypatch)


@pytest.fixture
def parted(s3, tmp_path):
    """A run in the store, and the first of its two parts."""
    run = dsd.Run(s3)
    dsd.write_prompts(run, writer=write_prompt_file(tmp_path / "run.txt", COUNT), count=COUNT, **QUIET)
    part_stages(run, (0, PARTS))
    return run


def test_parts_in_a_store_are_the_whole_run(server, parted, expected):
    url = str(parted.path)
    with pytest.raises(ManifestError, match=rf"Parts 1 of 2 are missing in {url}\.shards\. Run their jobs"):
        dsd.merge(url)
    assert parted.stages() == ["prompts"]
    part_stages(parted, (1, PARTS))
    server.__dict__.update(rate=0.05)
    summary = dsd.merge(url)
    server.calm()
    assert (summary.sources, summary.missing) == (2, [])
    assert summary.added == {name: len(expected.table(name)) for name in summary.added}
    assert rows(parted) == rows(expected)
    assert parted.verify() == []
    assert not any(dsd.merge(url).added.values())
    assert main(["merge", url]) == 0
