"""What the comparison keeps: its journal and its album of pictures."""

import pytest

from dsd.evaluation.comparison.album import Album
from dsd.evaluation.comparison.journal import Journal
from dsd.evaluation.methods import Drawing
from dsd.evaluation.methods.base import jobs_of
from tests.benchmark_folders import picture
from tests.comparison_parts import Greys, Shades, _keyed, shade


def test_a_journal_survives_a_torn_line_and_knows_its_head(tmp_path):
    journal = Journal(tmp_path / "x" / "j.jsonl", {"a": 1})
    journal.append([{"n": 1, "text": "ä\n\u2028"}, {"n": 2}])
    with (tmp_path / "x" / "j.jsonl").open("ab") as file:
        file.write(b'{"n": 3, "te')
    again = Journal(tmp_path / "x" / "j.jsonl", {"a": 1})
    assert [entry["n"] for entry in again.entries] == [1, 2]
    again.append([{"n": 4}])
    assert [x["n"] for x in Journal(tmp_path / "x" / "j.jsonl", {"a": 1}).entries] == [1, 2, 4]
    with pytest.raises(ValueError, match=r'what came of {"a": 1}, not of {"a": 2}'):
        Journal(tmp_path / "x" / "j.jsonl", {"a": 2})
    content = (tmp_path / "x" / "j.jsonl").read_bytes().replace(b'{"n": 2}', b'{"n"')
    (tmp_path / "x" / "j.jsonl").write_bytes(content)
    with pytest.raises(ValueError, match=r"Line 3 of .* is damaged"):
        Journal(tmp_path / "x" / "j.jsonl", {"a": 1})
    (tmp_path / "torn.jsonl").write_bytes(b'{"a"')
    assert Journal(tmp_path / "torn.jsonl", {"a": 1}).entries == []


def test_an_album_keeps_pictures_exactly_under_any_key(tmp_path):
    keys = ["a/b", "a-b", "../../evil", "ü" * 300, "object_20_rubik's_cube-3", "CON", "x.", "\udcff"]
    jobs = jobs_of([Shades().load()[0]])
    jobs = [type(jobs[0])(case=_keyed(jobs[0].case, key), seed=i) for i, key in enumerate(keys)]
    album = Album(tmp_path / "p", Greys())
    for job in jobs:
        album.put(job, Drawing(image=picture(job.key), seconds=1.5, cost_usd=0.25, model="m"))
    again = Album(tmp_path / "p", Greys())
    assert all(again.settled(job) for job in jobs)
    assert {job.key: image.tobytes() for job, image in again.images(jobs)} == {
        job.key: picture(job.key).tobytes() for job in jobs
    }
    assert again.drawn(jobs[0]).cost_usd == 0.25
    assert len(list((tmp_path / "p").iterdir())) == len(jobs)
    assert list(tmp_path.iterdir()) == [tmp_path / "p"]


def test_an_album_tries_again_what_failed_and_not_what_was_refused(tmp_path):
    job, other = jobs_of(Shades(1, 2).load())
    album = Album(tmp_path, Greys())
    album.put(job, Drawing(status="failed", reason="r" * 9999))
    album.put(other, Drawing(status="refused"))
    again = Album(tmp_path, Greys())
    assert (again.settled(job), again.settled(other)) == (False, True)
    assert len(again.drawn(job).reason) == 2000
    again.put(job, Drawing(image=shade(3)))
    assert sorted(x.suffix for x in tmp_path.iterdir()) == [".json", ".png"]
    assert Album(tmp_path, Greys()).settled(job)
    next(tmp_path.glob("*.png")).write_bytes(b"broken")
    with pytest.raises(ValueError, match="is damaged, or no picture of this command"):
        Album(tmp_path, Greys())
