"""Threads that decode ahead: the order, how far ahead they are, errors, and sources of any kind."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import datasets
import numpy as np
import pytest
import torch

from dsd.backbones.base import RawBatch
from dsd.data import stored
from dsd.data.loader import PairLoader
from dsd.data.manifest import ManifestError
from dsd.data.sources import ColumnSource
from dsd.data.stored import RunSource
from tests.cheap_world import make_run, picture
from tests.test_datamodule import ids_of


class Slow:
    """Pairs of which each batch of one takes its own time, and some cannot be made."""

    def __init__(self, seconds=lambda i: 0.0, broken=(), together=1):
        self.ids, self.seconds, self.broken = [f"{i}" for i in range(40)], seconds, broken
        self.begun, self.threads, self.barrier = [], set(), threading.Barrier(together)

    def load(self, positions):
        (position,) = positions
        self.begun.append(position)
        self.threads.add(threading.get_ident())
        self.barrier.wait(20)
        time.sleep(self.seconds(position))
        if position in self.broken:
            raise ManifestError(f"pair {position} is damaged")
        pixels = torch.full((1, 3, 1, 1), position, dtype=torch.uint8)
        return RawBatch(ids=[self.ids[position]], reference=pixels, target=pixels, captions=[""])

    def loader(self, num_workers, **options):
        return PairLoader(self, range(40), 1, shuffle=False, num_workers=num_workers, **options)


def test_threads_decode_at_the_same_time_and_keep_the_order():
    slow = Slow(lambda i: 0.01 * (3 - i % 4), together=4)  # each is ready before the one in front of it
    assert ids_of(slow.loader(4)) == [[f"{i}"] for i in range(40)]
    assert len(slow.threads) == 4
    assert threading.get_ident() not in slow.threads


@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_are_pinned_where_they_are_made(monkeypatch, num_workers):
    pinned = []

    def pin(batch):
        pinned.append(threading.get_ident())
        return replace(batch, captions=["pinned"])

    monkeypatch.setattr(RawBatch, "pin_memory", pin)
    slow = Slow()
    found = [*slow.loader(num_workers, pin_memory=True)]
    assert [(batch.ids, batch.captions) for batch in found] == [([f"{i}"], ["pinned"]) for i in range(40)]
    assert set(pinned) == slow.threads
    assert [batch.captions for batch in Slow().loader(num_workers)] == [[""]] * 40
    assert len(pinned) == 40


def test_threads_are_two_batches_ahead_and_end_with_the_iteration():
    slow = Slow()
    iterator = iter(slow.loader(3))
    for used in range(1, 11):
        next(iterator)
        until = time.monotonic() + 20
        while len(slow.begun) < used + 6 and time.monotonic() < until:
            time.sleep(0.005)
        assert len(slow.begun) == used + 6
    iterator.close()
    assert len(slow.begun) == 16
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("decode")]
    slow = Slow(lambda i: 0.5 if i else 0.0)
    iterator = iter(slow.loader(1))
    next(iterator)
    iterator.close()
    assert slow.begun in ([0], [0, 1])  # what waits behind what is being decoded is not begun any more


@pytest.mark.parametrize("num_workers", [0, 2])
def test_what_cannot_be_decoded_is_told_in_its_turn(num_workers):
    loader, seen = Slow(broken=(7,)).loader(num_workers), []
    with pytest.raises(ManifestError, match="pair 7 is damaged"):
        seen.extend(batch.ids for batch in loader)
    assert seen == [[f"{i}"] for i in range(7)]
    assert loader.state_dict()["batches"] == 7


def test_a_data_set_is_read_by_threads_as_by_none():
    rows = {side: [picture(f"{side} {i}") for i in range(24)] for side in ("reference", "target")}
    source = ColumnSource(datasets.Dataset.from_dict({**rows, "caption": [f"{i}" for i in range(24)]}))
    ours, others = ([*PairLoader(source, range(24), 4, num_workers=n)] for n in (3, 0))
    assert len(ours) == 6
    for one, other in zip(ours, others, strict=True):
        assert (one.ids, one.captions) == (other.ids, other.captions)
        assert np.array_equal(one.reference, other.reference)
        assert np.array_equal(one.target, other.target)


def test_loaders_of_one_source_read_in_turn(tmp_path, monkeypatch):
    """For training and validation, each in a thread of its own: a table keeps what it has open."""
    source = RunSource(make_run(tmp_path / "run", 2, curator=None), "every")
    inside, most, real = [0], [0], stored.rows_at

    def reading(*given):
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        time.sleep(0.05)  # long enough for another to come
        found = real(*given)
        inside[0] -= 1
        return found

    monkeypatch.setattr(stored, "rows_at", reading)
    parts = [range(i, 24, 4) for i in range(4)]
    with ThreadPoolExecutor(4) as pool:
        batches = list(pool.map(source.load, parts))
    assert [batch.ids for batch in batches] == [[source.ids[i] for i in part] for part in parts]
    assert most == [1]
