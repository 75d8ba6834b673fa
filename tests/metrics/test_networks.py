"""The published protocols' networks on random weights: every step by hand, down to the pixels."""

import warnings

import numpy as np
import pytest
import torch
import torchvision.transforms as tv
from PIL import Image

from dsd import extractors, metrics
from dsd.extractors import TRANSFORMS, Transform
from dsd.extractors.transforms import named
from tests.metrics.tiny import MODELS, build, clip_tokenizer

SIZES = [(300, 301), (301, 300), (257, 640), (641, 257), (224, 224), (90, 61), (256, 256), (1000, 333)]
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
OPENAI = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
TEXTS = ["a dog on a beach", "the red cat in snow", "dog"]


def picture(size, seed=0):
    noise = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(noise)


def pictures(count=3, size=(260, 300)):
    return [picture((size[0] + i, size[1]), i) for i in range(count)]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    root = tmp_path_factory.mktemp("tiny")
    return {name: (build(name, root / name), str(root / name)) for name in MODELS}


# Pixels


def dino_by_torchvision():
    """As github.com/facebookresearch/dino evaluates."""
    resize = tv.Resize(256, interpolation=tv.InterpolationMode.BICUBIC)
    return tv.Compose([resize, tv.CenterCrop(224), tv.ToTensor(), tv.Normalize(*IMAGENET)])


def by_transformers(name):
    """What transformers' processors on PIL do: those of 4, and those that 5 keeps beside its faster ones."""
    if name == "clip":
        try:
            from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil as Processor
        except ModuleNotFoundError:
            from transformers import CLIPImageProcessor as Processor
        processor = Processor()
    else:  # facebook/dinov2-small's preprocessor_config.json
        try:
            from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil as Processor
        except ModuleNotFoundError:
            from transformers import BitImageProcessor as Processor
        processor = Processor(size={"shortest_edge": 256}, image_mean=IMAGENET[0], image_std=IMAGENET[1])
    return lambda image: processor(images=image, return_tensors="pt")["pixel_values"][0]


def siglip_by_torchvision():
    resize = tv.Resize((384, 384), interpolation=tv.InterpolationMode.BICUBIC)
    return tv.Compose([resize, tv.ToTensor(), tv.Normalize([0.5] * 3, [0.5] * 3)])


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("name", "theirs"), [("dino", dino_by_torchvision), ("siglip2", siglip_by_torchvision)]
)
def test_pixels_are_torchvisions_to_the_bit(name, theirs, size):
    image = picture(size)
    assert torch.equal(TRANSFORMS[name](image), theirs()(image))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", ["clip", "dinov2"])
def test_pixels_are_those_of_transformers_on_pil(name, size):
    image = picture(size)
    torch.testing.assert_close(TRANSFORMS[name](image), by_transformers(name)(image), rtol=0, atol=1e-6)


def test_an_odd_margin_goes_where_the_protocol_puts_it():
    image = picture((256, 259))  # a margin of 35 above and below: 17 or 18 rows
    shifted = {name: TRANSFORMS[name](image)[0] for name in ("dino", "dinov2")}
    assert torch.equal(shifted["dino"][:-1], shifted["dinov2"][1:])


def test_siglip_is_squashed_as_open_clip_says():
    open_clip = pytest.importorskip("open_clip")
    config = open_clip.get_pretrained_cfg("ViT-SO400M-14-SigLIP2-378", "webli")
    ours = TRANSFORMS["siglip2"]
    assert (config["interpolation"], config["resize_mode"]) == (ours.interpolation, "squash")
    assert ours.squash
    assert tuple(config["mean"]) == ours.mean
    assert tuple(config["std"]) == ours.std


def test_a_transform_is_said_in_words_and_refused_if_it_cannot_be():
    assert str(TRANSFORMS["dino"]) == (
        "resize 256 px (shorter side, bicubic, PIL), centre crop 224 px (round), mean (0.485, 0.456, 0.406), "
        "std (0.229, 0.224, 0.225)"
    )
    assert named({"resize_px": 8}) == Transform(resize_px=8)
    with pytest.raises(LookupError, match=r"named 'dyno'. Known: dino"):
        named("dyno")
    with pytest.raises(ValueError, match=r"interpolation 'area'. Allowed: bicubic, bilinear"):
        Transform(resize_px=8, interpolation="area")
    with pytest.raises(ValueError, match="at least 1 px"):
        Transform(resize_px=0)


# Presets


def stacked(transform, images):
    return torch.stack([transform(image) for image in images])


