"""The cache of encodings: what training reads is what encoding on the fly would give, for the right pair."""

import pytest
import torch
from PIL import Image

import dsd
from dsd import backbones, conditioning
from dsd.backbones.base import as_pixels
from dsd.data.encode import cache_name, to_uint8
from dsd.data.encoded import EncodedPairs
from dsd.data.encodings import caption_id
from dsd.data.manifest import ManifestError, SpecError, StageManifest
from dsd.data.writer import TableWriter
from dsd.types import Pair
from tests.cheap_world import picture

QUIET = {"progress": False}
CAPTIONS = ["a red creature", "the blue creature", "", "a red creature", "snow"]


@pytest.fixture(scope="module")
def flux(tiny_flux):
    return backbones.load(str(tiny_flux), parts=("vae", "text"))


def some_pairs(sizes=(16,) * 5):
    """Five pairs of two references, new and known ones in a batch; one of another size where asked."""
    return [
        Pair(
            reference=picture(f"r{i // 2 % 2}", size),
            target=picture(f"t{i}", size),
            caption=caption,
            grid_id=f"g{i % 3}",
        )
        for i, (caption, size) in enumerate(zip(CAPTIONS, sizes, strict=True))
    ]


def pair_run(path, pairs):
    run = dsd.Run(path)
    path.mkdir(parents=True, exist_ok=True)
    with TableWriter(run.pairs, {}) as writer:
        writer.add(pairs)
        writer.finish()
    return run


@pytest.fixture
def run(tmp_path):
    return pair_run(tmp_path / "run", some_pairs())


def pixels(image):
    return as_pixels(to_uint8(image)[None])


def check(run, pairs, flux, cache, method="parallel", atol=1e-5):
    batch = cache.batch([pair.id for pair in pairs])
    method = conditioning.create(method)
    assert batch.ids == [pair.id for pair in pairs]
    for i, pair in enumerate(pairs):
        with torch.no_grad():
            reference = method.encode(flux, pixels(pair.reference))
            target = method.encode_target(flux, pixels(pair.reference), pixels(pair.target))
            text = flux.encode_text([pair.caption])
        torch.testing.assert_close(batch.reference.latents[i], reference.latents[0], atol=atol, rtol=1e-4)
        torch.testing.assert_close(batch.target[i], target[0], atol=atol, rtol=1e-4)
        torch.testing.assert_close(batch.text.tokens[i], text.tokens[0], atol=atol, rtol=1e-4)
        torch.testing.assert_close(batch.text.pooled[i], text.pooled[0], atol=atol, rtol=1e-4)


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_cached_is_what_encoding_gives_whatever_the_order(run, flux, batch_size):
    pairs = list(run.pairs)
    summary = dsd.encode(run, flux, "parallel", batch_size=batch_size, **QUIET)
    assert (summary.rows, summary.added) == (5, 5)
    cache = EncodedPairs.find(run.path)
    check(run, [pairs[i] for i in (3, 0, 4, 2, 1)], flux, cache)
    assert cache.revision == flux.revision
    assert flux.revision[:12] in cache.name
    assert run.verify() == []


def test_equal_captions_and_references_are_stored_once(run, flux, monkeypatch):
    seen = []
    true_text, true_image = flux.encode_text, flux.encode_image
    monkeypatch.setattr(
        flux, "encode_text", lambda captions: seen.extend(captions) or true_text(captions), raising=False
    )
    images = []
    monkeypatch.setattr(flux, "encode_image", lambda x: images.append(len(x)) or true_image(x), raising=False)
    dsd.encode(run, flux, "parallel", batch_size=2, **QUIET)
    cache = EncodedPairs.find(run.path)
    assert sorted(seen) == sorted(set(CAPTIONS))
    assert (len(cache.texts), len(cache.references), len(cache.pairs)) == (4, 2, 5)
    assert sum(images) == 2 + 5
    torch.testing.assert_close(cache.text("snow").tokens, true_text(["snow"]).tokens)
    assert cache.text("").tokens.shape[0] == 1
    assert len({caption_id(caption) for caption in ("snow", "Snow", "snow ", "")}) == 4
    with pytest.raises(LookupError):
        cache.text("never written")


