"""Uploads in parts, to a store of the S3 protocol: whole or not there, and no part is left behind."""

import random
import threading
import time

import boto3
import pytest

import dsd
from dsd.data import lease, uploads
from dsd.data.atomic import LockedError
from dsd.data.filesystems import ConflictError, RefusedError, StorageError
from dsd.data.storage import RemotePath, location
from dsd.exchange import export_pairs, write_card
from tests import remote_me
from tests.s3_server import FaultyS3
from tests.test_remote_runs import prepared, rows

PART = 1000
CONTENT = random.Random(0).randbytes(4 * PART + PART // 2)
LOST = ("500", "503", "dropped before", "dropped after", "dropped in the body", "dropped in the request")


@pytest.fixture(scope="module")
def server():
    server = FaultyS3(seed=2)
    yield server
    server.stop()


@pytest.fixture
def folder(server, tmp_path, monkeypatch):
    """The URL of a folder in a bucket of its own; parts are small."""
    server.calm()
    monkeypatch.setattr("moto.s3.models.S3_UPLOAD_PART_MIN_SIZE", 1)
    monkeypatch.setattr(uploads, "PART_BYTES", PART)
    return location(prepared(server, tmp_path / "cache", monkeypatch))


def put(path, tmp_path):
    path.put(CONTENT, create=True)


def upload(path, tmp_path):
    (tmp_path / "file").write_bytes(CONTENT)
    path.upload(tmp_path / "file")


def begun(folder):
    """Keys of all uploads in the bucket that were not ended."""
    found = boto3.client("s3").list_multipart_uploads(Bucket=folder.url.split("/")[2])
    return sorted(one["Key"] for one in found.get("Uploads", []))


def leave(folder, name):
    """What a process that is killed in the midst of an upload leaves."""
    client, place = boto3.client("s3"), {"Bucket": folder.url.split("/")[2], "Key": name}
    started = client.create_multipart_upload(**place)
    client.upload_part(**place, UploadId=started["UploadId"], PartNumber=1, Body=b"x" * PART)


@pytest.mark.parametrize("way", [put, upload])
def test_a_large_file_goes_in_parts_and_a_small_one_at_once(server, folder, tmp_path, way):
    way(folder / "large", tmp_path)
    assert (folder / "large").read_bytes() == CONTENT
    parts = sorted(
        int(path.split("partNumber=")[1].split("&")[0]) for _, path, _ in server.seen if "partN" in path
    )
    assert parts == [1, 2, 3, 4, 5]
    assert begun(folder) == []
    server.seen.clear()
    (folder / "small").put(CONTENT[: 2 * PART - 1])
    assert not [path for _, path, _ in server.seen if "uploadId" in path]
    way(folder / "large", tmp_path)  # the same content is as good as put
    (folder / "other").put(CONTENT[::-1])
    with pytest.raises(ConflictError, match="other was written by somebody else"):
        way(folder / "other", tmp_path)
    assert (folder / "other").read_bytes() == CONTENT[::-1]
    assert begun(folder) == []


@pytest.mark.parametrize("way", [put, upload])
@pytest.mark.parametrize("request_", ["PUT .*partNumber=3", "POST .*large.uploads", "POST .*uploadId="])
@pytest.mark.parametrize("fault", LOST)
def test_a_request_that_fails_twice_is_made_again(server, folder, tmp_path, way, request_, fault):
    if fault == "dropped in the body" and request_.startswith("PUT"):
        pytest.skip("the answer to a part has no body")
    server.__dict__.update(rate=1.0, only=request_, faults=(fault,), times=2)
    way(folder / "large", tmp_path)
    assert server.times == 0
    assert (folder / "large").read_bytes() == CONTENT
    extra = request_.endswith("uploads") and fault in ("dropped after", "dropped in the body")
    assert len(begun(folder)) == 2 * extra  # begun at the store, whose answer was lost: nobody knows of them
    with dsd.Run(folder).lock("test"):
        assert begun(folder) == []


@pytest.mark.parametrize("way", [put, upload])
@pytest.mark.parametrize(
    "fault", ["500", "dropped before", "dropped after", "dropped in the request", "denied"]
)
def test_an_upload_that_breaks_off_leaves_nothing(server, folder, tmp_path, monkeypatch, way, fault):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    server.__dict__.update(rate=1.0, only="partNumber=4", faults=(fault,))
    with pytest.raises(
        RefusedError if fault == "denied" else StorageError, match=r"Could not write s3://.*large"
    ):
        way(folder / "large", tmp_path)
    assert not (folder / "large").exists()
    assert begun(folder) == []
    server.calm()
    way(folder / "large", tmp_path)
    assert (folder / "large").read_bytes() == CONTENT


def test_what_could_not_be_ended_is_ended_by_who_next_holds_the_run(
    server, folder, tmp_path, monkeypatch, caplog
):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    server.__dict__.update(rate=1.0, only="partNumber=4|DELETE|GET .*uploads", faults=("503",))
    with pytest.raises(StorageError, match="Could not write"):
        put(folder / "pairs" / "large", tmp_path)
    assert "Could not end the unfinished uploads to s3://" in caplog.text
    server.calm()
    key = folder.url.split("/", 3)[3]
    others = (f"{key}.shards/part", f"{key}y/part", "elsewhere")
    for name in (*others, f"{key}/grids/part"):
        leave(folder, name)
    assert begun(folder) == sorted([*others, f"{key}/grids/part", f"{key}/pairs/large"])
    run = dsd.Run(folder)
    with run.lock("test"):
        assert begun(folder) == sorted(others)
        with pytest.raises(LockedError), dsd.Run(folder).lock("another"):
            pass


def test_a_store_that_does_not_list_uploads_can_be_written_to(server, folder, caplog):
    server.__dict__.update(rate=1.0, only="GET .*uploads", faults=("denied",))
    dsd.write_prompts(folder.url, count=2, progress=False)
    assert "They are invisible and take space" in caplog.text
    assert len(dsd.Run(folder).prompts) == 2


def test_ctrl_c_in_an_upload_leaves_no_parts(server, folder, monkeypatch):
    class Interrupted:
        def __init__(self, url):
            self.url = url

        def pipe_file(self, *args, **options):
            leave(folder, self.url.split("/", 3)[3])
            raise KeyboardInterrupt

        def __getattr__(self, name):
            return getattr(real(self.url), name)

    real = uploads.files
    monkeypatch.setattr(uploads, "files", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        (folder / "large").put(CONTENT)
    assert begun(folder) == []


@pytest.mark.slow
def test_an_upload_that_somebody_else_ends_is_told(server, folder):
    server.__dict__.update(rate=1.0, only="partNumber=5", faults=("stall",))
    caught = []

    def write():
        try:
            (folder / "large").put(CONTENT)
        except StorageError as error:
            caught.append(str(error))

    writer = threading.Thread(target=write)
    writer.start()
    while not [path for _, path, _ in server.seen if "partNumber=5" in path]:
        time.sleep(0.05)
    assert uploads.abort(folder.url) == 1
    writer.join()
    assert "Somebody else has ended the upload to" in caught[0]
    assert not (folder / "large").exists()


def test_who_lost_the_run_uploads_nothing_to_it(folder, tmp_path):
    (tmp_path / "file").write_bytes(CONTENT)
    with lease.held(folder, "test"):
        lease.upload(folder / "first", tmp_path / "file")
        holder = lease._held[folder.url]
        holder._lost = True
        with pytest.raises(LockedError, match="Another process has taken over"):
            lease.upload(folder / "second", tmp_path / "file")
    assert (folder / "first").read_bytes() == CONTENT
    assert not (folder / "second").exists()


def test_a_large_file_is_replaced_on_condition(folder):
    path = folder / "large"
    first = path.put(CONTENT)
    second = path.put(CONTENT[::-1], replaces=first)
    assert second != first
    with pytest.raises(ConflictError):
        path.put(CONTENT, replaces=first)
    assert path.read_bytes() == CONTENT[::-1]


def test_every_page_of_a_long_list_is_read(monkeypatch):
    pages = [
        [{"Key": "x/a", "UploadId": "1"}, {"Key": "xy", "UploadId": "2"}],
        [{"Key": "x", "UploadId": "3"}],
    ]
    more = {"IsTruncated": True, "NextKeyMarker": "xy", "NextUploadIdMarker": "2"}
    ended, answers = [], {None: {"Uploads": pages[0], **more}, "xy": {"Uploads": pages[1]}}

    class Store:
        def split_path(self, url):
            return "bucket", "x", None

        def call_s3(self, method, **options):
            if method == "list_multipart_uploads":
                assert (options["Bucket"], options["Prefix"]) == ("bucket", "x")
                return answers[options.get("KeyMarker")]
            return ended.append((options["Key"], options["UploadId"]))

    monkeypatch.setattr(uploads, "files", lambda url: Store())
    assert uploads.abort("s3://bucket/x") == 2
    assert ended == [("x/a", "1"), ("x", "3")]
    assert uploads.abort("gs://bucket/x") == 0


def test_a_run_in_parts_through_faults_has_the_rows_of_a_folder(server, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(uploads, "PART_BYTES", 2 * PART)
    server.__dict__.update(rate=0.1, faults=LOST, only="uploadId=|uploads")
    there, here = remote_me.stages(folder.url), remote_me.stages(tmp_path / "run")
    assert sum("partNumber" in path for _, path, _ in server.seen) > 10
    server.calm()
    for stage in here.stages():
        assert rows(there.table(stage)) == rows(here.table(stage))
    with there.lock("test"):
        assert begun(folder) == []


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    return remote_me.stages(tmp_path_factory.mktemp("local") / "run")


def exported(path):
    """The files of an export, by name, without its card, which tells the hour."""
    found = {file.relative_to(path).as_posix(): file for file in path.rglob("*") if "/" in str(file)}
    return {name: file.read_bytes() for name, file in found.items() if file.is_file() and name != "README.md"}


@pytest.mark.parametrize("layout", ["release", "webdataset", "imagefolder"])
def test_an_export_to_a_store_is_that_to_a_folder(server, folder, local, tmp_path, monkeypatch, layout):
    monkeypatch.setattr(uploads, "PART_BYTES", 8 * PART if layout == "webdataset" else PART)
    out = folder / "out"
    here = export_pairs(local, tmp_path / "out", layout, "every", shard_pairs=40, progress=False)
    there = export_pairs(local, out.url, layout, "every", shard_pairs=40, progress=False)
    assert (there.folder, there.pairs, there.num_bytes) == (out, here.pairs, here.num_bytes)
    assert any("partNumber" in path for _, path, _ in server.seen)
    assert exported(out) == exported(tmp_path / "out")
    assert (out / "README.md").read_text() == (tmp_path / "out" / "README.md").read_text()
    assert begun(folder) == []
    with pytest.raises(FileExistsError, match=r"out exists\. Give a name that is free"):
        export_pairs(local, out.url, layout, "every", progress=False)


def test_an_export_that_breaks_off_leaves_nothing(server, folder, local, monkeypatch):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    out = folder / "out"
    server.__dict__.update(rate=1.0, only="train-00001.*partNumber=2", faults=("dropped in the request",))
    with pytest.raises(StorageError, match=r"Could not write .*out/data/train-00001"):
        export_pairs(local, out.url, "release", "every", shard_pairs=20, progress=False)
    assert [*folder.rglob("*")] == []
    assert begun(folder) == []
    # Killed instead, it leaves files and its mark; with a folder that is somebody's nothing is done.
    for name in (".exporting", "data/train-00009-of-00010.parquet"):
        (out / name).put(b"half")
    leave(folder, f"{out.url.split('/', 3)[3]}/data/train-00010-of-00010.parquet")
    server.calm()
    export_pairs(local, out.url, "release", "every", shard_pairs=20, progress=False)
    assert not (out / "data" / "train-00009-of-00010.parquet").exists()
    assert not (out / ".exporting").exists()
    assert begun(folder) == []
    (out / ".exporting").put(b"")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RemotePath, "unlink", _stopped_at(2))
        with pytest.raises(KeyboardInterrupt):
            export_pairs(local, out.url, "release", "every", shard_pairs=20, progress=False)
    assert (out / ".exporting").exists()  # stopped in the midst of the removal, it is not taken for whole
    export_pairs(local, out.url, "release", "every", shard_pairs=20, progress=False)
    (folder / "other" / "file").put(b"mine")
    with pytest.raises(FileExistsError):
        export_pairs(local, (folder / "other").url, "release", "every", progress=False)
    assert [path.name for path in (folder / "other").rglob("*")] == ["file"]


def _stopped_at(count):
    true_unlink, calls = RemotePath.unlink, []

    def unlink(path, missing_ok=False):
        calls.append(path)
        if len(calls) == count:
            raise KeyboardInterrupt
        true_unlink(path, missing_ok)

    return unlink


@pytest.mark.slow
def test_a_card_of_a_run_in_a_store_is_put_there(folder):
    run = remote_me.stages(folder.url)
    assert write_card(run, policy="every") == folder / "README.md"
    assert b"pairs.png" in (folder / "README.md").read_bytes()
    assert (folder / "pairs.png").read_bytes().startswith(b"\x89PNG")
    write_card(run, policy="every")
    (folder / "README.md").put(b"mine")
    with pytest.raises(FileExistsError, match="was written by somebody else"):
        write_card(run, policy="every")