PRESETS = {
    "dreambooth": ("vit", dino_by_torchvision, lambda m, x: m(pixel_values=x).last_hidden_state[:, 0]),
    "dreambench++/dino": ("vit", dino_by_torchvision, lambda m, x: m(pixel_values=x).last_hidden_state[:, 0]),
    "dinov2": (
        "dinov2",
        lambda: by_transformers("dinov2"),
        lambda m, x: m(pixel_values=x).last_hidden_state[:, 0],
    ),
    "dreambench++/clip": (
        "clip",
        lambda: by_transformers("clip"),
        lambda m, x: m.visual_projection(m.vision_model(pixel_values=x).pooler_output),
    ),
    "siglip2": ("siglip", siglip_by_torchvision, lambda m, x: m.vision_model(pixel_values=x).pooler_output),
}


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_is_its_protocol_by_hand(saved, preset):
    name, transform, forward = PRESETS[preset]
    model, folder = saved[name]
    images, others = pictures(), pictures(3, (400, 280))
    with torch.no_grad():
        one, two = (forward(model, stacked(transform(), x)).double().numpy() for x in (images, others))
    wanted = np.mean(
        [float(a @ b / np.linalg.norm(a) / np.linalg.norm(b)) for a, b in zip(one, two, strict=True)]
    )
    metric = metrics.create({"name": "image_similarity", "extractor": {"kind": preset, "model": folder}})
    metric.update(images, others)
    assert metric.compute()["score"].item() == pytest.approx(wanted, abs=2e-6)
    assert metric.preprocessing == str(TRANSFORMS[extractors.PRESETS[preset].transform])


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_by_the_classes_are_those_by_name(saved, preset):
    folder = saved[PRESETS[preset][0]][1]
    protocol = preset.partition("/")[0]
    cls = metrics.CLIPImageSimilarity if PRESETS[preset][0] in ("clip", "siglip") else metrics.DINOSimilarity
    assert (
        cls(protocol, model=folder).extractor
        is metrics.ImageSimilarity({"kind": preset, "model": folder}).extractor
    )


def test_nothing_is_loaded_before_the_first_picture_and_errors_say_what_there_is():
    metric = metrics.DINOSimilarity()  # its weights are not here
    assert metric.extractor._loaded is None
    with pytest.raises(LookupError, match=r"Unknown preset 'dreambooht'. Known: dreambooth"):
        metrics.DINOSimilarity("dreambooht")
    with pytest.raises(LookupError, match=r"kind 'dreambench\+\+'.*Known: mini"):
        metrics.ImageSimilarity("dreambench++")
    with pytest.raises(LookupError, match=r"no 'jax' of this preset. Known: transformers, timm"):
        extractors.load({"kind": "dreambooth", "library": "jax"})
    with pytest.raises(ValueError, match="of transformers, not of 'timm'"):
        extractors.load({"kind": "dreambooth", "library": "timm", "local_files_only": True})
    with pytest.raises(OSError, match=r"dino-vits16|offline|couldn't connect|not the path"):
        extractors.load({"kind": "dreambooth", "local_files_only": True})


def test_a_preset_by_timm(tmp_path):
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    net = timm.create_model("test_vit", num_classes=0).eval()
    spec = {"kind": "timm", "model": "test_vit", "pretrained": False, "transform": "dino"}
    images = pictures()
    torch.manual_seed(0)
    found = extractors.load(spec)
    with torch.no_grad():
        wanted = torch.nn.functional.normalize(net(stacked(dino_by_torchvision(), images)), dim=-1)
    torch.testing.assert_close(found(images), wanted, rtol=1e-4, atol=1e-5)
    assert found.preprocessing == str(TRANSFORMS["dino"])


# Words


def text_by_hand(model, tokenizer, texts):
    """CLIP's words: the state at the first end token, projected."""
    rows = []
    for text in texts:
        ids = torch.tensor([[*tokenizer(text)["input_ids"][:76], 1]])
        ids = ids[:, : int((ids[0] == 1).nonzero()[0]) + 1]
        rows.append(model.text_projection(model.text_model(input_ids=ids).last_hidden_state[0, -1]))
    return torch.stack(rows)


@pytest.mark.parametrize("version", [4, 5])
def test_clip_t_is_the_cosine_by_hand(saved, version, monkeypatch):
    model, folder = saved["clip"]
    if version == 4:  # whose features are tensors
        for name in ("get_image_features", "get_text_features"):
            was = getattr(type(model), name)
            monkeypatch.setattr(type(model), name, lambda self, was=was, **x: was(self, **x).pooler_output)
    images = pictures()
    with torch.no_grad():
        one = PRESETS["dreambench++/clip"][2](model, stacked(by_transformers("clip"), images))
        two = text_by_hand(model, clip_tokenizer(), TEXTS)
    wanted = torch.cosine_similarity(one, two).mean().item()
    spec = {"kind": "dreambench++/clip", "model": folder}
    metric = metrics.TextImageSimilarity(spec if version == 5 else {**spec, "local_files_only": True})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        metric.update(images, TEXTS)
    found = metric.compute()
    assert found["score"].item() == pytest.approx(wanted, abs=2e-6)
    assert found["truncated"] == 0


def test_siglips_words_are_padded_to_their_length(saved):
    model, folder = saved["siglip"]
    ids = torch.tensor([[3, 9, 5, 3, 6, 1, 0, 0], [4, 11, 10, 7, 8, 1, 0, 0], [9, 1, 0, 0, 0, 0, 0, 0]])
    with torch.no_grad():
        wanted = model.text_model(input_ids=ids).pooler_output
    found = extractors.load({"kind": "siglip2", "model": folder}).texts(TEXTS)
    torch.testing.assert_close(found, torch.nn.functional.normalize(wanted, dim=-1))


