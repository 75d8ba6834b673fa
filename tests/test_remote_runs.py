"""Runs in a store of the S3 protocol: the same rows as in a folder, whatever fails."""

import os
import pickle
import random
import signal
import threading
import time

import boto3
import pytest
from botocore.retries.standard import ExponentialBackoff

import dsd
from dsd import labels
from dsd.cli import main
from dsd.data import cache, lease
from dsd.data.atomic import LockedError
from dsd.data.filesystems import StorageError
from dsd.data.manifest import ManifestError
from dsd.data.rows import decode_image
from dsd.data.storage import RemotePath, location
from dsd.data.writer import TableWriter
from dsd.labels.store import LabelFile
from tests import remote_me
from tests.s3_server import ACCESS_KEY, FAULTS, SECRET_KEY, FaultyS3

STAGES = ("prompts", "grids", "pairs", "verdicts/parity", "captions/panel")


@pytest.fixture(scope="module")
def server():
    server = FaultyS3(seed=1)
    yield server
    server.stop()


@pytest.fixture
def s3(server, tmp_path, monkeypatch):
    """The URL of a run that is not there yet, in a bucket of its own; a cache of its own too."""
    server.calm()
    return prepared(server, tmp_path / "cache", monkeypatch)


def prepared(server, folder, monkeypatch):
    for name, value in {**server.environment(), "DSD_CACHE": str(folder)}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(TableWriter, "shard_rows", remote_me.SHARD_ROWS)
    wait = ExponentialBackoff.delay_amount
    monkeypatch.setattr(ExponentialBackoff, "delay_amount", lambda self, context: wait(self, context) / 10)
    bucket = f"bucket-{random.getrandbits(60):x}"
    boto3.client("s3").create_bucket(Bucket=bucket)
    return f"s3://{bucket}/runs/x"


@pytest.fixture(scope="module")
def finished(server, tmp_path_factory):
    """The objects of a finished run, by name."""
    with pytest.MonkeyPatch.context() as patch:
        server.calm()
        url = prepared(server, tmp_path_factory.mktemp("finished"), patch)
        remote_me.stages(url)
        return {name: location(f"{url}/{name}").read_bytes() for name in files(url)}


