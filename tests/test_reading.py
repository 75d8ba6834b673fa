"""Reading in blocks: an order that is arithmetic, read row group by row group, whoever reads or stops."""

import shutil
from collections import Counter
from itertools import chain

import lightning
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import dsd
from benchmarks.big_run import make, pair_id, pool
from dsd import opening
from dsd.data import policy as policies
from dsd.data.ids import Ids
from dsd.data.loader import PairLoader, StoredSource, usual_window
from dsd.data.manifest import ManifestError
from dsd.data.order import EpochOrder
from dsd.data.places import rows_at
from dsd.data.sampler import EpochSampler
from dsd.data.stored import RunSource
from dsd.data.table import Table
from dsd.data.writer import TableWriter
from tests.cheap_world import make_run
from tests.test_datamodule import Stop, fit, ids_of

ROWS, WINDOW = 1000, 96
MANY = {"policy": "every", "shuffle_rows": WINDOW}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """More rows than a window, in several shards of several row groups; the first two fifths are accepted."""
    path = tmp_path_factory.mktemp("reading") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TableWriter, "shard_rows", 240)
        patch.setattr("benchmarks.big_run._BATCH", 240)
        return make(path, ROWS, pool(None, 37, 8, "PNG"), kept=0.4, sorted_verdicts=True)


def loader(run, batch_size=8, rank=0, world_size=1, num_workers=0, window=WINDOW, **options):
    source = RunSource(run, "every")
    return PairLoader(
        source, range(len(source.ids)), batch_size, rank=rank, world_size=world_size, num_workers=num_workers,
        window=window, **options,
    )  # fmt: skip


def orders(least=1, widest=40):
    return st.builds(
        EpochOrder, st.integers(least, 700), st.integers(1, widest), window=st.none() | st.integers(1, 200),
        seed=st.integers(0, 3), epoch=st.integers(0, 3),
    )  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(orders(), st.data())
def test_an_epoch_has_every_pair_once_and_any_part_of_it_is_computed_alone(order, data):
    assert sorted(order.all()) == list(range(order.num_pairs))
    num_batches, width = order.shape
    whole = order.batches(0, num_batches)
    assert np.array_equal(order.all()[: whole.size], whole.ravel())
    assert whole.size > order.num_pairs - width
    first = data.draw(st.integers(0, num_batches))
    last = data.draw(st.integers(first, num_batches))
    lanes = slice(*sorted((data.draw(st.integers(0, width)), data.draw(st.integers(0, width)))))
    assert np.array_equal(order.batches(first, last, lanes), whole[first:last, lanes])


