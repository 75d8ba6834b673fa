import builtins

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    ConvNextConfig,
    ConvNextModel,
    Dinov2Config,
    Dinov2Model,
    ResNetConfig,
    ResNetModel,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
    ViTConfig,
    ViTImageProcessor,
    ViTModel,
)

from dsd import extractors, mini

MEAN, STD, SIDE = 0.4, 0.3, 32
WIDTH = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
TEXT = {**WIDTH, "vocab_size": 20, "max_position_embeddings": 8}
VISION = {**WIDTH, "image_size": SIDE, "patch_size": 8}
STEPS = {"hidden_sizes": [8, 16], "depths": [1, 1]}
MODELS = {
    "vit": lambda: ViTModel(ViTConfig(**VISION)),
    "dinov2": lambda: Dinov2Model(Dinov2Config(**VISION)),
    "resnet": lambda: ResNetModel(ResNetConfig(embedding_size=8, layer_type="basic", **STEPS)),
    "convnext": lambda: ConvNextModel(ConvNextConfig(num_stages=2, **STEPS)),
    "clip": lambda: CLIPModel(CLIPConfig(text_config=TEXT, vision_config=VISION, projection_dim=12)),
    "siglip": lambda: SiglipModel(SiglipConfig(text_config=TEXT, vision_config=VISION)),
}


