"""One forward an image and extractor, however many metrics look at it; and no more memory than was given."""

import copy
import gc
import pickle
import warnings

import pytest
import torch
from PIL import Image

from dsd import extractors, metrics
from dsd.extractors import sharing
from dsd.extractors.sharing import SharedExtractor, shared
from tests.metrics.cases import pictures
from tests.metrics.image_cases import GRID_NET


class Counting:
    """A network that counts what goes through it."""

    def __init__(self):
        self.seen, self.batches, self.read = 0, [], 0

    def __call__(self, images):
        self.seen += len(images)
        self.batches.append(len(images))
        return GRID_NET(images)

    def texts(self, texts):
        self.read += len(texts)
        return GRID_NET.texts(texts)

    def patches(self, images):
        self.seen += len(images)
        return GRID_NET.patches(images)


def test_metrics_of_one_extractor_look_at_a_picture_once():
    net, one, two, three = Counting(), pictures(5), pictures(5, 2), pictures(5, 3)
    several = [
        metrics.ImageSimilarity(net),
        metrics.CopyPasteScore(net),
        metrics.NearCopyRate(extractor=net),
        metrics.IntraPromptDiversity(net),
        metrics.TextImageSimilarity(net),
    ]
    several[0].update(one, two)
    assert net.seen == 10
    several[1].update(one, two, three)
    assert net.seen == 15
    several[3].update([one, two])
    several[4].update(one, ["a"] * 5)
    several[4].update(two, ["a"] * 5)
    assert (net.seen, net.read) == (15, 1)
    several[2].update(one, two)
    assert net.seen == 20, "the mirror images alone are new"
    again = metrics.ImageSimilarity(net)
    again.update([image.copy() for image in one], [image.convert("RGBA") for image in two])
    assert net.seen == 20, "it is the content that counts"
    assert again.compute()["score"] == several[0].compute()["score"]


def test_a_picture_that_differs_in_one_value_or_in_shape_is_another():
    net = Counting()
    extractor = shared(net)
    image = pictures(1)[0].resize((6, 4))
    other = image.copy()
    other.putpixel((5, 3), tuple(255 - x for x in image.getpixel((5, 3))))
    turned = Image.frombytes("RGB", (4, 6), image.tobytes())
    rows = extractor([image, other, turned, image])
    assert net.seen == 3
    assert torch.equal(rows[0], rows[3])
    assert not torch.equal(rows[0], rows[1])
    torch.testing.assert_close(rows, extractors.load(GRID_NET)([image, other, turned, image]))


def test_patches_and_words_are_not_taken_for_pictures():
    extractor = shared(Counting())
    images = pictures(2)
    assert extractor(images).shape == (2, 16)
    assert extractor.patches(images).shape == (2, 3, 3, 3)
    assert extractor(images).shape == (2, 16)
    assert extractor.texts(["a", "b"]).shape == (2, 16)
    spelled = Image.frombytes("RGB", (1, 1), b"abc")
    assert not torch.equal(extractor([spelled]), extractor.texts(["1x1 abc"]))


def test_what_is_kept_is_bounded_and_the_oldest_goes_first():
    net = Counting()
    extractor = SharedExtractor(net, capacity_bytes=3 * 16 * 4, batch_size=2)
    images = pictures(5)
    whole = extractor(images)
    assert net.batches == [2, 2, 1]
    assert extractor.kept_bytes == 3 * 16 * 4
    assert torch.equal(extractor(images[2:]), whole[2:])
    assert net.seen == 5
    extractor(images[2:3])  # is now the newest
    extractor(images[:1])
    assert net.seen == 6
    extractor(images[2:3])
    assert net.seen == 6
    extractor.forget()
    assert extractor.kept_bytes == 0
    extractor(images[2:3])
    assert net.seen == 7


def test_a_kept_row_does_not_keep_its_batch():
    extractor = SharedExtractor(Counting(), capacity_bytes=16 * 4)
    extractor(pictures(9))
    (row,) = extractor._found.values()
    assert row.untyped_storage().nbytes() == 16 * 4


def test_equal_specs_are_one_extractor_while_somebody_uses_it():
    spec = {"kind": "dreambooth", "model": "somewhere"}
    one, other = metrics.ImageSimilarity(spec), metrics.CopyPasteScore(dict(reversed(spec.items())))
    assert one.extractor is other.extractor
    assert one.extractor is not shared({**spec, "model": "elsewhere"})
    assert shared("mini") is shared({"kind": "mini"}) is shared(shared("mini"))
    size = len(sharing._SHARED)
    del one, other
    gc.collect()
    assert len(sharing._SHARED) < size


def test_a_metric_is_copied_and_pickled_without_its_network():
    metric = metrics.ImageSimilarity("mini")
    images = pictures(2, side=64)
    metric.update(images, images[::-1])
    assert metric.extractor._loaded is not None
    assert copy.deepcopy(metric).extractor is metric.extractor
    assert metric.clone().extractor is metric.extractor
    saved = pickle.dumps(metric)
    assert len(saved) < 20_000
    again = pickle.loads(saved)
    assert again.compute()["score"] == metric.compute()["score"]
    again.update(images, images)


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        ("min", LookupError, "kind 'min'. Did you mean 'mini'"),
        ({"kind": "transformers"}, TypeError, "needs the argument 'model'"),
        ({"kind": "dreambooth", "modle": "x"}, TypeError, "no argument 'modle'. Allowed: model, library"),
        (7, TypeError, "7"),
    ],
)
def test_a_wrong_spec_is_refused_at_once(spec, error, message):
    with pytest.raises(error, match=message):
        metrics.ImageSimilarity(spec)


def test_a_metrics_spec_builds_it_again():
    spec = {"name": "image_similarity", "extractor": "mini", "reduction": "max", "groups": ["a", "b"]}
    metric = metrics.create(spec)
    assert metrics.spec(metric) == spec
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert metrics.create(metrics.spec(metric)).extractor is metric.extractor
