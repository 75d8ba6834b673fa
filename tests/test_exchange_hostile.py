"""Data sets of strangers: what they must not do, and what becomes of rows that are no pairs."""

import io
import json
import os
import random
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import dsd
from dsd.exchange import export_pairs, foreign, import_pairs, webdataset
from tests.cheap_world import picture
from tests.exchange_run import png, write_run
from tests.hostile import BOMBS, EPS

PNG = png(picture("a"))
GOOD = {"reference.png": PNG, "target.png": png(picture("b")), "txt": b"fine"}


def archive(path, samples):
    """A tar of samples by key; a member is its content, or a ready TarInfo."""
    with tarfile.open(path, "w") as tar:
        for key, files in samples:
            for ending, data in files.items():
                member = tarfile.TarInfo(f"{key}.{ending}" if ending else key)
                if isinstance(data, dict):
                    for name, value in data.items():
                        setattr(member, name, value)
                    data = b""
                else:
                    member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return path


def refused(run):
    return {failure.source: failure.reason for failure in run.failed("pairs")}


HOSTILE = {
    "bomb": ({**GOOD, "target.png": BOMBS["png"]()}, "pixels) exceeds limit"),
    "jpeg bomb": ({"reference.png": PNG, "target.jpg": BOMBS["jpg"](8000)}, "8000 x 8000 px, and at most"),
    "a program": ({**GOOD, "target.png": EPS}, "none of PNG"),
    "cut": ({**GOOD, "target.png": PNG[:-30]}, "cannot be used"),
    "no target": ({"reference.png": PNG, "txt": b"x"}, "The target is missing"),
    "no UTF-8": ({**GOOD, "txt": b"\xff\xfe"}, "utf-8"),
    "long": ({**GOOD, "txt": b"x" * (foreign.MAX_TEXT + 1)}, "100,001 characters"),
    "json": ({**GOOD, "json": b"[1, 2]"}, "is no object"),
    "deep": ({**GOOD, "json": b"[" * 100_000}, ""),
    "panel": ({**GOOD, "json": b'{"target_panel": -1}'}, "no number of a panel"),
    "panel true": ({**GOOD, "json": b'{"target_panel": true}'}, "no number of a panel"),
    "subject": ({**GOOD, "json": b'{"subject": ["x"]}'}, "The subject is no text"),
    "surrogate": ({**GOOD, "json": b'{"subject": "\\ud800"}'}, "no valid Unicode"),
    "status": (
        {**GOOD, "json": b'{"verdicts": [{"curator": "c", "status": "good"}]}'},
        "a status of accepted",
    ),
    "score": (
        {**GOOD, "json": b'{"verdicts": [{"curator": "c", "status": "accepted", "score": NaN}]}'},
        "is no number",
    ),
    "many": ({**GOOD, "json": json.dumps({"verdicts": [{}] * 65}).encode()}, "at most 64"),
    "link": ({**GOOD, "target.png": {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}}, "but a link"),
    "hard link": ({**GOOD, "target.png": {"type": tarfile.LNKTYPE, "linkname": "0.txt"}}, "but a link"),
    "device": ({**GOOD, "target.png": {"type": tarfile.CHRTYPE}}, "a device"),
    "fifo": ({**GOOD, "target.png": {"type": tarfile.FIFOTYPE}}, "no plain file"),
    "twice": ({**GOOD, "target.jpg": PNG}, "two such files"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_bad_sample_is_refused_by_name_and_the_others_come(tmp_path, name):
    files, words = HOSTILE[name]
    archive(tmp_path / "x.tar", [("good", GOOD), ("bad", files), ("after", {**GOOD, "txt": b"other"})])
    run = dsd.Run(tmp_path / "run")
    found = import_pairs(tmp_path / "x.tar", run, "webdataset", progress=False)
    assert (found.added, found.refused) == (2, 1)
    ((where, reason),) = refused(run).items()
    assert where == "x.tar, bad"
    assert words in reason
    assert run.examine().whole
    again = import_pairs(tmp_path / "x.tar", run, "webdataset", progress=False)
    assert (again.added, again.twice, len(run.failed("pairs"))) == (0, 2, 1)
    with pytest.raises(ValueError, match=r"x\.tar, bad: .*Leave `strict` out"):
        import_pairs(tmp_path / "x.tar", tmp_path / "strict", "webdataset", strict=True, progress=False)


@pytest.mark.parametrize("key", ["../out", "/etc/x", "a/../../x", "C:\\x", "\\\\server\\x", "a\x1b[31m"])
def test_paths_that_lead_out_are_refused(tmp_path, key, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    archive(tmp_path / "in" / "x.tar", [("good", GOOD), (key, {**GOOD, "txt": b"evil"})])
    files = {path for path in tmp_path.rglob("*")}
    run = dsd.Run(tmp_path / "run")
    found = import_pairs(tmp_path / "in", run, "webdataset", progress=False)
    if "\x1b" in key:  # strange, and harmless
        assert (found.added, found.refused) == (2, 0)
    else:
        assert (found.added, found.refused) == (1, 1)
        assert "leads out of the archive" in next(iter(refused(run).values()))
    assert "\x1b" not in "".join(refused(run) if run.failed("pairs").exists else [])
    assert {path for path in tmp_path.rglob("*") if not path.is_relative_to(run.path)} == files


def test_a_truncated_archive_is_an_error_and_what_came_before_stays(tmp_path):
    samples = [(f"{i:03d}", {**GOOD, "txt": f"{i}".encode()}) for i in range(12)]
    data = archive(tmp_path / "whole.tar", samples).read_bytes()
    for size in (len(data) // 2 + 7, len(data) // 2 // 512 * 512, 3 * 512, 700, 512, 100):
        path = tmp_path / "x.tar"
        path.write_bytes(data[:size])
        run = dsd.Run(tmp_path / f"run {size}")
        with pytest.raises(ValueError, match=r"x\.tar is cut short or damaged .*goes on from there"):
            import_pairs(path, run, "webdataset", progress=False)
        kept = len(run.pairs) if run.path.exists() else 0
        assert kept <= 6
        path.write_bytes(data)
        assert import_pairs(path, run, "webdataset", progress=False).added == 12 - kept
        assert [pair.caption for pair in run.pairs] == [f"{i}" for i in range(12)]
        assert run.examine().whole
    assert kept == 0


def test_damaged_headers_in_an_archive_are_no_quiet_end(tmp_path):
    """Python's tarfile stops there as if the archive had ended."""
    samples = [(f"{i:03d}", {**GOOD, "txt": f"{i}".encode()}) for i in range(6)]
    data = bytearray(archive(tmp_path / "x.tar", samples).read_bytes())
    place = data.find(b"003.reference.png")
    data[place + 3] = ord("?")
    (tmp_path / "x.tar").write_bytes(data)
    run = dsd.Run(tmp_path / "run")
    with pytest.raises(ValueError, match="is cut short or damaged"):
        import_pairs(tmp_path / "x.tar", run, "webdataset", progress=False)
    assert len(run.pairs) <= 3


def test_a_member_larger_than_allowed_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(webdataset, "MAX_FILE_BYTES", len(PNG) + 100)
    archive(tmp_path / "x.tar", [("good", GOOD), ("bad", {**GOOD, "target.png": PNG + bytes(200)})])
    run = dsd.Run(tmp_path / "run")
    import_pairs(tmp_path / "x.tar", run, "webdataset", progress=False)
    assert "bytes; at most" in refused(run)["x.tar, bad"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ({"target_file_name": "../../secret.png"}, "outside of the folder"),
        ({"target_file_name": "/etc/hostname"}, "outside of the folder"),
        ({"target_file_name": "..\\secret.png"}, "outside of the folder"),
        ({"target_file_name": "nowhere.png"}, "is no file"),
        ({"target_file_name": "folder"}, "is no file"),
        ({"target_file_name": "a\0.png"}, "names no file"),
        ({"target_file_name": None}, "names no file"),
        ({"target_file_name": {"bytes": 1}}, "names no file"),
        ({"target_file_name": "words.png"}, "none of PNG"),
        ({"caption": 5}, "The caption is no text"),
        ([1], "no object"),
        ("not json", ""),
    ],
)
def test_bad_lines_of_an_image_folder(tmp_path, line, words):
    folder = tmp_path / "in"
    (folder / "folder").mkdir(parents=True)
    (folder / "a.png").write_bytes(PNG)
    (folder / "b.png").write_bytes(GOOD["target.png"])
    (folder / "words.png").write_text("<svg/>")
    (tmp_path / "secret.png").write_bytes(PNG)
    good = {"reference_file_name": "a.png", "target_file_name": "b.png", "caption": "x"}
    bad = json.dumps({**good, **line} if isinstance(line, dict) else line)
    (folder / "metadata.jsonl").write_text(f"{json.dumps(good)}\n\n{bad if line != 'not json' else '{'}\n")
    run = dsd.Run(tmp_path / "run")
    found = import_pairs(folder, run, "imagefolder", progress=False)
    assert (found.added, found.refused) == (1, 1)
    assert words in refused(run)["metadata.jsonl, line 3"]


def parquet(path, rows, schema=None):
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    schema = schema or pa.schema({"image": kind, "conditioning": kind, "caption": pa.string()})
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path)
    return path


def test_bad_rows_of_parquet(tmp_path):
    secret = tmp_path / "secret.png"
    secret.write_bytes(PNG)
    cell = {"bytes": PNG, "path": None}
    rows = [
        {"image": cell, "conditioning": cell, "caption": "good"},
        {"image": {"bytes": None, "path": str(secret)}, "conditioning": cell, "caption": "path"},
        {
            "image": {"bytes": None, "path": "http://127.0.0.1:1/x.png"},
            "conditioning": cell,
            "caption": "address",
        },
        {"image": None, "conditioning": cell, "caption": "none"},
        {"image": {"bytes": BOMBS["webp"](), "path": None}, "conditioning": cell, "caption": "bomb"},
        {"image": cell, "conditioning": cell, "caption": None},
    ]
    run = dsd.Run(tmp_path / "run")
    found = import_pairs(parquet(tmp_path / "x.parquet", rows), run, progress=False)
    assert (found.added, found.refused) == (2, 4)
    assert [pair.caption for pair in run.pairs] == ["good", ""]
    reasons = refused(run)
    assert sorted(reasons) == [f"x.parquet, row {i}" for i in (1, 2, 3, 4)]
    assert "names a file instead; that is not read" in reasons["x.parquet, row 1"]
    assert "names a file instead" in reasons["x.parquet, row 2"]
    assert "exceeds limit" in reasons["x.parquet, row 4"]


def test_a_text_that_is_no_utf8_is_one_bad_row(tmp_path):
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    cells = pa.array([{"bytes": PNG, "path": None}] * 2, kind)
    buffers = pa.array([b"good", b"\xff"], pa.binary()).buffers()
    texts = pa.StringArray.from_buffers(2, buffers[1], buffers[2])
    table = pa.table({"image": cells, "conditioning": cells, "caption": texts})
    pq.write_table(table, tmp_path / "x.parquet")
    run = dsd.Run(tmp_path / "run")
    assert import_pairs(tmp_path / "x.parquet", run, progress=False).added == 1
    assert "not UTF-8" in refused(run)["x.parquet, row 1"]


def test_damaged_parquet_is_named_and_never_kills_the_process(tmp_path):
    cell = {"bytes": PNG, "path": None}
    rows = [{"image": cell, "conditioning": cell, "caption": f"{i}"} for i in range(9)]
    path = parquet(tmp_path / "x.parquet", rows)
    data, rng = path.read_bytes(), random.Random(0)
    outcomes, said = set(), []
    for number in range(60):
        harm = bytearray(data)
        place = rng.randrange(len(data)) if number % 2 else len(data) - rng.randrange(1, 900)
        harm[place] ^= 1 << rng.randrange(8)
        path.write_bytes(harm)
        run = dsd.Run(tmp_path / f"run {number}")
        try:
            import_pairs(path, run, progress=False)
            outcomes.add("came")
        except ValueError as error:
            outcomes.add("refused")
            said.append(str(error))
        if run.path.exists():
            assert run.examine().whole
    assert outcomes == {"came", "refused"}
    assert all(str(path) in text or "were all refused" in text for text in said)


def test_a_source_of_another_layout_is_an_error_and_leaves_no_failures(tmp_path):
    cell = {"bytes": PNG, "path": None}
    rows = [{"image": cell, "conditioning": {"bytes": b"?", "path": None}, "caption": "x"} for _ in range(20)]
    path = parquet(tmp_path / "x.parquet", rows)
    run = dsd.Run(tmp_path / "run")
    with pytest.raises(
        ValueError, match=r"The first 16 rows were all refused, at last x\.parquet, row 15: The pict"
    ):
        import_pairs(path, run, progress=False)
    assert not run.failed("pairs").exists
    parquet(path, rows[:3])
    with pytest.raises(ValueError, match="The first 3 rows were all refused"):
        import_pairs(path, run, progress=False)
    parquet(path, [])
    with pytest.raises(ValueError, match="has no rows"):
        import_pairs(path, run, progress=False)


def test_a_row_that_was_mended_is_no_failure_any_more(tmp_path):
    cell = {"bytes": PNG, "path": None}
    rows = [{"image": cell, "conditioning": cell, "caption": f"{i}"} for i in range(3)]
    path = parquet(tmp_path / "x.parquet", [rows[0], {**rows[1], "image": None}, rows[2]])
    run = dsd.Run(tmp_path / "run")
    assert import_pairs(path, run, progress=False).refused == 1
    parquet(path, rows)
    assert import_pairs(path, run, progress=False).added == 1
    assert len(run.pairs) == 3
    assert refused(run) == {}


def test_names_of_curators_are_no_paths(tmp_path):
    verdict = {"status": "accepted", "curator": "../../../out"}
    archive(tmp_path / "x.tar", [("a", {**GOOD, "json": json.dumps({"verdicts": [verdict]}).encode()})])
    run = dsd.Run(tmp_path / "deep" / "run")
    os.makedirs(tmp_path / "deep")
    import_pairs(tmp_path / "x.tar", run, "webdataset", progress=False)
    assert run.curators() == ["out"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["deep", "x.tar"]
    assert sorted(path.name for path in run.path.iterdir() if path.is_dir()) == ["pairs", "verdicts"]


def test_memory_is_bounded_by_the_row_not_by_the_source(tmp_path):
    """Readers give rows one by one: the first comes before the second is looked at."""
    archive(tmp_path / "x.tar", [(f"{i}", GOOD) for i in range(50)])
    rows = webdataset.read(tmp_path / "x.tar", foreign.Options(name="x"))
    next(rows)
    with (tmp_path / "x.tar").open("r+b") as file:
        file.truncate(20_000)
    with pytest.raises(webdataset.CutError):
        list(rows)


def test_words_of_strangers_are_words_on_the_card(tmp_path):
    run = write_run(tmp_path / "run")
    export_pairs(
        run, tmp_path / "out", "imagefolder", "every", title="<script>alert(1)</script> | `x`", progress=False
    )
    card = (tmp_path / "out" / "README.md").read_text()
    body = card.split("---", 2)[2]
    assert "<script>" not in body


def test_a_word_without_end_takes_no_time_on_a_sheet(monkeypatch):
    from PIL import ImageFont

    from dsd.contact import shortened, wrapped

    font, asked = ImageFont.load_default(13), []
    measure = font.getlength
    monkeypatch.setattr(font, "getlength", lambda text: asked.append(len(text)) or measure(text))
    short = shortened("x" * 100_000, font, 200)
    assert measure(short) <= 200 < measure(f"x{short}")
    wrapped("y" * 5000, font, 200)
    assert len(asked) < 60
    assert max(asked) < 5010