def build(name, folder):
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    with torch.no_grad():  # what starts at zero or one would hide mistakes
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    options = {"image_mean": [MEAN] * 3, "image_std": [STD] * 3, "size": {"height": SIDE, "width": SIDE}}
    processor = {"clip": CLIPImageProcessor, "siglip": SiglipImageProcessor}.get(name, ViTImageProcessor)
    model.save_pretrained(folder)
    processor(**options, **({"do_center_crop": False} if name == "clip" else {})).save_pretrained(folder)
    return model


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Random models of every kind, in folders."""
    root = tmp_path_factory.mktemp("models")
    return {name: (build(name, root / name), str(root / name)) for name in MODELS}


def pictures(count, size=SIDE, seed=0):
    noise = np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    return [Image.fromarray(array) for array in noise]


def pixels(images):
    """What a processor makes of pictures that have the right size already."""
    array = np.stack([np.array(image) for image in images]).transpose(0, 3, 1, 2)
    return (torch.from_numpy(array) / 255 - MEAN) / STD


def tokens(model, images):
    vision = model.vision_model if hasattr(model, "vision_model") else model
    return vision(pixel_values=pixels(images))


BY_HAND = {
    ("vit", "cls"): lambda m, x: tokens(m, x).last_hidden_state[:, 0],
    ("vit", "mean"): lambda m, x: tokens(m, x).last_hidden_state[:, 1:].sum(1),
    ("vit", "pooler"): lambda m, x: torch.tanh(m.pooler.dense(tokens(m, x).last_hidden_state[:, 0])),
    ("dinov2", "cls"): lambda m, x: tokens(m, x).last_hidden_state[:, 0],
    ("dinov2", "mean"): lambda m, x: tokens(m, x).last_hidden_state[:, 1:].sum(1),
    ("resnet", "pooler"): lambda m, x: tokens(m, x).last_hidden_state.mean((2, 3)),
    ("resnet", "mean"): lambda m, x: tokens(m, x).last_hidden_state.mean((2, 3)),
    ("convnext", "pooler"): lambda m, x: m.layernorm(tokens(m, x).last_hidden_state.mean((2, 3))),
    ("clip", "projection"): lambda m, x: m.visual_projection(tokens(m, x).pooler_output),
    ("clip", "cls"): lambda m, x: tokens(m, x).last_hidden_state[:, 0],
    ("clip", "mean"): lambda m, x: tokens(m, x).last_hidden_state[:, 1:].sum(1),
    ("siglip", "projection"): lambda m, x: tokens(m, x).pooler_output,
    ("siglip", "mean"): lambda m, x: tokens(m, x).last_hidden_state.sum(1),
}
DEFAULTS = {
    "vit": "cls",
    "dinov2": "cls",
    "resnet": "pooler",
    "convnext": "pooler",
    "clip": "projection",
    "siglip": "projection",
}


def cosines(x):
    rows = x.detach().double()
    return np.array([[float(a @ b / (a.norm() * b.norm())) for b in rows] for a in rows])


@pytest.mark.parametrize(("name", "pooling"), BY_HAND)
def test_cosines_are_those_computed_by_hand(saved, name, pooling):
    model, folder = saved[name]
    images = pictures(5)
    ours = extractors.load({"kind": "transformers", "model": folder, "pooling": pooling})(images)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours.norm(dim=-1), torch.ones(5))
    theirs = cosines(BY_HAND[name, pooling](model, images))
    assert theirs[~np.eye(5, dtype=bool)].max() < 0.9999, "they look the same to it: nothing is tested"
    np.testing.assert_allclose((ours @ ours.T).numpy(), theirs, atol=2e-5)


@pytest.mark.parametrize("name", MODELS)
def test_the_default_pooling_suits_the_model(saved, name):
    spec = {"kind": "transformers", "model": saved[name][1]}
    images = pictures(3)
    theirs = extractors.load({**spec, "pooling": DEFAULTS[name]})(images)
    torch.testing.assert_close(extractors.load(spec)(images), theirs)


@pytest.mark.parametrize("name", MODELS)
def test_an_embedding_depends_on_its_picture_alone(saved, name):
    extractor = extractors.load({"kind": "transformers", "model": saved[name][1]})
    images = [*pictures(3), *pictures(2, size=50), pictures(1)[0].resize((20, 70))]
    alone = torch.cat([extractor([image]) for image in images])
    torch.testing.assert_close(extractor(images), alone, atol=1e-5, rtol=0)
    assert torch.equal(extractor(images), extractor(images))


def test_half_precision_weights_are_used_in_full_precision(saved, tmp_path):
    MODELS["resnet"]().half().save_pretrained(tmp_path)
    ViTImageProcessor(size={"height": SIDE, "width": SIDE}).save_pretrained(tmp_path)
    embed = extractors.load({"kind": "transformers", "model": str(tmp_path)})
    assert embed(pictures(1)).dtype == torch.float32


def test_weights_that_are_missing_are_not_made_up(tmp_path):
    ViTModel(ViTConfig(**VISION), add_pooling_layer=False).save_pretrained(tmp_path)
    ViTImageProcessor(size={"height": SIDE, "width": SIDE}).save_pretrained(tmp_path)
    spec = {"kind": "transformers", "model": str(tmp_path)}
    assert extractors.load(spec)(pictures(1)).shape == (1, 24)
    message = r"lacks weights that the pooling 'pooler' needs, such as 'pooler\.dense"
    with pytest.raises(ValueError, match=message):
        extractors.load({**spec, "pooling": "pooler"})


@pytest.mark.parametrize(
    ("name", "pooling", "message"),
    [
        ("siglip", "cls", "has no class token. Give the pooling 'mean' or 'pooler'"),
        ("resnet", "cls", "has no class token"),
        ("vit", "projection", "projects nothing"),
        ("vit", "max", "Unknown pooling 'max'. Allowed: cls, mean, pooler, projection"),
    ],
)
def test_a_pooling_that_the_model_does_not_have(saved, name, pooling, message):
    with pytest.raises(ValueError, match=message):
        extractors.load({"kind": "transformers", "model": saved[name][1], "pooling": pooling})


def test_the_mini_encoder_is_a_resnet_whose_pooled_output_is_flattened(saved, monkeypatch):
    model, folder = saved["resnet"]
    monkeypatch.setattr(mini, "identity_encoder_path", lambda: folder)
    images = pictures(3)
    theirs = functional.normalize(model(pixels(images)).pooler_output.flatten(1), dim=-1)
    for spec in ("mini", {"kind": "mini"}):
        torch.testing.assert_close(extractors.load(spec)(images), theirs, atol=1e-5, rtol=0)


def test_a_function_is_an_extractor():
    rows = [[3.0, 4.0], [0.0, -2.0]]
    for found in (rows, np.array(rows), torch.tensor(rows, dtype=torch.float64)):
        embeddings = extractors.load(lambda images, found=found: found)(pictures(2))
        torch.testing.assert_close(embeddings, torch.tensor([[0.6, 0.8], [0.0, -1.0]]))
    extractor = extractors.load(np.array)
    assert extractors.load(extractor) is extractor


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([[1.0]], r"lambda.* gave \(1, 1\) for 2 pictures"),
        ([1.0, 2.0], r"gave \(2,\) for 2 pictures"),
        ([[1.0], [0.0]], "zero or not finite"),
        ([[1.0], [float("nan")]], "zero or not finite"),
        ([[1.0], [float("inf")]], "zero or not finite"),
    ],
)
def test_what_is_no_table_of_embeddings_is_refused(rows, message):
    with pytest.raises(ValueError, match=message):
        extractors.load(lambda images: rows)(pictures(2))


def test_pictures_reach_the_model_upright_opaque_and_in_rgb():
    seen = []
    extractor = extractors.load(lambda images: [seen.append(image) or [1.0] for image in images])
    lying = Image.new("RGB", (6, 4))
    lying.getexif()[0x0112] = 6
    clear = Image.new("RGBA", (2, 2), (9, 9, 9, 0))
    extractor([lying, clear, Image.new("L", (2, 2), 7), Image.new("CMYK", (2, 2))])
    assert [image.mode for image in seen] == ["RGB"] * 4
    assert seen[0].size == (4, 6)
    assert [image.getpixel((0, 0)) for image in seen[1:]] == [(255, 255, 255), (7, 7, 7), (255, 255, 255)]
    with pytest.raises(ValueError, match="mode 'F' has no fixed range"):
        extractor([Image.new("F", (2, 2))])
    with pytest.raises(ValueError, match="No picture given"):
        extractor([])


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        ("min", LookupError, "kind 'min'. Did you mean 'mini'?.* Known: mini, transformers, open_clip, timm"),
        ({"model": "x"}, LookupError, "kind None"),
        ({"kind": "transformers"}, TypeError, "'transformers' needs the argument 'model'. Allowed: m"),
        ({"kind": "timm", "model": "x", "pool": 1}, TypeError, "'timm' has no argument 'pool'. Allowed: m"),
        ({"kind": "mini", "model": "x"}, TypeError, "'mini' has no argument 'model'. Allowed: none"),
        (7, TypeError, "7"),
        ({"kind": "transformers", "model": "/nowhere/at/all"}, FileNotFoundError, "no folder '/nowhere/at"),
        ({"kind": "transformers", "model": "./nowhere"}, FileNotFoundError, "no folder './nowhere'"),
    ],
)
def test_specs_that_stand_for_nothing(spec, error, message):
    with pytest.raises(error, match=message):
        extractors.load(spec)


@pytest.mark.parametrize("kind", ["open_clip", "timm"])
def test_a_missing_package_is_named_with_its_command(kind, monkeypatch):
    real = builtins.__import__

    def missing(name, *args, **kwargs):
        if name == kind:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ModuleNotFoundError, match=rf"pip install 'diffusion-self-distillation\[{kind}\]'"):
        extractors.load({"kind": kind, "model": "x"})


def test_open_clip(tmp_path):
    open_clip = pytest.importorskip("open_clip")
    torch.manual_seed(0)
    net, _, transform = open_clip.create_model_and_transforms("ViT-S-32-alt", pretrained=None)
    torch.save(net.state_dict(), tmp_path / "weights.pt")
    images = pictures(3, size=80)
    net.eval()
    with torch.no_grad():
        theirs = cosines(net.encode_image(torch.stack([transform(image) for image in images])))
    spec = {"kind": "open_clip", "model": "ViT-S-32-alt", "pretrained": str(tmp_path / "weights.pt")}
    ours = extractors.load(spec)(images)
    np.testing.assert_allclose((ours @ ours.T).numpy(), theirs, atol=1e-4)


def test_open_clip_does_not_make_weights_up():
    pytest.importorskip("open_clip")
    with pytest.raises(ValueError, match=r"needs `pretrained`.*'ViT-B-32', one of openai, laion400m_e31"):
        extractors.load({"kind": "open_clip", "model": "ViT-B-32"})


def test_timm():
    timm = pytest.importorskip("timm")
    name = "test_vit"
    torch.manual_seed(0)
    net = timm.create_model(name, pretrained=False, num_classes=0).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(net))
    images = pictures(3, size=200)
    with torch.no_grad():
        theirs = cosines(net(torch.stack([transform(image) for image in images])))
    torch.manual_seed(0)
    ours = extractors.load({"kind": "timm", "model": name, "pretrained": False})(images)
    np.testing.assert_allclose((ours @ ours.T).numpy(), theirs, atol=1e-4)