@pytest.fixture
def run(s3, finished):
    """A finished run of one's own, nothing of it in the cache."""
    client = boto3.client("s3")
    bucket, _, prefix = s3.removeprefix("s3://").partition("/")
    for name, data in finished.items():
        client.put_object(Bucket=bucket, Key=f"{prefix}/{name}", Body=data)
    return dsd.Run(s3)


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    """The same run in a folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TableWriter, "shard_rows", remote_me.SHARD_ROWS)
        return remote_me.stages(tmp_path_factory.mktemp("local") / "run", captions=True)


@pytest.fixture(scope="module")
def expected(local):
    """What it holds."""
    return content(local)


def content(run):
    """All rows of all stages as plain values, pictures as their bytes."""
    assert run.verify() == []
    return {stage: rows(run.table(stage)) for stage in run.stages()}


def rows(table):
    return [row for shard in table.manifest.shards for row in table.whole(shard).to_pylist()]


def same(run, expected):
    """Whether a run without captions has the expected rows."""
    return content(run) == {stage: expected[stage] for stage in STAGES[:4]}


def files(url):
    """The names of all objects of a run."""
    path = location(url)
    bucket, _, prefix = path.url.removeprefix("s3://").partition("/")
    pages = boto3.client("s3").get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    return sorted(
        entry["Key"].removeprefix(f"{prefix}/") for page in pages for entry in page.get("Contents", [])
    )


def test_a_store_gives_the_rows_of_a_folder(s3, expected):
    run = remote_me.stages(s3, captions=True)
    assert content(run) == expected
    assert run.stages() == list(STAGES)
    assert run.curators() == ["parity"]
    assert sorted(run.manifest()["stages"]) == sorted(STAGES)
    assert run.accepted() == [
        row["pair_id"] for row in expected["verdicts/parity"] if row["status"] == "accepted"
    ]
    assert dsd.make_pairs(run, progress=False).added == 0
    names = files(s3)
    assert not [name for name in names if "lock" in name or "discarded" in name]
    assert "manifest.json" in names


@pytest.mark.parametrize("cache_gb", ["1", "0"])
def test_rows_are_read_by_id_and_by_column(server, run, expected, monkeypatch, cache_gb):
    """Through the cache if the table fits into it, else by ranges: only what is needed."""
    monkeypatch.setenv("DSD_CACHE_GB", cache_gb)
    table = pickle.loads(pickle.dumps(run.pairs))
    assert table.keys() == {row["grid_id"] for row in expected["pairs"]}
    assert not [1 for shard in table.manifest.shards if cache.find(shard.sha256)]
    for row in expected["pairs"][::7]:
        assert table[row["id"]].reference.tobytes() == decode_image(row["reference"]).tobytes()
        assert row["id"] in table
    assert "unknown" not in table
    cached = [cache.find(shard.sha256) for shard in table.manifest.shards]
    assert all(cached) if cache_gb == "1" else not any(cached)
    server.seen.clear()
    assert table[expected["pairs"][0]["id"]].caption == expected["pairs"][0]["caption"]
    assert len(server.seen) <= 1  # the manifest's state, no shard


def test_whatever_fails_the_rows_are_the_same(server, s3, expected):
    server.rate = 0.1
    run = remote_me.stages(s3)
    for shard in run.pairs.manifest.shards:
        cache.drop(shard.sha256)
    assert same(run, expected)
    assert {fault for _, _, fault in server.seen if fault} == set(FAULTS)


MOMENTS = (
    (r"PUT .*grids/part-00001", "stall"), (r"PUT .*parity/part", "dropped after"),
    (r"DELETE .*\.lock", "dropped before"), (r"PUT .*grids/\.manifest", "stall"),
    (r"PUT .*pairs/part-00003", "dropped after"), (r"PUT .*runs/x/manifest", "stall"),
)  # fmt: skip


@pytest.mark.parametrize("moments", [MOMENTS[:3], pytest.param(MOMENTS, marks=pytest.mark.slow)])
def test_killed_in_uploads_and_resumed(server, s3, expected, moments):
    """Killed while a chosen upload is on its way, or when it has come and nobody was told."""
    killed = 0
    for moment, fault in moments:
        server.rate, server.only, server.faults = 1.0, moment, (fault,)
        seen = len(server.seen)
        child, _ = remote_me.begin(s3, server.environment())
        while child.is_alive() and not any(fault for *_, fault in server.seen[seen:]):
            time.sleep(0.005)
        child.kill()
        child.join()
        killed += child.exitcode == -signal.SIGKILL
        server.rate = 0.0
        time.sleep(0.5)  # what was on its way arrives
    assert killed == len(moments)
    assert ".lock" in files(s3)  # the dead left it, and it stops nobody on this machine
    assert same(remote_me.stages(s3), expected)
    assert not [name for name in files(s3) if ".lock" in name or name.endswith(".unlisted")]


def test_one_writer_at_a_time(server, run, s3):
    with run.lock("drawing"):
        with pytest.raises(LockedError, match=rf"being written to by process {os.getpid()} .*drawing"):
            dsd.make_pairs(s3, progress=False)
        child, answers = remote_me.begin(s3, server.environment())
        assert f"is being written to by process {os.getpid()}" in answers.get(timeout=60)
        child.join()
        assert len(list(run.pairs)) == 60  # reading is allowed
    dsd.make_pairs(run, progress=False)


def test_many_begin_at_once_and_one_gets_it(s3):
    """Conditional writes decide: no two hold the lock, though all look at the same time."""
    folder, got, refused = location(s3), [], []
    ready = threading.Barrier(6)

    def begin():
        ready.wait()
        try:
            got.append(lease.Lease(folder, "all at once"))
        except LockedError:
            refused.append(1)

    threads = [threading.Thread(target=begin) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(got), len(refused)) == (1, 5)
    got[0].release()


@pytest.fixture
def strangers(monkeypatch):
    """Holders on other machines, whose processes cannot be looked at; times short."""
    machines = iter(f"machine {i}" for i in range(100))
    monkeypatch.setattr(lease, "_machine", lambda: next(machines))
    monkeypatch.setattr(lease, "TTL_S", 3.0)
    monkeypatch.setattr(lease, "BEAT_S", 0.5)


@pytest.mark.parametrize("store", ["s3", "memory"])
def test_a_silent_holder_is_replaced_and_cannot_write_any_more(s3, strangers, monkeypatch, store):
    monkeypatch.setattr(lease, "SETTLE_S", 0.1)
    folder = location(s3 if store == "s3" else f"memory://{random.getrandbits(60):x}/x")
    first = lease.Lease(folder, "first")
    first.put(folder / "rows", b"first")
    with pytest.raises(LockedError, match=r"\(first, since .*its lock ends 3 s after"):
        lease.Lease(folder, "too early")
    first._ended.set()  # it is suspended: no sign of life any more
    first._thread.join()
    time.sleep(4.2)
    second = lease.Lease(folder, "second")
    with pytest.raises(LockedError, match=r"has taken over .* not heard of for 3 s"):
        first.put(folder / "rows", b"late")
    second.put(folder / "rows", b"second")
    first.release()
    assert (folder / "rows").read_bytes() == b"second"
    with pytest.raises(LockedError, match="second"):
        lease.Lease(folder, "third")
    second.release()
    lease.Lease(folder, "third").release()
    assert not (folder / ".lock").exists()


def test_a_writer_stopped_between_check_and_write_replaces_nothing(s3, strangers):
    folder = location(s3)
    first = lease.Lease(folder, "first")
    first.put(folder / "rows", b"first")
    true_check = first.check

    def stopped_after():
        true_check()
        (folder / "rows").put(b"second")  # by whoever took over meanwhile

    first.check = stopped_after
    first._renewed = lease._now()
    with pytest.raises(LockedError):
        first.__class__.put(first, folder / "rows", b"late")
    assert (folder / "rows").read_bytes() == b"second"
    first.release()


def test_a_holder_that_lives_is_never_replaced(s3, strangers):
    folder = location(s3)
    first = lease.Lease(folder, "long")
    for _ in range(3):
        time.sleep(1.5)
        with pytest.raises(LockedError, match="long"):
            lease.Lease(folder, "second")
    first.put(folder / "rows", b"still mine")
    first.release()


def unlist(table, count):
    """As if a process had been killed before it listed the last shards."""
    manifest = table.manifest
    kept = {**vars(manifest), "shards": manifest.shards[:-count], "complete": False}
    type(manifest)(**kept).save(table.folder)
    return manifest.shards[-count:]


def test_a_listing_that_lags_loses_nothing_and_doubles_nothing(server, s3, expected, monkeypatch):
    server.lag_s = 3600
    monkeypatch.setattr(TableWriter, "shard_rows", 24)
    run = remote_me.stages(s3)
    monkeypatch.setattr(TableWriter, "shard_rows", remote_me.SHARD_ROWS)
    assert sorted(run.stages()) == sorted(STAGES[:4])
    # Two shards that no manifest lists, and the store does not list them yet. In the first are two grids,
    # which are now written one by one.
    lost = [shard.file for shard in unlist(run.pairs, 2)]
    dsd.make_pairs(run, progress=False)
    assert rows(run.pairs) == expected["pairs"]
    assert not {shard.file for shard in run.pairs.manifest.shards} & {*lost}
    server.lag_s = 0
    dsd.make_pairs(run, progress=False)
    assert rows(run.pairs) == expected["pairs"]
    assert {f"pairs/{name}.unlisted" for name in lost} <= {*files(s3)}


def test_an_unlisted_shard_is_adopted_and_strangers_are_set_aside(run, s3, expected):
    (last,) = unlist(run.pairs, 1)
    whole = (run.pairs.folder / last.file).read_bytes()
    (run.pairs.folder / "part-00090.parquet").put(whole[:-9])
    (run.pairs.folder / "part-00091.parquet").put((run.grids.folder / "part-00000.parquet").read_bytes())
    assert dsd.make_pairs(run, progress=False).added == 0
    assert same(run, expected)
    assert run.pairs.manifest.shards[-1] == last
    assert [name for name in files(s3) if name.endswith(".unlisted")] == [
        "pairs/part-00090.parquet.unlisted", "pairs/part-00091.parquet.unlisted",
    ]  # fmt: skip


def test_damage_in_the_store_is_found_though_the_cache_is_whole_and_mended(run, s3, expected):
    shard = run.pairs.manifest.shards[1]
    path = run.pairs.folder / shard.file
    data = path.read_bytes()
    for place in (len(data) // 4, len(data) - 200):  # in a picture; in the footer
        list(run.pairs)  # into the cache
        path.put(flipped(data, place))
        (problem,) = run.verify()
        assert str(path) in problem
        assert f"dsd.Run('{s3}').mend('pairs')" in problem
        cache.drop(shard.sha256)
        with pytest.raises(ManifestError, match="is damaged"):
            list(dsd.Run(s3).pairs)
        with pytest.raises(ManifestError, match="is damaged"):
            dsd.Run(s3).pairs.columns(*run.pairs.kind.schema.names)
        path.put(data)
    path.put(data[:-1])
    with pytest.raises(ManifestError, match=rf"it has {len(data) - 1} bytes, not {len(data)}"):
        dsd.Run(s3).pairs.ids()
    assert run.mend("pairs") == shard.rows
    assert f"pairs/{shard.file}.damaged" in files(s3)
    dsd.make_pairs(run, progress=False)
    assert sorted(map(str, rows(run.pairs))) == sorted(map(str, expected["pairs"]))
    assert run.verify() == []
    (run.grids.folder / "part-00000.parquet").unlink()
    assert "it is missing" in run.verify()[0]


def flipped(data, place):
    return data[:place] + bytes([data[place] ^ 16]) + data[place + 1 :]


def test_a_damaged_cache_is_read_anew(run, s3, expected):
    assert rows(run.pairs) == expected["pairs"]
    for shard in run.pairs.manifest.shards:
        path = cache.find(shard.sha256)
        data = path.read_bytes()
        path.write_bytes(flipped(data, len(data) // 2))
    assert rows(dsd.Run(s3).pairs) == expected["pairs"]


def test_the_cache_keeps_within_its_limit_and_drops_the_longest_unused(run, monkeypatch):
    shards = run.pairs.manifest.shards
    size = max(shard.bytes for shard in shards)
    monkeypatch.setenv("DSD_CACHE_GB", str(2.5 * size / 1e9))
    for shard in shards[:2]:
        run.pairs.whole(shard)
    paths = [cache.find(shard.sha256) for shard in shards[:2]]
    for time_s, path in enumerate(paths, 1):
        os.utime(path, (time_s, time_s))
    run.pairs.whole(shards[0])  # the first is used once more
    killed, living = (paths[0].with_name(f".{name}.parquet.1.tmp") for name in "ab")
    for path in (killed, living):
        path.write_bytes(b"half")
    os.utime(killed, (1, 1))
    run.pairs.whole(shards[2])
    assert [bool(cache.find(shard.sha256)) for shard in shards[:3]] == [True, False, True]
    assert (killed.exists(), living.exists()) == (False, True)
    monkeypatch.setenv("DSD_CACHE_GB", "lots")
    with pytest.raises(ValueError, match=r"DSD_CACHE_GB must be a number .* got 'lots'"):
        run.pairs.whole(shards[3])


def test_a_half_discarded_stage_is_gone(run, s3):
    deleted = []
    true_unlink = RemotePath.unlink

    def stopped(path, missing_ok=False):
        if "parity" in path.url:
            deleted.append(path)
            if len(deleted) == 3:
                raise KeyboardInterrupt
        true_unlink(path, missing_ok)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RemotePath, "unlink", stopped)
        with pytest.raises(KeyboardInterrupt):
            dsd.curate(run, curator={"name": "parity", "modulus": 3}, overwrite=True, progress=False)
    assert "verdicts/parity" not in dsd.Run(s3).stages()
    assert any("verdicts/parity/part" in name for name in files(s3))
    dsd.make_pairs(run, progress=False)  # any stage sweeps up
    assert not any("verdicts/parity" in name for name in files(s3))


@pytest.mark.parametrize(("fault", "kind"), [("500", StorageError), ("denied", PermissionError)])
def test_a_store_that_fails_is_not_taken_for_an_empty_one(server, run, s3, monkeypatch, fault, kind):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    before, pairs = files(s3), run.pairs.ids()
    server.rate, server.faults = 1.0, (fault,)
    for call in (
        lambda: run.pairs.exists, lambda: run.stages(), lambda: len(dsd.Run(s3).pairs), lambda: run.verify(),
        lambda: dsd.make_pairs(s3, progress=False), lambda: dsd.PairDataModule(s3).setup(),
        lambda: run.pairs[pairs[0]],
    ):  # fmt: skip
        with pytest.raises(
            kind, match=r"Could not \w+ s3://.*(Check the connection|Check the credentials)"
        ) as caught:
            call()
        assert isinstance(caught.value, StorageError)
        assert ACCESS_KEY not in str(caught.value)
        assert SECRET_KEY not in str(caught.value)
        assert caught.value.__suppress_context__
    server.calm()
    assert files(s3) == before


@pytest.mark.parametrize("stride", [11, pytest.param(4, marks=pytest.mark.slow)])
def test_every_request_of_a_stage_may_be_the_last(server, run, s3, expected, monkeypatch, stride):
    """The store goes away for good at each request in turn; afterwards nothing is lost or doubled."""
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    failed = 0
    for place in range(0, 45, stride):
        for shard in unlist(run.pairs, 1):
            (run.pairs.folder / shard.file).unlink(missing_ok=True)
        left = place

        def fault(request):
            nonlocal left
            left -= 1
            return None if left >= 0 else "500"

        monkeypatch.setattr(server, "fault", fault)
        try:
            dsd.make_pairs(s3, progress=False)
        except StorageError:
            failed += 1
        monkeypatch.setattr(server, "fault", lambda request: None)
        dsd.make_pairs(s3, progress=False)
        assert rows(dsd.Run(s3).pairs) == expected["pairs"]
    assert failed > 24 // stride


def test_a_bucket_that_is_not_there_is_named(s3):
    nowhere = f"s3://nowhere-{random.getrandbits(60):x}/x"
    with pytest.raises(
        FileNotFoundError, match=rf"Could not write {nowhere}/\.lock: its bucket does not exist"
    ):
        dsd.write_prompts(nowhere, count=1, progress=False)
    with pytest.raises(FileNotFoundError, match="There is no run in"):
        len(dsd.Run(nowhere).pairs)
    dsd.write_prompts(s3, count=1, progress=False)
    with pytest.raises(FileNotFoundError, match="has no rows of the stage 'pairs' yet"):
        len(dsd.Run(s3).pairs)


def test_secrets_reach_nothing(finished):
    for data in finished.values():
        assert ACCESS_KEY.encode() not in data
        assert SECRET_KEY.encode() not in data


def test_training_reads_a_store(run, local):
    batches = []
    for source, workers in ((str(run.path), 2), (local, 0)):
        data = dsd.PairDataModule(source, batch_size=8, policy="every", num_workers=workers)
        data.setup()
        batches.append([(b.ids, b.captions, b.target.sum().item()) for b in data.train_dataloader()])
    assert len(batches[0]) >= 7
    assert batches[0] == batches[1]


def test_encodings_in_a_store_are_those_of_a_folder(run, tmp_path, tiny_flux):
    folder = remote_me.stages(tmp_path / "run")
    batches = []
    for one in (run, folder):
        done = dsd.encode(one, backbone=str(tiny_flux), policy="every", progress=False)
        assert done.added == 60
        assert dsd.encode(one, backbone=str(tiny_flux), policy="every", progress=False).added == 0
        data = dsd.PairDataModule(str(one.path), batch_size=20, policy="every", encoded=True)
        data.setup()
        batches.append([(b.ids, b.target.tolist(), b.text.tokens.tolist()) for b in data.train_dataloader()])
    assert run.stages() == folder.stages()
    assert sum(stage.startswith("encoded/") for stage in run.stages()) == 3
    assert batches[0] == batches[1]
    assert run.verify() == []


def test_the_command_line_takes_urls(s3):
    for words in (("prompts", "--run", s3, "--count", "2"), ("report", "--run", s3)):
        assert main([*words]) == 0
    assert len(dsd.Run(s3).prompts) == 2
    assert b"<html" in location(f"{s3}/report.html").read_bytes()
    assert b"near_dup" in location(f"{s3}/prompts/diversity.json").read_bytes()


def test_labels_in_a_store(run, s3):
    ids = run.pairs.ids()[:3]
    for pair_id in ids:
        LabelFile(s3, "ann").add(pair_id, "same")
    LabelFile(run, "bob").add(ids[0], "different")
    assert [(label.person, label.pair_id) for label in labels.read(s3)] == [
        *(("ann", pair_id) for pair_id in ids), ("bob", ids[0]),
    ]  # fmt: skip


def test_labels_of_several_processes_at_once_are_all_kept(run, s3):
    ids = run.pairs.ids()[:8]
    threads = [threading.Thread(target=LabelFile(s3, "ann").add, args=(i, "same")) for i in ids]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(LabelFile(s3, "ann").read()) == set(ids)


def test_answers_of_paid_models_are_kept_here(run, tmp_path):
    assert run.answers.parent == tmp_path / "cache" / "answers"
    assert run.answers != dsd.Run("s3://other/runs/x").answers
    assert run.answers == dsd.Run(str(run.path)).answers
