"""URLs of stores: what is taken, what is refused, and what is said when something is wrong."""

import subprocess
import sys
from pathlib import Path

import fsspec
import pytest

import dsd
from dsd.data import cache
from dsd.data.filesystems import CacheError, StorageError
from dsd.data.manifest import ManifestError
from dsd.data.storage import RemotePath, location
from tests.cheap_world import make_run
from tests.remote_me import stages


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("s3://bucket/runs/x", "s3://bucket/runs/x"), ("S3://bucket//runs/x/", "s3://bucket/runs/x"),
        ("gs://bucket/x", "gs://bucket/x"), ("memory://x", "memory://x"), ("memory:///a/./b", "memory://a/b"),
        ("hf://datasets/me/set@main/x", "hf://datasets/me/set@main/x"),
    ],
)  # fmt: skip
def test_urls(given, url):
    path = location(given)
    assert isinstance(path, RemotePath)
    assert str(path) == url
    assert location(path) is path
    assert str(dsd.Run(given).path) == url
    assert dsd.Run(dsd.Run(given).path).path == path


def test_folders_are_folders(tmp_path):
    assert location(tmp_path) == location(str(tmp_path)) == location(f"file://{tmp_path}") == tmp_path
    assert location("~/x") == Path.home() / "x"
    assert location("runs/x") == Path("runs/x")
    assert location("s3:x") == Path("s3:x")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("s3://AKIASECRETSECRET00:hush@bucket/x", r"The URL s3://\*\*\*bucket/x holds a login"),
        ("s3://bucket/x?X-Amz-Signature=hush", r"s3://bucket/x\*\*\* has a query"),
        ("s3://bucket/x#hush", "has a query or a fragment"),
        ("s4://bucket/x", r"Unknown protocol in 's4://bucket/x'\. Did you mean s3://\?"),
        ("simplecache::s3://bucket/x", "Chained URLs are not supported"),
        ("s3://", "names no folder"), ("s3://bucket/../x", "names no folder"),
        (Path("s3://bucket/x"), r"'s3:/bucket/x' has lost a slash in a Path\. Give the URL as a string"),
    ],
)  # fmt: skip
def test_urls_that_are_refused(given, words):
    with pytest.raises(ValueError, match=words) as caught:
        dsd.Run(given)
    assert "hush" not in str(caught.value) or "#hush" in str(given)


def test_paths_are_as_those_of_pathlib():
    remote, local = location("memory://a/b/c.d"), Path("/a/b/c.d")
    assert (remote.name, remote.stem) == (local.name, local.stem)
    assert str(remote.parent) == "memory://a/b"
    assert [str(path) for path in remote.parents] == ["memory://a/b", "memory://a"]
    assert remote.with_name("e") == location("memory://a/b/e") == remote.parent / "e"
    assert remote.relative_to(location("memory://a")).as_posix() == "b/c.d"
    for name in ("x/1.p", "x/y/2.p", "x/y/.3.p", "x/y/4.q"):
        (location("memory://globbed") / name).put(b"")
    folder = location("memory://globbed/x")
    for pattern in ("*.p", "*/*.p", "?.p", "*"):
        names = {"*.p": ["1.p"], "*/*.p": ["y/.3.p", "y/2.p"], "?.p": ["1.p"], "*": ["1.p"]}[pattern]
        found = [path.relative_to(folder).as_posix() for path in folder.glob(pattern) if path.is_file()]
        assert found == names
    assert [path.name for path in folder.rglob("*.p")] == ["1.p", ".3.p", "2.p"]


def test_a_run_in_memory_is_as_one_in_a_folder(tmp_path, monkeypatch):
    """A store that is neither S3 nor asynchronous."""
    monkeypatch.setenv("DSD_CACHE", str(tmp_path / "cache"))
    remote, local = stages("memory://whole/run"), stages(tmp_path / "run")
    for stage in local.stages():
        assert [*remote.table(stage)] == [*local.table(stage)] or remote.table(stage).ids() == local.table(
            stage
        ).ids()
    assert remote.stages() == local.stages()
    assert remote.verify() == []
    assert remote.accepted() == local.accepted()


def test_a_missing_package_names_its_extra(monkeypatch):
    for protocol, extra in (("s3", "s3"), ("gs", "gcs")):

        def missing(name, **options):
            raise ImportError(f"Install it to access {name}")

        monkeypatch.setattr(fsspec, "filesystem", missing)
        with pytest.raises(
            ModuleNotFoundError, match=rf"pip install 'diffusion-self-distillation\[{extra}\]'"
        ):
            dsd.write_prompts(f"{protocol}://bucket/x", count=1, progress=False)


@pytest.mark.parametrize(
    "text",
    [
        "https://host/x?X-Amz-Credential=hush&X-Amz-Signature=hush", "s3://me:hush@host/x",
        "key AKIAABCDEFGHIJKLMNOPhush is unknown".replace("hush", ""), "Authorization: Bearer hush",
    ],
)  # fmt: skip
def test_errors_of_a_store_hold_no_secrets(monkeypatch, text):
    class Leaky:
        def info(self, path):
            raise RuntimeError(text)

    monkeypatch.setattr(fsspec, "filesystem", lambda name, **options: Leaky())
    with pytest.raises(StorageError, match=r"Could not read s3://bucket/x.*RuntimeError") as caught:
        location("s3://bucket/x").exists()
    assert "hush" not in str(caught.value)
    assert "AKIAABCD" not in str(caught.value)
    assert "***" in str(caught.value)


def test_a_cache_that_cannot_be_written_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("DSD_CACHE", str(tmp_path / "file"))
    (tmp_path / "file").write_text("")
    run = dsd.Run("memory://uncached/run")
    dsd.write_prompts(run, count=2, progress=False)  # writing goes on without
    assert len(run.prompts.ids()) == 2
    with pytest.raises(CacheError, match=r"Could not write the cache .* set DSD_CACHE to another folder"):
        list(run.prompts)
    assert run.verify() == []


def test_a_local_run_needs_no_cache_and_no_fsspec(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "folder", lambda: pytest.fail("the cache is for stores"))
    monkeypatch.setattr(fsspec, "filesystem", lambda *args, **options: pytest.fail("no store is asked"))
    run = make_run(tmp_path / "run", 2)
    assert run.verify() == []
    assert run.pairs[run.pairs.ids()[0]].id


def test_importing_asks_for_no_file_system():
    code = (
        "import dsd, dsd.data.store, sys; print([m for m in ('fsspec', 's3fs', 'torch') if m in sys.modules])"
    )
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True)
    assert done.stdout == "[]\n"


def test_a_damaged_footer_is_noticed_by_ranges(tmp_path, monkeypatch):
    """The file is not hashed for columns and single rows, and pages' checksums do not cover the footer."""
    monkeypatch.setenv("DSD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("DSD_CACHE_GB", "0")
    run = dsd.Run("memory://footer/run")
    dsd.write_prompts(run, count=3, progress=False)
    (shard,) = run.prompts.manifest.shards
    path, wanted = run.prompts.folder / shard.file, run.prompts.ids()[1]
    data = path.read_bytes()
    footer = int.from_bytes(data[-8:-4], "little") + 8
    for place in range(len(data) - footer, len(data), 61):
        path.put(data[:place] + bytes([data[place] ^ 16]) + data[place + 1 :])
        for read in (lambda table: table[wanted], lambda table: table.columns("text")):
            with pytest.raises(ManifestError, match=r"part-00000\.parquet is damaged"):
                read(dsd.Run(run.path).prompts)