@pytest.mark.parametrize("stop_after", [1, 2, 3, 4])
def test_resumed_is_the_same_bit_for_bit(tmp_path, flux, monkeypatch, stop_after):
    monkeypatch.setattr(TableWriter, "shard_rows", 2)
    whole, stopped = (pair_run(tmp_path / name, some_pairs()) for name in ("whole", "stopped"))
    dsd.encode(whole, flux, batch_size=2, **QUIET)

    calls = 0
    true_encode = flux.encode_image

    def fail_sometimes(x):
        nonlocal calls
        calls += 1
        if calls == stop_after:
            raise KeyboardInterrupt
        return true_encode(x)

    with monkeypatch.context() as patch:
        patch.setattr(flux, "encode_image", fail_sometimes, raising=False)
        with pytest.raises(KeyboardInterrupt):
            dsd.encode(stopped, flux, batch_size=2, **QUIET)
    dsd.encode(stopped, flux, batch_size=2, **QUIET)
    assert dsd.encode(stopped, flux, batch_size=2, **QUIET).added == 0
    one, other = EncodedPairs.find(whole.path), EncodedPairs.find(stopped.path)
    assert one.ids() == other.ids() == whole.pairs.ids()
    a, b = one.batch(one.ids()), other.batch(one.ids())
    assert torch.equal(a.target, b.target)
    assert torch.equal(a.reference.latents, b.reference.latents)
    assert torch.equal(a.text.tokens, b.text.tokens)


def test_no_pair_is_listed_before_what_it_refers_to(run, flux, monkeypatch):
    """So that a reader, or a stop at any moment, never finds a pair without its reference or caption."""
    monkeypatch.setattr(TableWriter, "shard_rows", 2)
    true_save, listed = StageManifest.save, []

    def save(manifest, folder):
        true_save(manifest, folder)
        if manifest.shards and manifest.stage.endswith("/pairs"):
            cache = EncodedPairs.find(run.path)
            cache.batch(cache.ids())
            listed.append(len(cache.ids()))

    monkeypatch.setattr(StageManifest, "save", save)
    dsd.encode(run, flux, batch_size=1, **QUIET)
    assert listed == [2, 4, 5, 5]


def test_another_backbone_never_shares_a_cache(run, flux, tiny_flux):
    dsd.encode(run, flux, **QUIET)
    other = backbones.load(str(tiny_flux), parts=("vae", "text"))
    with torch.no_grad():
        next(other.vae.parameters()).add_(0.01)
    assert other.revision != flux.revision
    dsd.encode(run, other, **QUIET)
    names = EncodedPairs.names(run.path)
    assert len(names) == 2
    with pytest.raises(LookupError, match=r"no single cache in .*; it has: flux-"):
        EncodedPairs.find(run.path)
    with pytest.raises(LookupError, match=r"no cache 'x'"):
        EncodedPairs.find(run.path, "x")
    a, b = (EncodedPairs.find(run.path, name).batch(run.pairs.ids()) for name in names)
    assert not torch.equal(a.target, b.target)
    assert cache_name("flux", "a" * 20, {"name": "x"}) != cache_name("flux", "a" * 20, {"name": "x", "y": 1})


def test_stored_in_another_dtype(run, flux):
    pairs = list(run.pairs)
    dsd.encode(run, flux, dtype="bfloat16", **QUIET)
    cache = EncodedPairs.find(run.path)
    batch = cache.batch([pair.id for pair in pairs])
    assert {batch.target.dtype, batch.text.tokens.dtype, batch.reference.latents.dtype} == {torch.bfloat16}
    exact = conditioning.create("parallel").encode_target(
        flux, pixels(pairs[0].reference), pixels(pairs[0].target)
    )
    torch.testing.assert_close(batch.target[0].float(), exact[0], atol=0.02, rtol=0.02)
    dsd.encode(run, flux, **QUIET)
    assert len(EncodedPairs.names(run.path)) == 2
    with pytest.raises(ValueError, match="Unknown dtype 'bf17'"):
        dsd.encode(run, flux, dtype="bf17", **QUIET)


def test_only_accepted_pairs_and_more_of_them_later(run, flux):
    from dsd import curators
    from dsd.types import Verdict

    @curators.register("blue")
    class Blue(curators.Curator):
        def judge(self, pair):
            return Verdict(keep="blue" in pair.caption)

    dsd.curate(run, "blue", **QUIET)
    assert dsd.encode(run, flux, **QUIET).rows == 1
    assert dsd.encode(run, flux, policy="every", **QUIET).added == 4
    check(run, list(run.pairs), flux, EncodedPairs.find(run.path))


