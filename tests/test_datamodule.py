"""The data module: an order that depends on seed and epoch alone, kept through a stop in mid-epoch."""

import collections
from itertools import chain

import datasets
import lightning
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from PIL import Image

import dsd
from dsd.backbones.base import Batch, RawBatch
from dsd.data.buckets import aspect_buckets, nearest
from dsd.data.loader import EpochSampler, PairLoader
from dsd.data.sources import RELEASE_COLUMNS, holdout, resolve_columns
from dsd.data.writer import TableWriter
from tests.cheap_world import make_run, picture

QUIET = {"progress": False}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("data") / "run", 4)


def ids_of(loader):
    return [batch.ids for batch in loader]


def test_batches_hold_the_accepted_pairs_as_they_are(run):
    data = dsd.PairDataModule(run.path, batch_size=4)
    data.setup("fit")
    accepted = run.accepted()
    seen = []
    for batch in data.train_dataloader():
        assert isinstance(batch, RawBatch)
        for i, pair_id in enumerate(batch.ids):
            pair = run.pairs[pair_id]
            assert np.array_equal(batch.reference[i].permute(1, 2, 0).numpy(), np.asarray(pair.reference))
            assert np.array_equal(batch.target[i].permute(1, 2, 0).numpy(), np.asarray(pair.target))
            assert batch.captions[i] == pair.caption
        seen += batch.ids
    assert len(seen) == len(set(seen)) == len(accepted) // 4 * 4
    assert set(seen) <= set(accepted)


@pytest.mark.parametrize(("options", "count"), [({"policy": "every"}, 48), ({"curator": "parity"}, None)])
def test_policies_choose_the_pairs(run, options, count):
    data = dsd.PairDataModule(run, **options)
    assert len(data.train_ids) == (count or len(run.accepted("parity")))
    with pytest.raises(LookupError, match="no verdicts of nobody"):
        dsd.PairDataModule(run, curator="nobody").setup()
    with pytest.raises(ValueError, match="`curator` or `policy`, not both"):
        dsd.PairDataModule(run, curator="parity", policy="all")


def test_order_depends_on_seed_and_epoch_alone(run, tmp_path, monkeypatch):
    monkeypatch.setattr(TableWriter, "shard_rows", 7)
    shards = make_run(tmp_path / "run", 4)
    assert len(shards.pairs.manifest.shards) > 1
    one, many, workers, other = (
        dsd.PairDataModule(r, batch_size=4, policy="every", seed=seed, num_workers=n).train_dataloader()
        for r, seed, n in ((run, 0, 0), (shards, 0, 0), (run, 0, 2), (run, 1, 0))
    )
    first, second = ids_of(one), ids_of(one)
    assert first != second
    assert sorted(chain(*first)) == sorted(chain(*second)) == sorted(run.pairs.ids())
    assert [ids_of(many), ids_of(many)] == [first, second]
    assert ids_of(workers) == first
    assert workers.num_workers == 2
    assert ids_of(other) != first


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("num_pairs", [1, 5, 12, 13])
def test_processes_share_an_epoch(num_pairs, world_size):
    samplers = [
        EpochSampler(num_pairs, 2, seed=0, rank=rank, world_size=world_size) for rank in range(world_size)
    ]
    parts = [sampler.batches() for sampler in samplers]
    assert len({len(part) for part in parts}) == 1
    assert len({tuple(map(len, part)) for part in parts}) == 1
    seen = collections.Counter(i for part in parts for batch in part for i in batch)
    if num_pairs >= 2 * world_size:
        assert set(seen.values()) == {1}
        assert len(seen) == num_pairs // (2 * world_size) * 2 * world_size
    held = [
        EpochSampler(num_pairs, 2, seed=0, shuffle=False, rank=r, world_size=world_size)
        for r in range(world_size)
    ]
    assert {i for sampler in held for batch in sampler.batches() for i in batch} == set(range(num_pairs))


