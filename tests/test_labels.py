"""What people said of pairs, on disk, and which pairs they are shown."""

import json
import math
import multiprocessing
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

import dsd
from dsd import labels
from dsd.labels import LabelFile, choose_pairs
from dsd.labels.choice import margins, shuffled
from dsd.labels.store import people, person_name
from tests.cheap_world import make_run

WHEN = "2025-03-01T12:30:00+00:00"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("labels") / "run", count=4)  # 48 pairs


@pytest.fixture
def empty(run, tmp_path):
    """The same run without labels."""
    (tmp_path / "run").mkdir()
    for folder in ("pairs", "grids", "prompts", "verdicts"):
        (tmp_path / "run" / folder).symlink_to(run.path / folder)
    return dsd.Run(tmp_path / "run")


# The store


def test_a_label_is_on_the_disk_when_add_returns(empty):
    first, second = empty.pairs.ids()[:2]
    LabelFile(empty, "Ann").add(first, "same", 1.25)
    LabelFile(empty.path, "ann").add(second, "unsure")
    lines = [json.loads(line) for line in (empty.path / "labels/ann.jsonl").read_text().splitlines()]
    assert [(x["pair_id"], x["label"], x["person"], x["seconds"]) for x in lines] == [
        (first, "same", "ann", 1.25), (second, "unsure", "ann", None)
    ]  # fmt: skip
    assert all(x["time"].endswith("+00:00") for x in lines)
    assert [x.label for x in labels.read(empty)] == ["same", "unsure"]


def test_a_file_is_synced_before_add_returns(empty, monkeypatch):
    synced = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (synced.append(os.readlink(f"/proc/self/fd/{fd}")), real(fd)))
    LabelFile(empty, "ann").add(empty.pairs.ids()[0], "same")
    folder = str(empty.path / "labels")
    assert synced == [f"{folder}/ann.jsonl", folder, str(empty.path)]  # the file's entry must last, too
    synced.clear()
    LabelFile(empty, "ann").add(empty.pairs.ids()[1], "same")
    assert synced == [f"{folder}/ann.jsonl"]


def test_a_later_label_replaces_the_earlier_one(empty):
    ids, file = empty.pairs.ids(), LabelFile(empty, "ann")
    for label in ("same", "different", "unsure", "different"):
        file.add(ids[3], label)
    file.add(ids[1], "same")
    assert {key: x.label for key, x in file.read().items()} == {ids[3]: "different", ids[1]: "same"}
    assert len(file.path.read_text().splitlines()) == 5, "nothing is ever taken out of the file"


@pytest.mark.parametrize("cut", range(1, 121, 7))
def test_a_torn_last_line_costs_that_line_alone(empty, cut, caplog):
    ids, file = empty.pairs.ids(), LabelFile(empty, "ann")
    for pair_id in ids[:3]:
        file.add(pair_id, "same")
    content = file.path.read_bytes()
    file.path.write_bytes(content[:-cut])
    assert list(LabelFile(empty, "ann").read()) == ids[: 3 if cut == 1 else 2]
    file.add(ids[5], "different")
    assert list(file.read()) == [*ids[: 3 if cut == 1 else 2], ids[5]]
    assert ("Line 3" in caplog.text) == (cut > 1), "what is passed over is told"
    assert file.path.read_bytes().startswith(content[:-cut])


@pytest.mark.parametrize(
    "line",
    [
        b"\0" * 60, b"\xff\xfe", b"[" * 9000, b"null", b'{"pair_id": "x"}',
        {"pair_id": 1}, {"label": "maybe"}, {"label": ["same"]}, {"person": "bob"}, {"time": "yesterday"},
        {"time": "2025-03-01T12:30:00"}, {"time": "2025-03-01T12:30:00+02:00"}, {"seconds": -1},
        {"seconds": math.nan}, {"seconds": True}, {"seconds": "1"},
    ],
    ids=range(16),
)  # fmt: skip
def test_a_line_that_is_no_label_is_told_once_and_passed_over(empty, line, caplog):
    ids, file = empty.pairs.ids(), LabelFile(empty, "ann")
    file.add(ids[0], "same")
    if isinstance(line, dict):  # one value of a good label is changed
        good = {"pair_id": "x", "label": "same", "person": "ann", "time": WHEN, "seconds": 1.0}
        line = json.dumps(good | line).encode()
    with file.path.open("ab") as stream:
        stream.write(line + b"\n")
    for pair_id in ids[1:3]:
        file.add(pair_id, "same")
        assert pair_id in file.read()
    assert list(file.read()) == ids[:3]
    assert caplog.text.count("Line 2 of") == 1


def _write(path, ids, label):
    for pair_id in ids:
        LabelFile(path, "ann").add(pair_id, label)