@settings(max_examples=60, deadline=None)
@given(orders(least=300, widest=8))
def test_what_is_read_together_is_bounded_and_lies_together(order):
    """A lane's window touches as many stretches of neighbours as it has blocks, and two at its ends."""
    num_batches, width = order.shape
    for lane in range(width):
        for begin in range(0, num_batches, order.depth):
            end = min(begin + order.depth, num_batches)
            rows = order.batches(begin, end, slice(lane, lane + 1)).ravel()
            assert len(set(rows // order.block)) <= -(-len(rows) // order.block) + 2


def test_epochs_and_seeds_differ():
    def of(seed, epoch):
        return EpochOrder(5000, 16, seed=seed, epoch=epoch, window=512).all()

    assert not np.array_equal(of(0, 0), of(0, 1))
    assert not np.array_equal(of(0, 0), of(1, 0))
    assert np.array_equal(of(2, 3), of(2, 3))


def test_quality_of_the_shuffle():
    """The bounds that docs/scale.md states, for 100,000 rows in batches of 16 and a window of 4096."""
    order = EpochOrder(100_000, 16, seed=0, epoch=0, window=4096)
    rows = order.batches(0, order.shape[0])
    step = np.empty(100_000)
    step[rows.ravel()] = np.repeat(np.arange(len(rows)), rows.shape[1])
    left = np.setdiff1d(np.arange(100_000), rows)
    step[left] = np.nan
    seen = ~np.isnan(step)
    place = np.flatnonzero(seen) / 100_000
    when = step[seen] / len(rows)
    assert abs(np.corrcoef(place, when)[0, 1]) < 0.12  # 391 blocks: a standard deviation is 0.05
    assert np.abs(place - when).mean() == pytest.approx(1 / 3, abs=0.03)  # of a full shuffle: 1/3
    grids = rows // 12
    same = np.array([len(row) - len(set(row)) for row in grids.tolist()])
    assert same.mean() < 0.01  # pairs of one grid in a batch; a full shuffle has 0.013
    # No window of steps is fed from few places.
    for begin in range(0, len(rows) - 64, 64):
        assert len(set((rows[begin : begin + 64] // 256).ravel())) >= 16


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("num_workers", [0, 1, 2])
def test_the_batches_over_all_processes_are_the_same(run, world_size, num_workers):
    if num_workers == 0:
        expected = [set(batch.ids) for batch in loader(run, 12)]
    else:
        expected = [set(ids) for ids in global_batches(12, 1)]
    parts = [
        ids_of(loader(run, 12 // world_size, rank, world_size, num_workers)) for rank in range(world_size)
    ]
    together = [list(chain.from_iterable(batch)) for batch in zip(*parts, strict=True)]
    assert [set(batch) for batch in together] == expected
    seen = Counter(chain.from_iterable(together))
    assert set(seen.values()) == {1}
    assert len(seen) == ROWS // 12 * 12


def global_batches(width, epochs):
    """From the arithmetic alone: ids by batch, over some epochs."""
    by_id = sorted((pair_id(i), i) for i in range(ROWS))
    number = {row: name for name, row in by_id}
    for epoch in range(epochs):
        order = EpochOrder(ROWS, width, seed=0, epoch=epoch, window=WINDOW)
        for batch in order.batches(0, order.shape[0]).tolist():
            yield [number[row] for row in batch]


def test_batches_hold_what_is_stored(run):
    count = 0
    for batch in loader(run, 40):
        for i, name in enumerate(batch.ids):
            pair = run.pairs[name]
            assert np.array_equal(batch.reference[i].permute(1, 2, 0).numpy(), np.asarray(pair.reference))
            assert np.array_equal(batch.target[i].permute(1, 2, 0).numpy(), np.asarray(pair.target))
            assert batch.captions[i] == pair.caption
            count += 1
    assert count == ROWS


@pytest.mark.parametrize("num_workers", [0, 2])
def test_resumed_at_every_batch(run, num_workers):
    whole = loader(run, 40)
    uninterrupted = ids_of(whole) + ids_of(whole)
    assert uninterrupted == list(global_batches(40, 2))
    going = loader(run, 40, num_workers=num_workers)
    iterator, states = iter(going), {}
    for used in range(1, 25):
        assert next(iterator).ids == uninterrupted[used - 1]
        states[used] = going.state_dict()  # of what was used, whatever workers have read ahead
    for used in states if num_workers == 0 else (1, 4, 24):
        other = loader(run, 40, num_workers=num_workers, window=None)  # its own window is another one
        other.load_state_dict(states[used])
        assert ids_of(other) == uninterrupted[used:25]
        assert other.sampler.window == usual_window(other.source.pair_bytes)  # from the next epoch on


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1), (3, 2)])
def test_resumed_with_other_processes(run, before, after):
    width = 12
    first = [loader(run, width // before, rank, before) for rank in range(before)]
    iterators = [iter(one) for one in first]
    seen = [[next(i).ids for i in iterators] for _ in range(30)]
    second = [loader(run, width // after, rank, after, num_workers=2) for rank in range(after)]
    for one in second:
        one.load_state_dict(first[0].state_dict())
    seen += [list(batch) for batch in zip(*map(ids_of, second), strict=True)]
    assert [sorted(chain(*batch)) for batch in seen] == [sorted(ids) for ids in global_batches(width, 1)]


@pytest.mark.parametrize("world_size", [1, 2])
def test_a_training_killed_and_resumed_with_other_processes(run, tmp_path, monkeypatch, world_size):
    """Lightning's checkpoint of one process; then as many as `world_size`, each as its trainer sees it."""

    def data(batch_size):
        return dsd.PairDataModule(run, batch_size=batch_size, num_workers=1, **MANY)

    stop, steps = 57, 90  # in the second epoch of 50 batches
    expected = [sorted(ids) for ids in list(global_batches(20, 2))[:steps]]
    first = fit(data(20), tmp_path, steps, [Stop(stop)])
    parts = []
    for rank in range(world_size):
        monkeypatch.setattr(lightning.Trainer, "global_rank", property(lambda trainer, rank=rank: rank))
        monkeypatch.setattr(lightning.Trainer, "world_size", property(lambda trainer: world_size))
        model = fit(
            data(20 // world_size), tmp_path / f"{rank}", steps, ckpt_path=tmp_path / f"step={stop}.ckpt"
        )
        parts.append([ids for _, ids in model.seen])
    assert len(first.seen) == stop
    together = [sorted(chain(*batch)) for batch in zip(*parts, strict=True)]
    assert [sorted(ids) for _, ids in first.seen] + together == expected


class Reads:
    """Which row groups of which columns are read."""

    def __init__(self, monkeypatch):
        self.pictures, self.bytes = [], 0
        read = pq.ParquetFile.read_row_groups

        def noted(file, groups, columns=None, **options):
            if columns is None or "reference" in columns:
                for group in groups:
                    metadata = file.metadata.row_group(group)
                    self.pictures.append((file.metadata.num_rows, file.metadata.serialized_size, group))
                    self.bytes += metadata.total_byte_size
            return read(file, groups, columns=columns, **options)

        monkeypatch.setattr(pq.ParquetFile, "read_row_groups", noted)


def groups_of(run):
    files = [pq.ParquetFile(run.pairs.folder / shard.file).metadata for shard in run.pairs.manifest.shards]
    return [
        (file.num_rows, file.serialized_size, group, file.row_group(group).num_rows)
        for file in files
        for group in range(file.num_row_groups)
    ]


def test_dropped_row_groups_are_not_read(run, monkeypatch):
    """400 of 1000 rows are accepted, all at the beginning."""
    rows = np.cumsum([0, *(count for *_, count in groups_of(run))])
    holding = int(np.searchsorted(rows, 400))
    assert 4 < holding < len(rows) - 4
    reads = Reads(monkeypatch)
    data = dsd.PairDataModule(run, batch_size=10, curator="bench", shuffle_rows=WINDOW)
    data.setup()
    assert reads.pictures == []  # opening and filtering read no picture
    seen = list(chain.from_iterable(ids_of(data.train_dataloader())))
    assert sorted(seen) == sorted(pair_id(i) for i in range(400))
    touched = {read for read in reads.pictures}
    assert len(touched) == holding  # and not one of the others


def test_dropped_pairs_are_not_decoded(run, monkeypatch):
    decoded = []
    real = opening.decode_image
    monkeypatch.setattr(opening, "decode_image", lambda *given: decoded.append(1) or real(*given))
    kept = {"curators": ["bench"], "min_score": 0.9}
    data = dsd.PairDataModule(run, batch_size=1, policy=kept, shuffle_rows=WINDOW)
    count = len(ids_of(data.train_dataloader()))
    assert 0 < count < 200
    assert len(decoded) == 2 * count


def test_an_epoch_reads_little_more_than_the_table(run, monkeypatch):
    """Every group about once, where a full shuffle reads one for almost every pair."""
    total = len(groups_of(run))
    reads = Reads(monkeypatch)
    assert len(list(loader(run, 8, window=400))) == 125
    assert len(reads.pictures) < 6 * total
    reads.pictures.clear()
    assert len(list(loader(run, 8, window=ROWS))) == 125
    assert len(reads.pictures) == total  # what fits into the window is read once and mixed throughout


def test_unshuffled_pairs_are_read_in_the_order_of_the_table(run, monkeypatch):
    reads = Reads(monkeypatch)
    source = RunSource(run, "every")
    held = PairLoader(source, range(ROWS), 30, shuffle=False, window=WINDOW, num_workers=0)
    assert list(chain.from_iterable(ids_of(held))) == [pair_id(i) for i in range(ROWS)]
    assert len(reads.pictures) <= 2 * len(groups_of(run))
    shared = [
        ids_of(
            PairLoader(
                source, range(ROWS), 10, shuffle=False, window=WINDOW, rank=r, world_size=3, num_workers=2
            )
        )
        for r in range(3)
    ]
    assert set(chain.from_iterable(chain.from_iterable(shared))) == {pair_id(i) for i in range(ROWS)}


def test_layouts_in_blocks(run):
    """Batches of one layout out of an order of blocks: each pair once, apart from each layout's remainder."""
    source = RunSource(run, "every")
    layouts = [f"layout {int(name, 16) % 3}" for name in source.ids]
    parts = [
        PairLoader(source, range(ROWS), 6, rank=rank, world_size=2, layouts=layouts, window=WINDOW)
        for rank in range(2)
    ]
    kinds = dict(zip(source.ids, layouts, strict=True))
    seen = []
    for batches in zip(*parts, strict=True):
        ids = [name for batch in batches for name in batch.ids]
        assert len({kinds[name] for name in ids}) == 1
        seen += ids
    assert len(seen) == len(set(seen)) == sum(count // 12 * 12 for count in Counter(layouts).values())


@pytest.fixture(scope="module")
def cached(tmp_path_factory, tiny_flux):
    run = make_run(tmp_path_factory.mktemp("cached") / "run", 6, curator=None)
    dsd.encode(run, str(tiny_flux), policy="every", progress=False)
    return run


@pytest.mark.parametrize("window", [16, None])
def test_cached_pairs_in_blocks_are_those_that_are_found_by_id(cached, window):
    data = dsd.PairDataModule(cached, batch_size=4, encoded=True, shuffle_rows=window, num_workers=2)
    seen = []
    for batch in data.train_dataloader():
        expected = data.encoded.batch(batch.ids)
        assert torch.equal(batch.target, expected.target)
        assert torch.equal(batch.reference.latents, expected.reference.latents)
        assert torch.equal(batch.text.tokens, expected.text.tokens)
        seen += batch.ids
    assert sorted(seen) == sorted(cached.pairs.ids())


def test_rows_by_number(run):
    ids = run.pairs.ids()
    numbers = np.array([999, 3, 500, 3, 0])
    found = rows_at(run.pairs, numbers, [ids[i] for i in numbers], ("id", "reference", "target"))
    assert [number for number, _ in found] == numbers.tolist()
    assert found[1][1] is found[3][1]
    with pytest.raises(ManifestError, match="no longer where they were"):
        rows_at(run.pairs, numbers, [ids[i + 1] for i in numbers - 1], ("id",)) and rows_at(
            run.pairs, numbers, ["x"] * 5, ("id",)
        )
    with pytest.raises(ManifestError, match="has 1000 rows and no row 1000"):
        list(run.pairs.at(np.array([2, 1000]), "id"))
    assert sum(map(len, run.pairs.at(np.empty(0, np.int64)))) == 0


def test_rows_that_moved_are_noticed(run, tmp_path):
    """A shard set aside shifts the numbers of the rows behind it; no other row is taken in their place."""
    copy = dsd.Run(shutil.copytree(run.path, tmp_path / "run"))
    one = loader(copy, 8, window=64)
    shard = copy.pairs.folder / copy.pairs.manifest.shards[0].file
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    assert copy.mend("pairs") == 240
    with pytest.raises(ManifestError, match=r"no longer where they were|rows were removed"):
        list(one)


def test_a_picture_that_cannot_be_decoded_names_its_shard(run, monkeypatch):
    def broken(*given):
        raise ValueError("broken")

    monkeypatch.setattr(opening, "decode_image", broken)
    source = RunSource(run, "every")
    number = int(np.searchsorted(source.places[np.argsort(source.places)], 700))
    position = int(np.argsort(source.places)[number])
    with pytest.raises(ManifestError, match=r"part-00002.*broken.*mend"):
        source.load([position])


def test_the_window_follows_the_size_of_rows():
    assert usual_window(1) == 4096
    assert usual_window(2**20) == 64
    assert usual_window(2**30) == 1


def test_a_stored_source_is_known_by_what_it_can_do(run):
    assert isinstance(RunSource(run, "every"), StoredSource)

    class Plain:
        ids = ("a", "b")

        def load(self, positions):
            raise NotImplementedError

    assert not isinstance(Plain(), StoredSource)
    assert EpochSampler(5000, 4, seed=0, window=100).window is None  # without places there are no neighbours


def test_policies_over_columns_decide_as_over_records(run):
    """`Policy.mask` against the rule written out, with pairs that were not judged and verdicts on others."""
    ids = pa.array([pair_id(i) for i in range(50)])
    rng = np.random.default_rng(0)
    statuses = rng.choice(["accepted", "rejected", "failed", "refused"], 60)
    scores = [None if rng.random() < 0.2 else float(rng.random()) for _ in range(60)]
    order = rng.permutation(60) + 10  # pairs 10 to 69: ten of them nobody asked for
    table = pa.table({"pair_id": [pair_id(i) for i in order], "status": statuses.tolist(), "score": scores})
    found = policies.Policy(min_score=0.4).mask(Ids(ids), [table])
    verdict = {pair: (status, score) for pair, status, score in zip(*table.to_pydict().values(), strict=True)}
    for name, accepted in zip(ids.to_pylist(), found, strict=True):
        status, score = verdict.get(name, ("none", None))
        expected = status in ("accepted", "rejected") and score is not None and score >= 0.4
        assert accepted == expected


def test_tables_are_left_as_they_are(run):
    assert isinstance(run.pairs, Table)
    assert run.verify() == []
