"""The store: rows come back as they went in, faults are named, and nothing is half-written."""

import errno
import json
import multiprocessing
import os
import pickle
import shutil
import stat
from pathlib import Path

import datasets
import pyarrow.parquet as pq
import pytest
from PIL import Image

import dsd
from dsd.data import atomic
from dsd.data.atomic import LockedError, replace_file
from dsd.data.manifest import ManifestError, SpecError, add_digests, ids_digest, without_secrets
from dsd.data.policy import Policy
from dsd.data.rows import PAIRS
from dsd.data.table import Table
from dsd.data.writer import TableWriter
from dsd.types import Grid, GridPrompt, Pair, Verdict
from tests.cheap_world import make_run, picture

PROMPT = GridPrompt(
    text="a grid", subject="a fox", panels=("a fox 1", "a fox 2"), layout="1x2", kind="animal", seed=2**62
)


def pairs(count, mode="RGB"):
    return [
        Pair(
            reference=picture(f"r{i}").convert(mode),
            target=picture(f"t{i}", 24).convert(mode),
            caption=f"caption {i} é 狐",
            grid_id=f"grid {i // 2}",
            reference_panel=i,
            source="test",
        )
        for i in range(count)
    ]


def write(folder, records, kind=PAIRS, shard_rows=1000, spec=None):
    folder.parent.mkdir(parents=True, exist_ok=True)
    table = Table(folder, kind)
    with TableWriter(table, spec or {}) as writer:
        writer.shard_rows = shard_rows
        for record in records:
            writer.add([record])
        writer.finish()
    return table


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("finished") / "run", 6).path


@pytest.fixture
def run(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    return dsd.Run(tmp_path / "run")


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "1"])
def test_records_come_back_with_their_ids(tmp_path, mode):
    written = pairs(5, mode)
    table = write(tmp_path / "pairs", written)
    for pair, again in zip(written, table, strict=True):
        assert again.id == pair.id
        assert again.reference.tobytes() == pair.reference.tobytes()
        assert (again.caption, again.grid_id, again.reference_panel) == (
            pair.caption,
            pair.grid_id,
            pair.reference_panel,
        )
    assert table.ids() == [pair.id for pair in written]
    assert table.keys() == {"grid 0", "grid 1", "grid 2"}


def test_prompts_grids_and_verdicts_come_back(tmp_path):
    run = dsd.Run(tmp_path / "run")
    grid = Grid(image=picture("grid"), prompt=PROMPT, seed=2**32 - 1, teacher="cheap")
    write(run.prompts.folder, [PROMPT], run.prompts.kind)
    write(run.grids.folder, [grid], run.grids.kind)
    assert list(run.prompts) == [PROMPT]
    assert [g.id for g in run.grids] == [grid.id]
    (again,) = run.grids
    assert again.prompt == PROMPT
    verdict = Verdict(status="refused", reason="no", raw="{}")
    from dsd.data.rows import Judged

    table = write(run.verdicts("c").folder, [Judged(pair_id="p", verdict=verdict)], run.verdicts("c").kind)
    assert [judged.verdict for judged in table] == [verdict]
    assert verdict.cost_usd is None