def test_encoded_batches(run, tiny_flux):
    dsd.encode(run, str(tiny_flux), policy="every", **QUIET)
    data = dsd.PairDataModule(run, batch_size=4, encoded=True, num_workers=1)
    raw = dsd.PairDataModule(run, batch_size=4)
    encoded_batches, raw_batches = list(data.train_dataloader()), list(raw.train_dataloader())
    assert [batch.ids for batch in encoded_batches] == [batch.ids for batch in raw_batches]
    assert all(isinstance(batch, Batch) and batch.target.shape[1] == 16 for batch in encoded_batches)
    expected = data.encoded.batch(encoded_batches[1].ids)
    assert torch.equal(encoded_batches[1].target, expected.target)
    assert torch.equal(encoded_batches[1].text.tokens, expected.text.tokens)
    assert raw.encoded is None


def test_pairs_that_are_not_encoded_are_missed(run, tmp_path, tiny_flux):
    small = make_run(tmp_path / "run", 2)
    dsd.encode(small, str(tiny_flux), **QUIET)
    with pytest.raises(ValueError, match=r"\d+ of 24 accepted pairs are not in the cache .*dsd\.encode"):
        dsd.PairDataModule(small, encoded=True, policy="every").setup()
    with pytest.raises(LookupError, match="no cache 'other'"):
        dsd.PairDataModule(small, encoded="other").setup()


def test_held_out_pairs(run):
    data = dsd.PairDataModule(run, batch_size=4, policy="every", val_fraction=0.3, val_batch_size=5)
    grid = dict(zip(*run.pairs.columns("id", "grid_id").to_pydict().values(), strict=True))
    train, held = {grid[i] for i in data.train_ids}, {grid[i] for i in data.val_ids}
    assert not train & held
    assert len(train) + len(held) == 4
    assert held
    assert sorted(chain(*ids_of(data.val_dataloader()))) == data.val_ids
    assert ids_of(data.val_dataloader()) == ids_of(data.val_dataloader())
    again = dsd.PairDataModule(run.path, policy="every", val_fraction=0.3)
    assert again.val_ids == data.val_ids
    assert dsd.PairDataModule(run).val_dataloader() == []
    groups = [f"g{i // 2}" for i in range(2000)]
    _, positions = holdout(groups, 0.2, seed=0)
    assert len(positions) == pytest.approx(400, rel=0.15)
    with pytest.raises(ValueError, match="holds out all 1 groups"):
        holdout(["a", "a"], 0.5, seed=0)


