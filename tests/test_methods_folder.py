"""Methods that drew elsewhere: folders of their pictures, in every layout."""

import json

import pytest

from dsd.evaluation import benchmarks, methods
from dsd.evaluation.methods.base import jobs_of
from tests.benchmark_folders import dreambench, picture
from tests.method_cases import case, drawn


def folder_of(root, names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        picture(name).save(root / name)
    return root


def test_a_folder_by_keys(tmp_path):
    folder_of(tmp_path, ["a-b_0.png", "a-b_1.png", "c.png", "rest.txt.png"])
    (tmp_path / "d.png").write_bytes(b"no picture")
    method = methods.create(
        {
            "name": "folder",
            "path": tmp_path,
            "label": "Peer",
            "seconds_per_image": 2.5,
            "tuning_s_per_subject": 600,
        }
    )
    found = drawn(method, jobs_of([case(key) for key in ("a-b", "c", "d", "e")], 2))
    assert {key: x.status for key, x in found.items()} == {
        "a-b": "drawn", "a-b_1": "drawn", "c": "drawn", "c_1": "missing", "d": "failed", "d_1": "missing",
        "e": "missing", "e_1": "missing",
    }  # fmt: skip
    assert found["a-b_1"].image.tobytes() == picture("a-b_1.png").tobytes()
    assert (found["c"].seconds, found["c"].model, method.tuning_seconds()) == (2.5, "Peer", 600)
    assert "d.png cannot be used" in found["d"].reason


def test_a_folder_by_index(tmp_path):
    folder_of(tmp_path, ["x/1.png", "x/2.png"])
    lines = [{"key": "some/key", "image": "x/1.png"}, {"key": "some/key", "image": "x/2.png", "index": 1}]
    (tmp_path / "images.jsonl").write_text("\n".join(map(json.dumps, lines)))
    found = drawn(methods.create({"name": "folder", "path": tmp_path}), jobs_of([case("some/key")], 2))
    assert found["some/key_1"].image.tobytes() == picture("x/2.png").tobytes()


def test_a_folder_as_the_authors_of_dreambench_write_it(tmp_path):
    root = dreambench(tmp_path / "bench", {"object": 21})
    built = benchmarks.create({"name": "dreambench++", "root": root, "complete": False})
    names = [f"tgt_image/object_20_magic_cube/{i}_0.jpg" for i in range(9)]
    names += ["tgt_image/object_20_magic_cube/0_1.jpg", "tgt_image/object_07_spider-man/3_0.jpg"]
    folder_of(tmp_path / "peer", names)
    method = methods.create({"name": "folder", "path": tmp_path / "peer"})
    method.use_spellings(built.canonical)
    found = drawn(method, jobs_of(built.load(), 2))
    there = {key for key, x in found.items() if x.status == "drawn"}
    cube = "object_20_rubik's_cube"
    assert there == {*(f"{cube}-{i}" for i in range(9)), f"{cube}-0_1", "object_07_spider-man-3"}


@pytest.mark.parametrize(
    ("names", "index", "said"),
    [
        (["a.png", "a.jpg"], None, "are both picture number 0 of 'a'. Keep one"),
        (["tgt_image/x/one.png"], None, "is not called <prompt>_<index>"),
        ([], None, "holds no picture in the layout 'keys'"),
        ([], "[1]", "must be an object with `key` and `image`"),
        ([], '{"key": "a", "image": "../b.png"}', "outside the folder"),
        ([], '{"key": "a", "image": "b.png", "index": -1}', "a number from 0"),
        (["b.png", "c.png"], '{"key": "a", "image": "b.png"}\n{"key": "a", "image": "c.png"}', "Keep one"),
    ],
)
def test_folders_that_cannot_be_understood(tmp_path, names, index, said):
    folder = folder_of(tmp_path / "f", names)
    folder.mkdir(exist_ok=True)
    if index is not None:
        (folder / "images.jsonl").write_text(index)
    with pytest.raises((ValueError, FileNotFoundError), match=said):
        methods.create({"name": "folder", "path": folder})
