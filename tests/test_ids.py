"""Ids by the hundred thousand say what sets and dictionaries of strings say, and lose none."""

import hashlib
import random

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import dsd
from dsd.data.ids import Ids, Index
from dsd.data.manifest import ManifestError, add_digests, ids_digest
from dsd.data.writer import TableWriter
from tests.cheap_world import make_run

STRINGS = st.text(max_size=3)


@given(st.lists(STRINGS, max_size=20), st.lists(STRINGS, max_size=20))
def test_membership_is_that_of_sets(some, others):
    assert Ids(some).among(Ids(others)).tolist() == [name in set(others) for name in some]


@given(st.lists(STRINGS, max_size=20), st.lists(STRINGS, unique=True, max_size=20))
def test_places_are_those_of_a_dictionary(some, others):
    ids, there = Ids(some), Ids(others)
    assert ids.places(there).tolist() == [others.index(name) if name in others else -1 for name in some]


@given(st.lists(STRINGS, unique=True, max_size=20), st.data())
def test_membership_where_one_begins_with_the_other(some, data):
    ids = Ids(some)
    part = ids.cut(0, data.draw(st.integers(0, len(some))))
    assert ids.among(part).tolist() == [i < len(part) for i in range(len(some))]
    assert part.among(ids).all()
    assert part.places(ids).tolist() == list(range(len(part)))
    assert ids.places(part).tolist() == [i if i < len(part) else -1 for i in range(len(some))]


@given(st.lists(STRINGS, unique=True, max_size=30), STRINGS)
def test_an_index_finds_what_a_dictionary_finds(some, other):
    index, wanted = Index(Ids(some)), {name: i for i, name in enumerate(some)}
    assert [index.find(name) for name in some] == list(range(len(some)))
    assert index.find(other) == wanted.get(other)


def test_ids_are_a_sequence_of_strings():
    names = [f"row {i}" for i in range(10_000)]
    ids = Ids(pa.chunked_array([names[:7], names[7:]]))
    assert list(ids) == names == ids
    assert ids[3] == names[3]
    assert ids[-2:] == names[-2:]
    assert ids.take([5, 1, 5]) == [names[5], names[1], names[5]]
    assert ids.cut(9_990, 20_000) == names[9_990:]
    assert len(Ids()) == 0
    assert list(Ids()) == []
    assert ids != names[1:]


def test_rows_by_id_in_any_order_and_across_shards(tmp_path, monkeypatch):
    monkeypatch.setattr(TableWriter, "shard_rows", 10)
    run = make_run(tmp_path / "run", 6, curator=None)
    assert len(run.pairs.manifest.shards) > 2
    every = dict(run.pairs.items())
    assert list(every) == run.pairs.ids() == run.pairs.row_ids()
    names = list(every)
    random.Random(0).shuffle(names)
    assert [run.pairs[name].caption for name in names] == [every[name].caption for name in names]
    assert all(name in run.pairs for name in names)
    assert "nobody" not in run.pairs
    assert 3 not in run.pairs
    with pytest.raises(LookupError, match="has no row 'nobody' among its 72 rows"):
        run.pairs["nobody"]
    picked = [names[i] for i in (5, 60, 2)]
    assert [row_id for row_id, _ in run.pairs.items(picked)] == sorted(picked, key=list(every).index)


def test_a_manifest_with_another_number_of_rows_loses_none_silently(tmp_path, monkeypatch):
    monkeypatch.setattr(TableWriter, "shard_rows", 10)
    run = make_run(tmp_path / "run", 6, curator=None)
    file = run.pairs.folder / ".manifest.json"
    rows = run.pairs.manifest.shards[0].rows
    file.write_text(file.read_text().replace(f'"rows": {rows},', f'"rows": {rows - 1},', 1))
    for read in (
        lambda run: run.pairs.row_ids(),
        lambda run: run.pairs[run.pairs.ids()[0]],
        lambda run: list(run.pairs.at(np.arange(5))),
    ):
        with pytest.raises(ManifestError, match=rf"it has {rows} rows, not {rows - 1}\. Restore"):
            read(dsd.Run(run.path))


@given(st.lists(st.text(max_size=5), max_size=40))
def test_the_digest_of_ids_is_the_sum_of_their_hashes(ids):
    total = sum(int(hashlib.sha256(i.encode()).hexdigest(), 16) for i in ids)
    assert ids_digest(ids) == f"{total % 2**256:064x}"
    assert add_digests([ids_digest(ids[:3]), ids_digest(ids[3:])]) == ids_digest(ids)


def test_a_changed_id_is_noticed_before_rows_are_planned(tmp_path):
    """As by a bit of a page's header, which no checksum covers."""
    run = make_run(tmp_path / "run", 4, curator=None)
    (shard,) = run.pairs.manifest.shards
    file = run.pairs.folder / ".manifest.json"
    other = ids_digest(["other", *run.pairs.ids()[1:]])
    file.write_text(file.read_text().replace(shard.ids, other))
    for read in (
        lambda run: run.pairs.row_ids(),
        lambda run: run.pairs["other"],
        lambda run: list(run.pairs.items(["other"])),
        lambda run: dsd.curate(run, curator="parity", progress=False),
        lambda run: dsd.PairDataModule(run).setup(),
    ):
        with pytest.raises(ManifestError, match="the ids of its rows are not the recorded ones"):
            read(dsd.Run(run.path))