def test_several_writers_at_once_lose_and_mix_nothing(empty):
    ids = [f"pair-{i:03d}-{'x' * 60}" for i in range(120)]
    context = multiprocessing.get_context("fork")
    writers = [
        context.Process(target=_write, args=(empty.path, ids[k::3], label))
        for k, label in enumerate(labels.LABELS)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    lines = LabelFile(empty, "ann").path.read_text().splitlines()
    assert Counter(json.loads(line)["label"] for line in lines) == dict.fromkeys(labels.LABELS, 40)
    found = LabelFile(empty, "ann").read()
    assert [found[pair_id].label for pair_id in ids] == [labels.LABELS[i % 3] for i in range(120)]


def test_killed_at_any_moment_a_writer_loses_nothing_that_it_said_was_saved(empty):
    program = f"""
import sys; sys.path.insert(0, {str(Path(dsd.__file__).parents[1])!r})
from dsd.labels import LabelFile
file = LabelFile({str(empty.path)!r}, "ann")
n = len(file.read())
while True:
    file.add(f"pair-{{n}}", "same")
    print(n, flush=True)
    n += 1
"""
    told = -1
    for _ in range(4):
        with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as child:
            for _ in range(25):
                told = int(child.stdout.readline())
            child.send_signal(signal.SIGKILL)
            told = max([told, *map(int, child.stdout.read().split())])
        found = LabelFile(empty, "ann").read()
        assert [*found][: told + 1] == [f"pair-{i}" for i in range(told + 1)]


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../ann", "a/b", "a\\b", "/etc/x", ".hidden", "-x", "a b", "ä", "a\n", "x" * 65]
)
def test_names_that_would_leave_the_folder_are_refused(empty, name):
    with pytest.raises(ValueError, match="cannot be a person's name"):
        LabelFile(empty, name)
    with pytest.raises(ValueError, match="cannot be a person's name"):
        labels.read(empty, name)
    assert not (empty.path / "labels").exists()


def test_names_are_told_apart_without_upper_case(empty):
    assert person_name("Ann.B-2_x") == "ann.b-2_x"
    LabelFile(empty, "ANN").add(empty.pairs.ids()[0], "same")
    LabelFile(empty, "bob").add(empty.pairs.ids()[0], "same")
    (empty.path / "labels" / "notes.txt").write_text("x")
    assert people(empty) == ["ann", "bob"]


def test_labels_of_pairs_that_the_run_does_not_have_are_left_out(empty, caplog):
    file = LabelFile(empty, "ann")
    file.add("0123456789abcdef0123", "same")
    file.add(empty.pairs.ids()[0], "same")
    assert [x.pair_id for x in labels.read(empty)] == empty.pairs.ids()[:1]
    assert "1 of 2 labels" in caplog.text


def test_a_run_without_pairs_says_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no run in"):
        labels.read(tmp_path / "nowhere")


def test_a_full_disk_is_told_and_the_next_label_is_whole(empty, monkeypatch):
    ids, file = empty.pairs.ids(), LabelFile(empty, "ann")
    file.add(ids[0], "same")
    real = os.write

    def full(fd, content):
        real(fd, content[:20])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="disk is full"):
        file.add(ids[1], "same")
    monkeypatch.setattr(
        os, "write", lambda fd, content: real(fd, content[:7])
    )  # short writes are gone on with
    file.add(ids[2], "different")
    assert {key: x.label for key, x in file.read().items()} == {ids[0]: "same", ids[2]: "different"}


# The choice of pairs


def test_everybody_gets_the_same_pairs_in_an_order_of_their_own(run):
    ids = choose_pairs(run, count=20, seed=3)
    assert ids == choose_pairs(run, count=30, seed=3)[:20], "a higher count adds pairs"
    assert set(ids) < set(run.pairs.ids())
    assert set(ids) != set(choose_pairs(run, count=20, seed=4))
    ann, bob = shuffled(ids, "ann", 3), shuffled(ids, "bob", 3)
    assert sorted(ann) == sorted(bob) == sorted(ids)
    assert ann != bob != shuffled(ids, "bob", 4)
    fewer = set(ids[:12])
    assert [x for x in ann if x in fewer] == shuffled(fewer, "ann", 3), "pairs added later change no order"


def test_a_policy_and_a_curator_limit_the_pairs(run):
    assert set(choose_pairs(run, policy="parity")) == set(run.accepted("parity"))
    table = run.verdicts("parity").columns("pair_id", "status", "score").to_pylist()
    decided = {x["pair_id"]: x for x in table if x["status"] in ("accepted", "rejected")}

    def distance(x):  # by comparing every two
        others = [y["score"] for y in decided.values() if y["status"] != x["status"]]
        return min(abs(x["score"] - y) for y in others)

    chosen = choose_pairs(run, count=9, curator="parity")
    far = {key: distance(x) for key, x in decided.items()}
    assert sorted(far[key] for key in chosen) == pytest.approx(sorted(far.values())[:9])
    both = choose_pairs(run, count=9, curator="parity", policy="parity")
    assert set(both) <= set(run.accepted("parity"))
    assert len(both) == 9


def test_unsure_means_near_either_limit():
    scores = np.array([0.1, 0.38, 0.41, 0.6, 0.79, 0.82, 0.99])
    status = ["rejected", "rejected", "accepted", "accepted", "accepted", "rejected", "rejected"]
    table = {"pair_id": [*"abcdefg", "h", "i"], "status": [*status, "failed", "accepted"]}
    found = margins(pa.table({**table, "score": [*scores, 0.5, None]}))
    by_hand = {"a": 0.31, "b": 0.03, "c": 0.03, "d": 0.22, "e": 0.03, "f": 0.03, "g": 0.20}
    assert found == pytest.approx(by_hand)
    alike = margins(pa.table({"pair_id": ["a"], "status": ["accepted"], "score": [0.5]}))
    assert alike == {"a": math.inf}


def test_what_cannot_be_chosen_is_explained(run):
    with pytest.raises(ValueError, match="at least 1"):
        choose_pairs(run, count=0)
    with pytest.raises(ValueError, match="Give `count`"):
        choose_pairs(run, curator="parity")
    with pytest.raises(LookupError, match=r"no verdicts of 'other'\. It has: parity"):
        choose_pairs(run, curator="other", count=3)
    with pytest.raises(ValueError, match=r"No pair of .* is left"):
        choose_pairs(run, policy={"rule": "all", "curators": ["parity"], "min_score": 9.0})
