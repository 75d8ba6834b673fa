"""Parts of a run at URLs of a store, put together: the rows of a run in a folder that was never parted."""

import boto3
import pytest

import dsd
from dsd.cli import main
from dsd.data.manifest import ManifestError
from dsd.data.part import Part
from dsd.data.storage import location
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


def test_a_part_that_lost_something_is_named(parted, expected):
    part_stages(parted, (1, PARTS))
    part = Part(parted, 1, PARTS)
    shard = part.pairs.folder / part.pairs.manifest.shards[0].file
    content = shard.read_bytes()
    shard.unlink()
    with pytest.raises((ManifestError, FileNotFoundError), match=rf"{shard}|{part.pairs.folder}"):
        dsd.merge(parted)
    shard.put(content)
    bucket, _, prefix = str(part.path).removeprefix("s3://").partition("/")
    boto3.client("s3").delete_object(Bucket=bucket, Key=f"{prefix}/pairs/.manifest.json")
    with pytest.raises(ManifestError, match=rf"{part.path} has no rows of 'pairs', and others have"):
        dsd.merge(parted)
    part_stages(parted, (1, PARTS))  # what is there is adopted
    dsd.merge(parted)
    assert rows(parted) == rows(expected)


def test_parts_may_be_elsewhere_than_the_run(s3, tmp_path, expected, capsys):
    """Runs made apart at URLs, into a folder; and runs in folders, into a URL."""
    whole = dsd.Run(tmp_path / "run")
    dsd.write_prompts(whole, writer=write_prompt_file(tmp_path / "run.txt", COUNT), count=COUNT, **QUIET)
    given = []
    for index in range(PARTS):
        part_stages(whole, (index, PARTS))
        part = Part(whole, index, PARTS)
        given.append(f"{s3}-parts/{index}" if index else str(part.path))
        for file in part.path.rglob("*") if index else ():
            if file.is_file():
                location(f"{given[-1]}/{file.relative_to(part.path).as_posix()}").put(file.read_bytes())
    absent = f"{s3}-parts/7"
    with pytest.raises(FileNotFoundError, match=rf"There are no rows in {absent}\. Check the path"):
        dsd.merge(whole, [given[0], absent])
    with pytest.raises(ManifestError, match="Parts 0 of 2 are missing"):
        dsd.merge(whole, [given[1]])
    assert dsd.merge(whole, [given[1]], partial=True).missing == [0]
    assert main(["merge", str(whole.path), *given]) == 0
    assert "merged 2" in capsys.readouterr().out
    assert sorted(map(str, rows(whole)["pairs"])) == sorted(map(str, rows(expected)["pairs"]))
    copy = dsd.Run(f"{s3}-copy")
    dsd.merge(copy, [str(whole.path)])
    assert rows(copy) == rows(whole)