class Recorder(lightning.LightningModule):
    """Trains one weight by the ids of the pairs it is given, and notes them."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen = []

    def training_step(self, batch, index):
        self.seen.append((self.current_epoch, batch.ids))
        number = sum(int(pair_id, 16) % 997 for pair_id in batch.ids) / 1000
        return (self.weight * number - 1).square().sum()

    def validation_step(self, batch, index):
        assert batch.ids

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=0.1)


class Stop(Callback):
    """Raises as if the process died, just before a step."""

    def __init__(self, before_step):
        self.before_step = before_step

    def on_train_batch_start(self, trainer, *args):
        if trainer.global_step == self.before_step:
            raise SystemError("killed")


def fit(data, folder, steps, callbacks=(), ckpt_path=None, **options):
    model = Recorder()
    trainer = lightning.Trainer(
        max_steps=steps, accelerator="cpu", logger=False,
        enable_progress_bar=False, enable_model_summary=False,
        default_root_dir=folder,
        callbacks=[
            ModelCheckpoint(dirpath=folder, save_top_k=-1, every_n_train_steps=1, filename="{step}"),
            *callbacks,
        ],
        **options,
    )  # fmt: skip
    try:
        trainer.fit(model, data, ckpt_path=ckpt_path)
    except SystemError:
        pass
    return model


@pytest.mark.parametrize(
    ("stop", "num_workers"), [*((stop, 0) for stop in (1, 4, 5, 6, 9, 10, 13)), (4, 2), (6, 2)]
)
def test_training_stopped_in_mid_epoch_goes_on_exactly(run, tmp_path, stop, num_workers):
    def data():
        return dsd.PairDataModule(
            run, batch_size=8, policy="every", val_fraction=0.1, num_workers=num_workers
        )

    per_epoch = len(data().train_dataloader())
    assert per_epoch == 4  # so that stops fall in the middle, at the end and at the beginning of an epoch
    whole = fit(data(), tmp_path / "whole", 14)
    first = fit(data(), tmp_path / "cut", 14, [Stop(stop)])
    second = fit(data(), tmp_path / "cut", 14, ckpt_path=tmp_path / "cut" / f"step={stop}.ckpt")
    assert len(first.seen) == stop
    assert [ids for _, ids in first.seen + second.seen] == [ids for _, ids in whole.seen]
    assert torch.equal(second.weight, whole.weight)
    assert len(whole.seen) == 14
    assert whole.seen[0][1] != whole.seen[per_epoch][1]


def test_epochs_of_lightning_are_the_loaders(run, tmp_path):
    data = dsd.PairDataModule(run, batch_size=8, policy="every")
    model = fit(data, tmp_path, 9, limit_train_batches=3)
    loader = data.train_dataloader()
    for epoch in range(3):
        loader.sampler.set_epoch(epoch)
        expected = ids_of(loader)[:3]
        assert [ids for e, ids in model.seen if e == epoch] == expected


def test_state_of_a_loader(run):
    def loader(**options):
        return dsd.PairDataModule(run, **{"batch_size": 8, "policy": "every", **options}).train_dataloader()

    one = loader()
    iterator = iter(one)
    first = [next(iterator).ids for _ in range(2)]
    state = one.state_dict()
    assert (state["epoch"], state["batches"]) == (0, 2)
    other = loader(num_workers=2)
    other.load_state_dict(state)
    assert len(other) == len(one)
    rest = ids_of(other)
    assert first + rest == ids_of(loader())
    assert ids_of(other) == ids_of(loader_at(loader(), 1))
    for options, words in [
        ({"batch_size": 4}, "batch_size was 8, now 4"),
        ({"seed": 3}, "seed was 0, now 3"),
        ({"policy": None}, r"pairs was 48 \("),
    ]:
        with pytest.raises(ValueError, match=words):
            loader(**options).load_state_dict(state)
    state = PairLoader(one.source, range(24), 8).state_dict()
    with pytest.raises(ValueError, match=r"pairs was 24 \(\w+\), now 24 \("):  # as many, but others
        PairLoader(one.source, range(24, 48), 8).load_state_dict(state)


def loader_at(loader, epoch):
    loader.sampler.set_epoch(epoch)
    return loader


def test_breaking_off_an_epoch_begins_it_again(run):
    loader = PairLoader(dsd.PairDataModule(run, policy="every")._ready(), range(48), 8)
    first = next(iter(loader)).ids
    assert next(iter(loader)).ids == first
    loader.load_state_dict({**loader.state_dict(), "batches": 3})
    assert next(iter(loader)).ids != first
    assert next(iter(loader)).ids == first  # so it is with one that was gone on with


@pytest.fixture(scope="module")
def parquet(tmp_path_factory):
    """A data set as the release has it, without a word of dsd, in two files."""
    folder = tmp_path_factory.mktemp("released")
    for part in range(2):
        rows = {
            "image": [picture(f"t{part}{i}") for i in range(5)],
            "conditioning": [picture(f"r{part}{i}") for i in range(5)],
            "caption": [f"caption {part}{i}" for i in range(5)],
        }
        features = datasets.Features(
            {"image": datasets.Image(), "conditioning": datasets.Image(), "caption": datasets.Value("string")}
        )
        datasets.Dataset.from_dict(rows, features=features).to_parquet(str(folder / f"train-{part}.parquet"))
    return folder


@pytest.mark.parametrize(
    "columns", [None, RELEASE_COLUMNS, {value: key for key, value in RELEASE_COLUMNS.items()}]
)
@pytest.mark.parametrize("source", ["folder", "file", "pattern", "dataset"])
def test_released_data_train_as_they_are(parquet, columns, source):
    if source == "folder":
        given = parquet
    elif source == "dataset":
        given = datasets.load_dataset("parquet", data_files=str(parquet / "*.parquet"), split="train")
    else:
        given = parquet / ("train-0.parquet" if source == "file" else "train-*.parquet")
    data = dsd.PairDataModule(given, batch_size=5, columns=columns)
    batches = list(data.train_dataloader())
    assert len(batches) == (1 if source == "file" else 2)
    for batch in batches:
        for i, caption in enumerate(batch.captions):
            name = caption.removeprefix("caption ")
            assert np.array_equal(batch.target[i].permute(1, 2, 0), np.asarray(picture(f"t{name}")))
            assert np.array_equal(batch.reference[i].permute(1, 2, 0), np.asarray(picture(f"r{name}")))


def test_a_run_of_ours_reads_as_plain_parquet(run):
    data = dsd.PairDataModule(run.path / "pairs", batch_size=48)
    (batch,) = data.train_dataloader()
    assert sorted(map(bytes, batch.reference.numpy())) == sorted(
        np.asarray(pair.reference).transpose(2, 0, 1).tobytes() for pair in run.pairs
    )


def test_sizes(tmp_path):
    pictures = {
        "reference": [Image.new("L", (20, 10), 200), Image.new("RGBA", (16, 16), "red")],
        "target": [Image.new("RGB", (8, 12)), Image.new("RGB", (64, 64))],
    }
    data = datasets.Dataset.from_dict(pictures)
    with pytest.raises(ValueError, match=r"differ in size: .*Give `size_px`"):
        list(dsd.PairDataModule(data, batch_size=2).train_dataloader())
    (batch,) = dsd.PairDataModule(data, batch_size=2, size_px=8).train_dataloader()
    assert batch.reference.shape == batch.target.shape == (2, 3, 8, 8)
    assert batch.captions == ["", ""]


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"batch_size": 0}, ValueError, "`batch_size` must be at least 1; got 0"),
        ({"num_workers": -1}, ValueError, "`num_workers` must be at least 0"),
        ({"val_fraction": 1.0}, ValueError, r"`val_fraction` must be in \[0, 1\)"),
    ],
)
def test_wrong_arguments(options, error, words):
    with pytest.raises(error, match=words):
        dsd.PairDataModule("anything", **options)


def test_wrong_sources(tmp_path, run, parquet):
    for source in (tmp_path / "nowhere", "runs/mini", "x.parquet"):
        with pytest.raises(FileNotFoundError, match="There is no folder or file"):
            dsd.PairDataModule(source).setup()
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="is no run and holds no Parquet files"):
        dsd.PairDataModule(tmp_path / "empty").setup()
    with pytest.raises(ValueError, match="has the columns image, conditioning, caption; got columns="):
        dsd.PairDataModule(parquet, columns={"reference": "ref", "target": "image"}).setup()
    with pytest.raises(ValueError, match="belong to a run"):
        dsd.PairDataModule(parquet, curator="x").setup()
    with pytest.raises(ValueError, match="Leave `columns` out"):
        dsd.PairDataModule(run, columns=RELEASE_COLUMNS).setup()
    with pytest.raises(ValueError, match="columns a, b"):
        resolve_columns(None, ["a", "b"], "it")


def test_a_run_in_which_nothing_is_accepted(tmp_path):
    from dsd import curators
    from dsd.types import Verdict

    @curators.register("strict")
    class Strict(curators.Curator):
        def judge(self, pair):
            return Verdict(keep=False)

    run = make_run(tmp_path / "run", 1, curator="strict")
    with pytest.raises(ValueError, match=r"None of the 12 pairs of .* is accepted \(curators: strict\)"):
        dsd.PairDataModule(run).setup()


def bucketed(run, **options):
    return dsd.PairDataModule(run, **{"policy": "every", "batch_size": 3, "buckets": True, **options})


@pytest.fixture(scope="module")
def mixed():
    """Pictures of three sizes; `conditioning` is of another size than `image` in some."""
    sizes = [(16, 16)] * 9 + [(32, 16)] * 7 + [(16, 48)] * 5
    rows = [(picture(f"r{i}").resize(s), picture(f"t{i}").resize(s)) for i, s in enumerate(sizes)]
    return datasets.Dataset.from_dict(
        {"reference": [r for r, _ in rows], "target": [t for _, t in rows], "caption": ["x"] * len(rows)},
        features=datasets.Features(
            reference=datasets.Image(), target=datasets.Image(), caption=datasets.Value("string")
        ),
    )


@pytest.mark.parametrize("world_size", [1, 2])
def test_batches_are_of_one_layout(mixed, world_size):
    source = dsd.PairDataModule(mixed)._ready()
    layouts = source.layouts(range(21))
    loaders = [
        PairLoader(source, range(21), 2, rank=r, world_size=world_size, layouts=layouts)
        for r in range(world_size)
    ]
    parts = [list(loader) for loader in loaders]
    assert {len(part) for part in parts} == {len(loaders[0])}
    assert len(loaders[0]) == sum(count // (2 * world_size) for count in (9, 7, 5))
    for batches in zip(*parts, strict=True):
        assert len({tuple(batch.target.shape) for batch in batches}) == 1
    seen = [pair for part in parts for batch in part for pair in batch.ids]
    assert len(seen) == len(set(seen)) == 2 * world_size * len(loaders[0])
    first = [tuple(batch.target.shape) for batch in parts[0]]
    assert first != sorted(first)  # layouts take turns
    held = PairLoader(source, range(21), 4, shuffle=False, layouts=layouts)
    assert sorted(chain(*ids_of(held))) == source.ids


def test_one_layout_changes_no_order(run):
    plain, grouped = (bucketed(run, buckets=b, batch_size=5).train_dataloader() for b in (False, True))
    assert ids_of(plain) == ids_of(grouped)


def test_pictures_come_to_the_nearest_bucket(mixed):
    sizes = [(16, 16), (16, 32), (32, 16), (48, 16)]
    loader = dsd.PairDataModule(mixed, batch_size=5, buckets=sizes).train_dataloader()
    shapes = {tuple(batch.target.shape[-2:]) for batch in loader}
    assert shapes == {(16, 16), (16, 32), (48, 16)}
    assert nearest((100, 210), sizes) == (16, 32)
    with pytest.raises(ValueError, match="Leave `size_px` out"):
        dsd.PairDataModule(mixed, buckets=sizes, size_px=16)
    with pytest.raises(ValueError, match="No layout has the 10 pairs"):
        dsd.PairDataModule(mixed, batch_size=10, buckets=sizes).train_dataloader()


def test_layouts_of_encoded_pairs(tmp_path, tiny_flux):
    run = make_run(tmp_path / "run", 2, size=32)
    dsd.encode(run, str(tiny_flux), policy="every", **QUIET)
    data = bucketed(run, encoded=True)
    layouts = data._ready().layouts(range(24))
    assert len(set(layouts)) == 1
    shape = data.encoded.batch(data._ready().ids[:1]).target.shape[1:]
    assert ("target", tuple(shape)) in layouts[0][0]


def test_buckets_of_one_area():
    sizes = aspect_buckets(512 * 512)
    assert (512, 512) in sizes
    assert all(h % 64 == w % 64 == 0 and h * w <= 512 * 512 and max(h, w) <= 2 * min(h, w) for h, w in sizes)
    assert sizes == sorted(sizes, key=lambda s: s[1] / s[0])
    assert {(w, h) for h, w in sizes} == set(sizes)
    with pytest.raises(ValueError, match="multiple of 16"):
        aspect_buckets(512 * 512, unit_px=10)
