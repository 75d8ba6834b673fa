"""Exports and imports that fail, stop or cannot be: nothing half done stays, and the next call goes on."""

import pytest

import dsd
from dsd.data.atomic import LockedError
from dsd.data.manifest import SpecError
from dsd.data.writer import TableWriter
from dsd.exchange import LAYOUTS, export_pairs, import_pairs
from dsd.exchange import writers as layout_writers
from dsd.types import Pair
from tests.exchange_run import verdicts_of, write_run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("source") / "run")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_export_that_fails_leaves_nothing(run, tmp_path, layout, monkeypatch):
    real, calls = layout_writers.WRITERS[layout].add, []

    def add(self, pair):
        calls.append(pair)
        if len(calls) > 5:
            raise OSError(28, "No space left on device")
        return real(self, pair)

    monkeypatch.setattr(layout_writers.WRITERS[layout], "add", add)
    with pytest.raises(OSError, match="No space left"):
        export_pairs(run, tmp_path / "out", layout, "every", shard_pairs=2, progress=False)
    assert not list(tmp_path.iterdir())
    monkeypatch.undo()
    (tmp_path / ".out.exporting" / "new").mkdir(parents=True)  # of a killed process
    (tmp_path / ".out.exporting" / "new" / "half").write_text("x")
    export_pairs(run, tmp_path / "out", layout, "every", progress=False)
    assert not (tmp_path / "out" / "half").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    with pytest.raises(FileExistsError, match="out exists"):
        export_pairs(run, tmp_path / "out", layout, "every", progress=False)


def test_what_cannot_be_is_refused_before_anything_is_written(run, tmp_path):
    for options, words in (
        ({"quality": 0}, "`quality` 1 to 100"),
        ({"shard_pairs": 0}, "`shard_pairs` must be at least 1"),
        ({"policy": {"curators": "second"}}, "No pair of .* is accepted"),
        ({}, "verdicts of 2 curators"),
    ):
        with pytest.raises(ValueError, match=words):
            export_pairs(run, tmp_path / "out", progress=False, **options)
    with pytest.raises(FileNotFoundError):
        export_pairs(tmp_path / "nowhere", tmp_path / "out", progress=False)
    for options, error, words in (
        ({"limit": 0}, ValueError, "`limit` must be at least 1"),
        ({"columns": {"picture": "x"}}, ValueError, "Unknown column 'picture'"),
        ({}, FileNotFoundError, r"has no \.parquet files"),
        ({"layout": "webdataset"}, FileNotFoundError, r"has no \.tar files"),
        ({"layout": "imagefolder"}, FileNotFoundError, r"has no metadata\.jsonl"),
    ):
        with pytest.raises(error, match=words):
            import_pairs(tmp_path, tmp_path / "run", progress=False, **options)
    with pytest.raises(FileNotFoundError, match="There is no folder or file"):
        import_pairs(tmp_path / "nowhere", tmp_path / "run", progress=False)
    assert not list(tmp_path.iterdir())


def test_an_import_goes_on_where_it_was_stopped(run, tmp_path):
    export_pairs(run, tmp_path / "out", "webdataset", "every", progress=False)
    back = dsd.Run(tmp_path / "back")
    assert import_pairs(tmp_path / "out", back, "webdataset", limit=10, progress=False).added == 10
    found = import_pairs(tmp_path / "out", back, "webdataset", progress=False)
    assert (found.added, found.twice, found.pairs) == (26, 10, 36)
    assert back.pairs.ids() == run.pairs.ids()
    assert verdicts_of(back, "second") == verdicts_of(run, "second")
    assert back.examine().whole
    export_pairs(run, tmp_path / "other", policy="every", progress=False)
    with pytest.raises(SpecError, match="layout was 'webdataset', now 'release'"):
        import_pairs(tmp_path / "other", back, progress=False)
    with pytest.raises(SpecError, match="name was 'out', now 'another'"):
        import_pairs(tmp_path / "out", back, "webdataset", name="another", progress=False)
    with back.lock("test"), pytest.raises(LockedError):
        import_pairs(tmp_path / "out", dsd.Run(back.path), "webdataset", progress=False)


def test_an_interrupted_import_keeps_what_came(run, tmp_path, monkeypatch):
    export_pairs(run, tmp_path / "out", "webdataset", "every", progress=False)
    back = dsd.Run(tmp_path / "back")
    real, seen = Pair.__init__, []

    def stop(self, **fields):
        seen.append(1)
        if len(seen) == 15:
            raise KeyboardInterrupt
        real(self, **fields)

    monkeypatch.setattr(Pair, "__init__", stop)
    with pytest.raises(KeyboardInterrupt):
        import_pairs(tmp_path / "out", back, "webdataset", progress=False)
    monkeypatch.undo()
    assert back.pairs.ids() == run.pairs.ids()[:14]
    assert set(back.verdicts("first").ids()) == set(run.pairs.ids()[:14])
    assert import_pairs(tmp_path / "out", back, "webdataset", progress=False).added == 22
    assert back.examine().whole


def test_no_verdict_comes_to_the_disk_before_its_pair(run, tmp_path, monkeypatch):
    """Verdicts fill their shards sooner here; a kill after any of them must not leave them without pairs."""
    from dsd.data import writer as writing
    from dsd.data.shards import open_shard

    export_pairs(run, tmp_path / "out", "webdataset", "every", progress=False)
    back, real, checked = dsd.Run(tmp_path / "back"), writing.put, []

    def put(folder, number, data):
        if folder.parent.name == "verdicts":
            judged = open_shard(data).read(columns=["pair_id"])["pair_id"].to_pylist()
            assert set(judged) <= set(back.pairs.ids())
            checked.append(len(judged))
        return real(folder, number, data)

    monkeypatch.setattr(writing, "put", put)
    few = property(lambda self: 3 if self.table.kind.stage.startswith("verdicts") else 1000)
    monkeypatch.setattr(TableWriter, "shard_rows", few)
    import_pairs(tmp_path / "out", back, "webdataset", progress=False)
    assert sum(checked) == 46
    assert len(checked) > 10