@pytest.mark.parametrize("shard_rows", [1, 3, 1000])
def test_shards_do_not_show(tmp_path, shard_rows):
    written = pairs(8)
    one, many = write(tmp_path / "one", written), write(tmp_path / "many", written, shard_rows=shard_rows)
    assert len(many.manifest.shards) == -(-8 // shard_rows)
    assert many.ids() == one.ids()
    assert many.manifest.ids == one.manifest.ids == ids_digest(reversed(one.ids()))
    assert [pair.id for pair in many] == [pair.id for pair in one]
    assert many[written[5].id].caption == written[5].caption


def test_digest_is_of_the_set():
    assert ids_digest("ab") == ids_digest("ba") == add_digests([ids_digest("a"), ids_digest("b")])
    assert ids_digest("ab") != ids_digest("ac")


def test_reading_some_rows_decodes_no_others(tmp_path, monkeypatch):
    written = pairs(20)
    table = write(tmp_path / "pairs", written, shard_rows=7)
    decoded = []
    true_open = Image.open
    monkeypatch.setattr(Image, "open", lambda *a, **k: decoded.append(1) or true_open(*a, **k))
    wanted = {written[3].id, written[15].id, "unknown"}
    assert [i for i, _ in table.items(wanted)] == [written[3].id, written[15].id]
    assert len(decoded) == 4
    with pytest.raises(LookupError, match="no row 'unknown' among its 20 rows"):
        table["unknown"]
    assert written[3].id in table
    assert "unknown" not in table


def test_pictures_that_pairs_share_are_stored_once(tmp_path):
    panels = [picture(f"p{i}", 64) for i in range(4)]
    grid = [Pair(reference=a, target=b, grid_id="g") for a in panels for b in panels if a is not b]
    table = write(tmp_path / "pairs", grid)
    size, single = (tmp_path / "pairs" / "part-00000.parquet").stat().st_size, 64 * 64 * 3
    assert len(table) == 12
    assert size < 9 * single  # 4 references and 4 targets, not 24 pictures


def test_memory_is_bounded(tmp_path):
    """Row groups stay small, so that reading by id never reads a whole shard."""
    write(
        tmp_path / "pairs", [Pair(reference=picture(f"{i}", 512), target=picture("t", 8)) for i in range(12)]
    )
    file = pq.ParquetFile(tmp_path / "pairs" / "part-00000.parquet")
    sizes = [file.metadata.row_group(i).total_byte_size for i in range(file.num_row_groups)]
    assert len(sizes) > 1
    assert max(sizes) < 5 * 2**20


def test_datasets_shows_pictures(run, tmp_path):
    for stage, column in (("grids", "image"), ("pairs", "reference"), ("pairs", "target")):
        files = str(run.path / stage / "*.parquet")
        found = datasets.load_dataset(
            "parquet", data_files=files, split="train", cache_dir=str(tmp_path / "cache")
        )
        assert isinstance(found[0][column], Image.Image)
        assert found[0][column].mode == "RGB"
    ours = {pair.id: pair for pair in run.pairs}
    assert all(row["reference"].tobytes() == ours[row["id"]].reference.tobytes() for row in found)
    # The folder alone is enough: the manifest is not taken for data.
    folder = datasets.load_dataset(str(run.path / "pairs"), split="train", cache_dir=str(tmp_path / "cache"))
    assert len(folder) == len(run.pairs)


def test_tables_travel_to_worker_processes(run):
    expected = run.pairs[run.pairs.ids()[7]].id
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.apply(first_id, (run.pairs, 7)) == expected
    again = pickle.loads(pickle.dumps(run.pairs))
    assert again[expected].id == expected


def first_id(table, index):
    return table[table.ids()[index]].id


DAMAGES = {
    "truncated": lambda data: data[: len(data) // 2],
    "empty": lambda data: b"",
    "one flipped bit in the middle": lambda data: flipped(data, len(data) // 3),
    "one flipped bit near the end": lambda data: flipped(data, len(data) - 200),
    "garbage": lambda data: os.urandom(len(data)),
}


def flipped(data, place):
    return data[:place] + bytes([data[place] ^ 16]) + data[place + 1 :]


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_shard_is_named_and_can_be_mended(run, damage):
    shard = run.path / "pairs" / "part-00000.parquet"
    before = [pair.id for pair in run.pairs]
    shard.write_bytes(DAMAGES[damage](shard.read_bytes()))
    with pytest.raises(ManifestError, match="is damaged") as caught:
        list(dsd.Run(run.path).pairs)
    for words in (str(shard), "mend('pairs')", "dsd.make_pairs(run)"):
        assert words in str(caught.value)
    assert dsd.Run(run.path).verify() == [str(caught.value)]
    assert run.mend("pairs") == len(before)
    dsd.make_pairs(run, progress=False)
    assert [pair.id for pair in run.pairs] == before
    assert run.verify() == []


def test_every_flipped_byte_is_noticed(run):
    shard = run.path / "prompts" / "part-00000.parquet"
    data = shard.read_bytes()
    for place in range(0, len(data), 97):
        shard.write_bytes(flipped(data, place))
        with pytest.raises(ManifestError, match=r"part-00000\.parquet is damaged"):
            list(dsd.Run(run.path).prompts)


def test_a_damaged_footer_is_noticed_without_reading_the_whole_file(run):
    """Reading by id or column does not hash the file, and the pages' checksums do not cover the footer."""
    shard, wanted = run.path / "prompts" / "part-00000.parquet", run.prompts.ids()[2]
    data = shard.read_bytes()
    footer = int.from_bytes(data[-8:-4], "little") + 8
    for place in range(len(data) - footer, len(data), 61):
        shard.write_bytes(flipped(data, place))
        for read in (lambda table: table[wanted], lambda table: table.columns("text")):
            with pytest.raises(ManifestError, match=r"part-00000\.parquet is damaged"):
                read(dsd.Run(run.path).prompts)


def test_missing_shard_and_damaged_manifest(run):
    (run.path / "grids" / "part-00000.parquet").unlink()
    with pytest.raises(ManifestError, match=r"part-00000\.parquet is damaged: it is missing"):
        list(run.grids)
    (run.path / "pairs" / ".manifest.json").write_text('{"format": 1')
    with pytest.raises(ManifestError, match=r"The manifest .*pairs/\.manifest\.json is damaged"):
        len(run.pairs)


def test_missing_folder_and_missing_stage(tmp_path, run):
    with pytest.raises(FileNotFoundError, match=r"There is no run in .*nowhere: the folder does not exist"):
        len(dsd.Run(tmp_path / "nowhere").pairs)
    with pytest.raises(FileNotFoundError, match=r"no rows of the stage 'verdicts/x' yet.*dsd\.curate"):
        len(run.verdicts("x"))
    with pytest.raises(LookupError, match=r"no stage 'pears'.*prompts, grids, pairs, verdicts/parity"):
        run.table("pears")
    assert not (tmp_path / "nowhere").exists()


def test_orphans_are_adopted_or_set_aside(run, tmp_path):
    folder = run.path / "pairs"
    before, kept = run.pairs.ids(), (folder / "part-00000.parquet").read_bytes()
    manifest = json.loads((folder / ".manifest.json").read_text())
    (folder / ".manifest.json").write_text(json.dumps(manifest | {"shards": []}))
    (folder / "part-00001.parquet").write_bytes(kept[:-9])  # not whole
    (folder / "part-00002.parquet").write_bytes(
        (run.path / "grids" / "part-00000.parquet").read_bytes()
    )  # not ours
    (folder / "part-00003.parquet").write_bytes(kept)  # all of it is in part 0
    write(tmp_path / "others", pairs(2), spec={"max_pairs": 1, "seed": 0})
    shutil.copy(tmp_path / "others" / "part-00000.parquet", folder / "part-00004.parquet")  # another spec
    (folder / ".part-00009.parquet.1.tmp").write_bytes(b"half")
    assert dsd.make_pairs(run, progress=False).added == 0  # the whole shard is listed, not made again
    assert run.pairs.ids() == before
    assert (folder / "part-00000.parquet").read_bytes() == kept
    assert sorted(path.name for path in folder.iterdir()) == [
        ".manifest.json", "part-00000.parquet",
        *(f"part-0000{i}.parquet.unlisted" for i in (1, 2, 3, 4)),
    ]  # fmt: skip


def test_rows_half_discarded_by_a_killed_process_are_no_stage(run):
    stages = run.stages()
    for stage in ("verdicts/parity", "pairs"):
        folder = run.path / stage
        shutil.copytree(folder, folder.with_name(f".{folder.name}.discarded-1-2"))
    assert run.stages() == stages
    assert run.curators() == ["parity"]
    assert dsd.curate(run, curator="parity", progress=False).added == 0
    assert not list(run.path.rglob("*discarded*"))


def test_another_spec_is_refused_and_says_what_differs(run):
    with pytest.raises(SpecError, match=r"teacher\.size is new \(8\).*overwrite=True"):
        dsd.draw_grids(run, teacher={"name": "cheap", "size": 8}, progress=False)
    with pytest.raises(SpecError, match=r"seed was 0, now 1"):
        dsd.draw_grids(run, teacher="cheap", seed=1, progress=False)
    with pytest.raises(SpecError, match=r"curator\.modulus is new \(3\).*its own `name`"):
        dsd.curate(run, curator={"name": "parity", "modulus": 3}, progress=False)
    dsd.curate(run, curator={"name": "parity", "modulus": 3}, name="by three", progress=False)
    assert run.curators() == ["by-three", "parity"]
    # How the work is done is no part of what is done.
    assert dsd.draw_grids(run, teacher={"name": "cheap", "batch_size": 1}, progress=False).added == 0


def test_a_changed_earlier_stage_is_detected(run):
    dsd.draw_grids(run, teacher="cheap", seed=1, overwrite=True, progress=False)
    with pytest.raises(
        ManifestError, match=r"pairs was made from 6 rows of 'grids', of which 6 are no longer there"
    ):
        dsd.make_pairs(run, progress=False)
    assert any("no longer there" in problem for problem in run.verify())
    with pytest.raises(ManifestError, match="of which 6 are no longer there"):
        dsd.curate(run, curator="parity", progress=False)
    dsd.make_pairs(run, overwrite=True, progress=False)
    with pytest.raises(ManifestError, match="of which 72 are no longer there"):
        run.accepted()
    dsd.curate(run, curator="parity", overwrite=True, progress=False)
    assert run.verify() == []


def test_rows_wait_no_longer_than_they_may(tmp_path):
    table = Table(tmp_path / "pairs", PAIRS)
    one, two = pairs(2)
    with TableWriter(table, {}) as writer:
        writer.add([one])
        assert len(table) == 0
        writer.flush_s = 0.0
        writer.add([two])
        assert len(table) == 2


def test_an_interrupt_while_a_shard_is_written_loses_nothing(run, monkeypatch):
    calls = []

    def interrupted_once(path, content):
        calls.append(path)
        if len(calls) == 1:
            raise KeyboardInterrupt
        replace_file(path, content)

    monkeypatch.setattr("dsd.data.shards.replace_file", interrupted_once)
    with pytest.raises(KeyboardInterrupt):
        dsd.curate(run, curator="parity", name="other", progress=False)
    assert len(calls) == 2
    assert run.verdicts("other").ids() == run.pairs.ids()


def test_one_writer_at_a_time(run):
    with run.lock("drawing"):
        with pytest.raises(LockedError, match=rf"is being written to by process {os.getpid()} .*drawing"):
            dsd.make_pairs(run.path, progress=False)
        with multiprocessing.get_context("fork").Pool(1) as pool:
            assert "is being written to" in pool.apply(locked_message, (run.path,))
        assert len(list(run.pairs)) == 72  # reading is allowed
    dsd.make_pairs(run, progress=False)


def locked_message(path):
    try:
        dsd.make_pairs(path, progress=False)
    except LockedError as error:
        return str(error)
    return "not locked"


@pytest.mark.parametrize(
    ("number", "kind", "words"),
    [(errno.ENOSPC, OSError, "disk is full"), (errno.EROFS, OSError, "cannot be written"),
     (errno.EACCES, PermissionError, "cannot be written")],
)  # fmt: skip
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_disk_faults_are_explained_and_leave_nothing_half_written(
    run, monkeypatch, number, kind, words, call
):
    state = {
        path: path.read_bytes() for path in run.path.rglob("*") if path.is_file() and path.name != ".lock"
    }

    def fail(*args):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(atomic.os, call, fail)
    with pytest.raises(kind, match=words) as caught:
        dsd.curate(run, curator="parity", name="other", progress=False)
    assert caught.value.errno == number
    assert str(run.path) in str(caught.value)
    monkeypatch.undo()
    assert {
        path: path.read_bytes() for path in run.path.rglob("*") if path.is_file() and path.name != ".lock"
    } == state
    assert dsd.curate(run, curator="parity", name="other", progress=False).rows == 72


def test_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="A file stands where a folder is needed"):
        dsd.write_prompts(tmp_path / "file" / "run", count=1, progress=False)
    if os.getuid():  # the superuser may write anywhere
        tmp_path.chmod(0o500)
        with pytest.raises(PermissionError, match="cannot be written to"):
            dsd.write_prompts(tmp_path / "run", count=1, progress=False)


def test_replace_file_is_all_or_nothing(tmp_path, monkeypatch):
    path = tmp_path / "file"
    replace_file(path, b"old")
    monkeypatch.setattr(
        atomic.os, "fsync", lambda descriptor: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full"))
    )
    with pytest.raises(OSError, match="disk is full"):
        replace_file(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    """The order that survives a power cut: the content, the name, the folder that holds the name."""
    steps = []
    true_fsync, true_replace = os.fsync, os.replace

    def fsync(descriptor):
        is_folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        steps.append("folder" if is_folder else f"{os.fstat(descriptor).st_size} bytes")
        true_fsync(descriptor)

    monkeypatch.setattr(atomic.os, "fsync", fsync)
    monkeypatch.setattr(atomic.os, "replace", lambda *paths: steps.append("name") or true_replace(*paths))
    replace_file(tmp_path / "file", b"content")
    assert steps == ["7 bytes", "name", "folder"]


def test_no_secret_reaches_the_disk(run):
    from dsd import curators

    @curators.register("leaky")
    class Leaky(curators.Curator):
        def __init__(self, api_key, options, knows=True):
            self.knows, self.asked = knows, 0

        def judge(self, pair):
            self.asked += 1
            if self.knows and self.asked % 8 == 1:  # now and then: else the stage stops
                return dsd.Verdict(keep=True)
            raise ConnectionError("401 for key sk-live-abcdefghijklmnop at https://me:hunter2@host/v1")

    options = {
        "headers": {"Authorization": "Bearer tok-123456"},
        "url": "https://u:hunter2@h/",
        "max_tokens": 7,
    }
    secret = {"name": "leaky", "api_key": "sk-live-abcdefghijklmnop", "options": options}
    summary = dsd.curate(run, curator=secret, progress=False)
    assert summary.failed == 63
    with pytest.raises(RuntimeError, match="401 for key") as error:
        dsd.curate(run, curator=secret | {"knows": False}, name="other", progress=False)
    assert "abcdefghijklmnop" not in str(error.value)
    assert "hunter2" not in str(error.value)
    written = b"".join(path.read_bytes() for path in run.path.rglob("*") if path.is_file())
    texts = written.decode(errors="ignore") + " ".join(
        judged.verdict.reason for judged in run.verdicts("leaky")
    )
    for word in ("abcdefghijklmnop", "hunter2", "tok-123456"):
        assert word not in texts
    assert '"max_tokens": 7' in texts
    assert without_secrets({"a": [{"hf_token": "x", "tokens": 3}]}) == {"a": [{"tokens": 3}]}


def verdict_run(path, **statuses):
    """A run of four pairs, with the verdicts of some curators: a list of (status, score) each."""
    from dsd.data.rows import Judged

    run = dsd.Run(path)
    table = write(run.pairs.folder, pairs(4), run.pairs.kind)
    for name, said in statuses.items():
        judged = [
            Judged(pair_id=pair_id, verdict=Verdict(status=status, score=score))
            for pair_id, (status, score) in zip(table.ids(), said, strict=False)
        ]
        write(run.verdicts(name).folder, judged, run.verdicts(name).kind)
    return run, table.ids()


A, R, F, U = ("accepted", 0.9), ("rejected", 0.4), ("failed", None), ("unparsable", 0.4)


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("x", [0, 1]), ("y", [0, 2]), ("all", []), ("any", [0, 1, 2]), ("every", [0, 1, 2, 3]),
        ({"rule": "all", "curators": ["x", "y"]}, [0]),
        ({"rule": "vote", "votes": 2}, [0]),
        ({"rule": "vote", "votes": 1, "curators": ("y", "z")}, [0, 2]),
        ({"curators": "x", "min_score": 0.3}, [0, 1, 2]),
        ({"curators": "y", "max_score": 0.5}, [1]),
        ({"curators": "z", "min_score": 0.0}, []),
        (Policy(curators=("x",)), [0, 1]),
    ],
)  # fmt: skip
def test_policies(tmp_path, policy, expected):
    run, ids = verdict_run(tmp_path / "run", x=[A, A, R, U], y=[A, R, A], z=[F, F, F, F])
    assert run.accepted(policy) == [ids[i] for i in expected]
    assert [pair.id for pair in run.accepted_pairs(policy)] == [ids[i] for i in expected]


def test_policy_by_default_and_its_errors(tmp_path):
    run, ids = verdict_run(tmp_path / "none")
    assert run.accepted() == ids
    with pytest.raises(LookupError, match=r"no verdicts of any curator"):
        run.accepted("all")
    run, ids = verdict_run(tmp_path / "one", x=[A, R, R, A])
    assert run.accepted() == [ids[0], ids[3]]
    with pytest.raises(LookupError, match=r"no verdicts of z\. It has: x"):
        run.accepted("z")
    run, _ = verdict_run(tmp_path / "two", x=[A], y=[R])
    with pytest.raises(ValueError, match="verdicts of 2 curators: x, y"):
        run.accepted()
    with pytest.raises(ValueError, match="Unknown rule 'most'"):
        Policy.parse({"rule": "most"})
    with pytest.raises(TypeError, match="no field 'vote'"):
        Policy.parse({"vote": 2})
    with pytest.raises(ValueError, match="needs `votes`"):
        Policy.parse("vote")


def test_the_manifest_of_a_run(run):
    told = json.loads((run.path / "manifest.json").read_text())
    assert told == run.manifest()
    grids, made = told["stages"]["grids"], told["stages"]["pairs"]
    assert grids["spec"] == {"teacher": {"name": "cheap"}, "seed": 0}
    assert made["made_from"] == {"stage": "grids", "rows": 6, "ids": grids["ids"]}
    assert told["stages"]["verdicts/parity"]["counts"]["accepted"] == len(run.accepted())
    assert grids["versions"]["dsd"] == dsd.__version__
    for stage in run.stages():
        for shard in run.table(stage).manifest.shards:
            assert atomic.sha256_of(Path(run.path / stage / shard.file)) == shard.sha256