def test_pairs_of_several_sizes_are_encoded_but_not_batched(tmp_path, flux):
    run = pair_run(tmp_path / "run", some_pairs((16, 32, 16, 32, 16)))
    dsd.encode(run, flux, batch_size=5, **QUIET)
    cache, pairs = EncodedPairs.find(run.path), list(run.pairs)
    check(run, pairs[::2], flux, cache)
    check(run, pairs[1::2], flux, cache)
    with pytest.raises(
        ValueError, match=r"The pairs of a batch differ in shape: .*\(16, 2, \d\).* and .*\(16, 4, \d\)"
    ):
        cache.batch(cache.ids())


@pytest.mark.parametrize("method", ["parallel", "concat", {"name": "token_concat", "fit": "keep"}])
def test_a_reference_is_fitted_to_the_frame_of_each_target(tmp_path, flux, method):
    """One picture that stands beside targets of two sizes, neither of them its own."""
    reference = picture("r", 32).crop((0, 0, 32, 16))
    made = [Pair(reference=reference, target=picture(f"t{i}", size)) for i, size in enumerate((16, 32, 16))]
    run = pair_run(tmp_path / "run", made)
    dsd.encode(run, flux, method, **QUIET)
    cache, built = EncodedPairs.find(run.path), conditioning.create(method)
    assert len(cache.references) == 2
    for pair in made:
        batch, size = cache.batch([pair.id]), pair.target.height
        prepared = built.prepare([pixels(reference)], size, size)
        expected = built.encode(flux, prepared).latents
        torch.testing.assert_close(batch.reference.latents, expected, atol=1e-5, rtol=1e-4)
        target = built.encode_target(flux, prepared, pixels(pair.target))
        torch.testing.assert_close(batch.target, target, atol=1e-5, rtol=1e-4)
        built.canvas(batch.reference, batch.target)


def test_a_damaged_shard_is_named_and_mended(run, flux):
    dsd.encode(run, flux, **QUIET)
    cache = EncodedPairs.find(run.path)
    reference_ids = cache.references.ids()
    shard = cache.references.folder / "part-00000.parquet"
    data = shard.read_bytes()
    right, noticed = [cache.references[name].tensors["latents"] for name in reference_ids], 0
    for place in range(5, len(data), 101):  # rows are read singly here, without a look at the whole file
        shard.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        table = EncodedPairs.find(run.path).references
        try:
            found = [table[name].tensors["latents"] for name in reference_ids]
        except ManifestError as error:
            noticed += "references/part-00000.parquet is damaged" in str(error)
        else:  # a byte that nothing depends on
            assert all(torch.equal(one, other) for one, other in zip(found, right, strict=True))
        assert len(table.verify()) == 1
    assert noticed > len(data) / 101 / 2
    assert run.mend(cache.references.kind.stage) == 2
    dsd.encode(run, flux, **QUIET)
    check(run, list(run.pairs), flux, EncodedPairs.find(run.path))


def test_captions_that_were_lost_are_encoded_again(run, flux):
    dsd.encode(run, flux, **QUIET)
    cache = EncodedPairs.find(run.path)
    (cache.texts.folder / "part-00000.parquet").unlink()
    assert run.mend(cache.texts.kind.stage) == 4
    assert dsd.encode(run, flux, **QUIET).added == 0
    check(run, list(run.pairs), flux, EncodedPairs.find(run.path))


def test_changed_pairs_are_detected(run, flux):
    dsd.encode(run, flux, **QUIET)
    cache = EncodedPairs.find(run.path)
    with TableWriter(run.pairs, {}, overwrite=True) as writer:
        writer.add([Pair(reference=Image.new("RGB", (16, 16)), target=Image.new("RGB", (16, 16), "red"))])
        writer.finish()
    with pytest.raises(ManifestError, match="of which 5 are no longer there"):
        dsd.encode(run, flux, **QUIET)
    with pytest.raises(ManifestError, match="of which 5 are no longer there"):
        dsd.PairDataModule(run, encoded=cache.name).setup()
    assert dsd.encode(run, flux, overwrite=True, **QUIET).rows == 1
    with TableWriter(cache.pairs, cache.pairs.manifest.spec):
        pass
    with (
        pytest.raises(SpecError, match="revision was"),
        TableWriter(cache.pairs, {**cache.spec, "revision": "x"}),
    ):
        pass