def test_long_prompts_are_said_and_read_up_to_the_limit(saved):
    model, folder = saved["clip"]
    long = "a " * 90
    spec = {"kind": "dreambench++/clip", "model": folder}
    metric = metrics.TextImageSimilarity(spec)
    told = "2 of 3 prompts have more than the 77 tokens that the network reads; the longest has 92"
    with pytest.warns(UserWarning, match=told):
        metric.update(pictures(), ["dog", long, "b " * 76])
    metric.update(pictures(1), ["b " * 75])  # with both ends, 77
    assert metric.compute()["truncated"] == 2
    with torch.no_grad():
        wanted = text_by_hand(model, clip_tokenizer(), [long])
    torch.testing.assert_close(metric.encoder.texts([long]), torch.nn.functional.normalize(wanted, dim=-1))
    with pytest.raises(ValueError, match=r"1 of 1 prompts.*number 0: 'a a a"):
        metrics.TextImageSimilarity(spec, long_prompts="error").update(pictures(1), [long])


def test_open_clips_words(tmp_path):
    open_clip = pytest.importorskip("open_clip")
    torch.manual_seed(0)
    net, _, transform = open_clip.create_model_and_transforms("ViT-S-32-alt", pretrained=None)
    torch.save(net.state_dict(), tmp_path / "weights.pt")
    spec = {"kind": "open_clip", "model": "ViT-S-32-alt", "pretrained": str(tmp_path / "weights.pt")}
    net.eval()
    images, texts = pictures(2), ["a dog on a beach", "a red cat " * 30]
    with torch.no_grad():
        one = net.encode_image(stacked(transform, images))
        two = net.encode_text(open_clip.tokenize(texts))
    metric = metrics.TextImageSimilarity(spec)
    with pytest.warns(UserWarning, match="1 of 2 prompts have more than the 77 tokens .* longest has 92"):
        metric.update(images, texts)
    wanted = torch.cosine_similarity(one, two).mean().item()
    assert metric.compute()["score"].item() == pytest.approx(wanted, abs=1e-5)
    with pytest.raises(TypeError, match="gives no patches"):
        metric.encoder.patches(images)


# Patches


@pytest.mark.parametrize(
    ("name", "kind"), [("vit", "dreambooth"), ("dinov2", "dinov2"), ("siglip", "siglip2")]
)
def test_patches_and_masks_are_those_by_hand(saved, name, kind):
    model, folder = saved[name]
    extractor = extractors.load({"kind": kind, "model": folder})
    transform = TRANSFORMS[extractors.PRESETS[kind].transform]
    (image,) = pictures(1)
    vision = getattr(model, "vision_model", model)
    with torch.no_grad():
        tokens = vision(pixel_values=transform(image)[None]).last_hidden_state[0]
    side = round((len(tokens) - (name != "siglip")) ** 0.5)
    wanted = tokens[len(tokens) - side * side :].reshape(side, side, -1)
    torch.testing.assert_close(extractor.patches([image])[0], torch.nn.functional.normalize(wanted, dim=-1))
    mask = Image.new("L", image.size)
    mask.paste(255, (0, 100, 120, 300))
    seen = np.asarray(transform.picture(mask), dtype=np.float32) / 255
    np.testing.assert_allclose(extractor.masks([mask])[0].numpy(), seen, atol=1e-5)


def test_masks_go_through_a_models_own_processor_too(saved):
    extractor = extractors.load({"kind": "transformers", "model": saved["clip"][1]})
    mask = Image.new("L", (448, 224))
    mask.paste(255, (0, 0, 224, 224))  # the left half, of which the centre crop keeps a half
    found = extractor.masks([mask])[0]
    assert found.shape == (224, 224)
    assert (found[:, :110] == 1).all()
    assert (found[:, 114:] == 0).all()


def test_the_same_picture_has_all_its_patches(saved):
    metric = metrics.MaskedPatchSimilarity({"kind": "dinov2", "model": saved["dinov2"][1]})
    images = pictures(2)
    masks = [np.zeros((x.height, x.width), dtype=bool) for x in images]
    for mask in masks:
        mask[90:220, 60:200] = True
    metric.update(images, images, masks)
    assert metric.compute()["score"].item() == pytest.approx(1.0, abs=1e-6)
    other = metric.clone()
    other.reset()
    other.update(images[::-1], images, masks)
    assert other.compute()["score"] < 0.999


def test_timms_patches(saved):
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    net = timm.create_model("test_vit", pretrained=False, num_classes=0).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(net))
    (image,) = pictures(1)
    with torch.no_grad():
        tokens = net.forward_features(transform(image)[None])[0]
    torch.manual_seed(0)
    found = extractors.load({"kind": "timm", "model": "test_vit", "pretrained": False}).patches([image])[0]
    wanted = torch.nn.functional.normalize(tokens[1:], dim=-1)
    torch.testing.assert_close(found.flatten(0, 1), wanted, rtol=1e-4, atol=1e-5)
    assert found.shape[0] == found.shape[1]
