"""`ip_adapter` against stock diffusers, with small vision models of every kind, made here."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from diffusers import FluxPipeline, FluxTransformer2DModel
from diffusers.models.embeddings import (
    ImageProjection,
    IPAdapterPlusImageProjection,
    MultiIPAdapterImageProjection,
)
from diffusers.models.transformers.transformer_flux import FluxIPAdapterAttnProcessor
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    AutoImageProcessor,
    BitImageProcessor,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    Dinov2Config,
    Dinov2Model,
    SiglipImageProcessor,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from dsd import DSDPipeline, Student, mini
from dsd.backbones import Batch, FluxBackbone, Reference, Text
from dsd.backbones.packing import grid_ids, pack, unpack
from dsd.conditioning import IPAdapter, vision
from dsd.pixels import from_pixels
from tests.conftest import redraw

SIZES = {"hidden_size": 20, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Folders with random vision models of 32 px and their processors."""
    clip = CLIPVisionConfig(**SIZES, image_size=32, patch_size=8, projection_dim=12)
    models = {
        "clip": (
            CLIPVisionModelWithProjection(clip),
            CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}),
        ),
        "clip_towers": (
            CLIPModel(CLIPConfig(vision_config=clip.to_dict(), text_config=SIZES, projection_dim=12)),
            CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}),
        ),
        "dinov2": (
            Dinov2Model(
                Dinov2Config(
                    hidden_size=20, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=7
                )
            ),
            BitImageProcessor(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}),
        ),
        "siglip": (
            SiglipVisionModel(SiglipVisionConfig(**SIZES, image_size=32, patch_size=8)),
            SiglipImageProcessor(size={"height": 32, "width": 32}),
        ),
    }
    folder = tmp_path_factory.mktemp("encoders")
    for i, (name, (model, processor)) in enumerate(models.items()):
        redraw(model, torch.Generator().manual_seed(i))
        model.save_pretrained(folder / name)
        processor.save_pretrained(folder / name)
    return {name: str(folder / name) for name in models}


@pytest.fixture
def backbone(tiny_flux: Path) -> FluxBackbone:
    """The tiny pipeline with a transformer of 3 double blocks."""
    backbone = FluxBackbone(str(tiny_flux))
    backbone.denoiser = _flux()
    return backbone


def _flux(**config: Any) -> FluxTransformer2DModel:
    arguments = {
        "in_channels": 64, "num_layers": 3, "num_single_layers": 1, "attention_head_dim": 16,
        "num_attention_heads": 2, "joint_attention_dim": 24, "pooled_projection_dim": 20,
        "guidance_embeds": True, "axes_dims_rope": (4, 6, 6), **config,
    }  # fmt: skip
    model = FluxTransformer2DModel(**arguments).eval()
    redraw(model, torch.Generator().manual_seed(3))
    return model


def _installed(backbone: FluxBackbone, **arguments: Any) -> IPAdapter:
    """An adapter whose parameters all have an effect."""
    method = IPAdapter(**arguments)
    method.install(backbone.denoiser)
    _redraw(method, backbone)
    return method


def _redraw(method: IPAdapter, backbone: FluxBackbone) -> None:
    redraw(method.image_proj, torch.Generator().manual_seed(4))
    for i, module in enumerate(_processors(backbone.denoiser)):
        redraw(module, torch.Generator().manual_seed(10 + i))


def _processors(denoiser: Any) -> list[FluxIPAdapterAttnProcessor]:
    return [p for p in denoiser.attn_processors.values() if isinstance(p, FluxIPAdapterAttnProcessor)]


def _case(method: IPAdapter, backbone: FluxBackbone, references: int = 1) -> tuple[Any, ...]:
    generator = torch.Generator().manual_seed(1)
    pictures = torch.rand(references, 2, 3, 4, 6, generator=generator).mul(2).sub(1)
    pictures = pictures.repeat_interleave(8, -1).repeat_interleave(8, -2)  # an encoder tells noises not apart
    reference = method.encode(backbone, method.prepare(list(pictures), 32, 48))
    x = torch.randn(2, 16, 4, 6, generator=generator)
    tokens, pooled = torch.randn(2, 7, 24, generator=generator), torch.randn(2, 20, generator=generator)
    return x, torch.tensor([0.3, 0.8]), reference, Text(tokens=tokens, pooled=pooled)


def stock_ip_adapter(pipe: FluxPipeline, folder: Path) -> FluxPipeline:
    """A saved adapter attached to the folder's stock pipeline by diffusers' classes alone, as in the docs."""
    state = load_file(folder / "ip_adapter.safetensors")
    if "ip_adapter_proj_model.proj.weight" in state:
        pipe.load_ip_adapter(
            folder,
            weight_name="ip_adapter.safetensors",
            image_encoder_pretrained_model_name_or_path=None,
        )
        return pipe
    flux, resampler = pipe.transformer, {}
    for name in [name for name in state if name.startswith("image_proj.")]:
        resampler[name.removeprefix("image_proj.")] = state.pop(name)
    width, embed = resampler["proj_in.weight"].shape
    projection = IPAdapterPlusImageProjection(
        embed_dims=embed,
        output_dims=flux.config.joint_attention_dim,
        hidden_dims=width,
        depth=sum(name.endswith("ln0.weight") for name in resampler),
        dim_head=64,
        heads=width // 64,
        num_queries=resampler["latents"].shape[1],
    )
    projection.load_state_dict(resampler)
    processors = dict(flux.attn_processors)
    for i in range(flux.config.num_layers):
        processor = FluxIPAdapterAttnProcessor(flux.inner_dim, flux.config.joint_attention_dim)
        layers = {f"to_{x}_ip.0": f"ip_adapter_double_stream_{x}_proj" for x in "kv"}
        processor.load_state_dict(
            {
                f"{ours}.{leaf}": state[f"double_blocks.{i}.processor.{theirs}.{leaf}"]
                for ours, theirs in layers.items()
                for leaf in ("weight", "bias")
            }
        )
        processors[f"transformer_blocks.{i}.attn.processor"] = processor
    flux.set_attn_processor(processors)
    flux.encoder_hid_proj = MultiIPAdapterImageProjection([projection])
    return pipe


def _student(backbone: FluxBackbone, **arguments: Any) -> Student:
    student = Student(
        base=backbone,
        conditioning={"name": "ip_adapter", **arguments},
        lora={"rank": 2},
        frame_size=(32, 48),
    )
    for i, parameter in enumerate(student._trained.values()):
        parameter.data += 0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(i))
    _redraw(student.conditioning, backbone)
    return student


def _stock(folder: Path, **arguments: Any) -> FluxPipeline:
    pipe = stock_ip_adapter(FluxPipeline.from_pretrained(folder, **arguments), folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _drawn(pipe: Any, **arguments: Any) -> list[torch.Tensor]:
    steps: list[torch.Tensor] = []

    def note(pipe: Any, i: int, t: Any, kwargs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        latents = kwargs["latents"]
        steps.append(latents if latents.ndim == 3 else pack(latents))
        return kwargs

    result = pipe(num_inference_steps=4, guidance_scale=3.5, callback_on_step_end=note, **arguments)
    return [*steps, torch.as_tensor(np.asarray(result.images, dtype=np.float32))]


def _same(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> None:
    assert len(ours) == len(theirs) == 5
    for our_step, their_step in zip(ours, theirs, strict=True):
        torch.testing.assert_close(our_step, their_step, atol=1e-5, rtol=1e-5)


# --- what the encoders give


def test_patch_tokens_of_transformers_models(encoders: dict[str, str]) -> None:
    pixels = torch.rand(2, 3, 40, 40) * 2 - 1
    kinds = {"clip": 17, "clip_towers": 17, "dinov2": 17, "siglip": 16}
    loaders = {"clip": CLIPVisionModelWithProjection, "dinov2": Dinov2Model, "siglip": SiglipVisionModel}
    for name, count in kinds.items():
        encoder = vision.load(encoders[name], "patch")
        tokens = encoder(pixels, torch.device("cpu"))
        assert tokens.shape == (2, count, 20) == (2, count, vision.width(encoders[name], "patch"))
        if name in loaders:
            inputs = AutoImageProcessor.from_pretrained(encoders[name])(
                from_pixels(pixels, "pil"), return_tensors="pt"
            )
            with torch.no_grad():
                output = loaders[name].from_pretrained(encoders[name])(**inputs, output_hidden_states=True)
            torch.testing.assert_close(tokens, output.last_hidden_state)
            earlier = vision.load({"model": encoders[name], "layer": -2}, "patch")
            torch.testing.assert_close(earlier(pixels, torch.device("cpu")), output.hidden_states[-2])
        assert not any(p.requires_grad for p in encoder.model.parameters())
        assert not encoder.model.training


def test_pooled_vectors(encoders: dict[str, str]) -> None:
    pixels, cpu = torch.rand(2, 3, 40, 40) * 2 - 1, torch.device("cpu")
    widths = {"clip": 12, "clip_towers": 12, "dinov2": 20, "siglip": 20}
    for name, width in widths.items():
        pooled = vision.load(encoders[name], "pooled")(pixels, cpu)
        assert pooled.shape == (2, 1, width) == (2, 1, vision.width(encoders[name], "pooled"))
    inputs = AutoImageProcessor.from_pretrained(encoders["clip"])(
        from_pixels(pixels, "pil"), return_tensors="pt"
    )
    with torch.no_grad():
        theirs = CLIPVisionModelWithProjection.from_pretrained(encoders["clip"])(**inputs).image_embeds
    torch.testing.assert_close(vision.load(encoders["clip"], "pooled")(pixels, cpu)[:, 0], theirs)


def test_mini_gives_a_map_of_the_embedded_encoder_and_its_vector() -> None:
    pixels = torch.rand(2, 3, 64, 64) * 2 - 1
    patch = vision.load("mini", "patch")
    assert patch(pixels, torch.device("cpu")).shape == (2, 16, vision.width("mini", "patch"))
    given = patch.prepare(from_pixels(pixels, "pil"))
    with torch.no_grad():
        feature_map = patch.model(given, output_hidden_states=True).hidden_states[-2]
    rows = torch.stack([feature_map[:, :, i, j] for i in range(4) for j in range(4)], dim=1)
    torch.testing.assert_close(patch(pixels, torch.device("cpu")), rows)
    pooled = vision.load("mini", "pooled")(pixels, torch.device("cpu"))
    assert pooled.shape == (2, 1, vision.width("mini", "pooled"))
    extractor = pytest.importorskip("dsd.extractors").load("mini", device="cpu")
    theirs = extractor(from_pixels(pixels, "pil"))
    torch.testing.assert_close(nn.functional.normalize(pooled[:, 0], dim=-1), theirs, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["test_vit", "test_convnext", "swin_s3_tiny_224"])
def test_timm_models(name: str, tmp_path: Path) -> None:
    spec = {"kind": "timm", "model": name, "pretrained": False}
    encoder = vision.load(spec, "patch")
    tokens = encoder(torch.rand(1, 3, 40, 40) * 2 - 1, torch.device("cpu"))
    assert tokens.shape[-1] == encoder.width == encoder.model.num_features
    assert tokens.shape[1] > 1
    assert encoder.components == {}
    pooled = vision.load(spec, "pooled")(torch.rand(1, 3, 40, 40), torch.device("cpu"))
    assert pooled.shape == (1, 1, encoder.width)


def test_a_timm_folder(backbone: FluxBackbone, tmp_path: Path) -> None:
    model = timm.create_model("test_vit", pretrained=False)
    redraw(model, torch.Generator().manual_seed(2))
    timm.models.save_for_hf(model, tmp_path, safe_serialization=True)
    method = _installed(backbone, encoder={"kind": "timm", "model": f"local-dir:{tmp_path}"})
    x, t, reference, text = _case(method, backbone)
    with torch.no_grad():
        pictures = torch.rand(2, 3, 32, 48) * 2 - 1
        transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
        given = torch.stack([transform(picture) for picture in from_pixels(pictures, "pil")])
        tokens = method.encode(backbone, pictures).tokens
        torch.testing.assert_close(tokens, model.eval().forward_features(given))
        assert not torch.allclose(
            method.velocity(backbone, x, t, reference, text),
            method.velocity(backbone, x, t, reference[[1, 0]], text),
            atol=1e-3,
        )


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        ({"kind": "tim", "model": "vit"}, LookupError, "Known: transformers, timm"),
        ({"kind": "timm"}, TypeError, "needs the argument 'model'"),
        ({"model": "mini", "pooling": "cls"}, TypeError, "has no argument 'pooling'"),
        ({"model": "mini", "layer": 2}, ValueError, "counts from the last"),
        ("./no/such/folder", FileNotFoundError, "There is no folder"),
    ],
)
def test_impossible_encoders_are_refused(spec: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        vision.load(spec, "patch")
    with pytest.raises(error, match=message):
        vision.width(spec, "patch")


def test_weights_that_transformers_would_make_up_are_refused(
    encoders: dict[str, str], tmp_path: Path
) -> None:
    for path in Path(encoders["clip"]).iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    state = load_file(tmp_path / "model.safetensors")
    del state["visual_projection.weight"]
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"visual_projection\.weight.*'patch'"):
        vision.load(str(tmp_path), "pooled")
    assert vision.load(str(tmp_path), "patch").width == 20


# --- the adapter


@pytest.mark.parametrize("arguments", [{}, {"tokens": "pooled"}, {"num_tokens": 1, "depth": 1, "width": 128}])
@torch.no_grad()
def test_forward_equals_the_stock_classes(backbone: FluxBackbone, arguments: dict[str, Any]) -> None:
    method = IPAdapter(**arguments)
    x, t, reference, text = _case(method, backbone)
    plain = unpack(backbone.call(pack(x), t, text, grid_ids(4, 6), 3.5), 4, 6)
    method.install(backbone.denoiser)
    assert torch.equal(method.velocity(backbone, x, t, reference, text, 3.5), plain)
    _redraw(method, backbone)
    pooled = method.form == "pooled"
    assert type(method.image_proj) is (ImageProjection if pooled else IPAdapterPlusImageProjection)
    flux = backbone.denoiser
    flux.encoder_hid_proj = MultiIPAdapterImageProjection([method.image_proj])  # as load_ip_adapter sets it
    theirs = flux(
        hidden_states=pack(x), timestep=t, guidance=torch.full((2,), 3.5), pooled_projections=text.pooled,
        encoder_hidden_states=text.tokens, txt_ids=torch.zeros(7, 3), img_ids=grid_ids(4, 6),
        joint_attention_kwargs={
            "ip_adapter_image_embeds": [reference.tokens if pooled else reference.tokens[:, None]]
        },
    ).sample  # fmt: skip
    ours = method.velocity(backbone, x, t, reference, text, 3.5)
    torch.testing.assert_close(ours, unpack(theirs, 4, 6), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(ours, plain, atol=1e-2)


@pytest.mark.parametrize("arguments", [{}, {"tokens": "pooled"}, {"num_tokens": 3, "depth": 3}])
def test_gradients_reach_what_is_declared(backbone: FluxBackbone, arguments: dict[str, Any]) -> None:
    method = _installed(backbone, **arguments)
    declared = method.trained(backbone.denoiser)
    x, t, reference, text = _case(method, backbone)
    backbone.denoiser.requires_grad_(False)
    for parameter in declared.values():
        parameter.requires_grad_(True)
    method.velocity(backbone, x, t, reference, text).square().mean().backward()
    own = dict(backbone.denoiser.named_parameters()) | dict(method.named_parameters())
    assert all(own[name] is parameter for name, parameter in declared.items())
    reached = {name for name, p in own.items() if p.grad is not None and p.grad.abs().max() > 1e-7}
    assert reached == set(declared)
    biases = {name for name in own if name.endswith("to_k_ip.0.bias")}
    assert len(biases) == 3  # without effect: a shift of all scores alike
    assert biases | set(declared) == {name for name in own if "_ip." in name or "image_proj" in name}


@torch.no_grad()
def test_no_image_is_encoder_tokens_of_zeros_through_the_projection(backbone: FluxBackbone) -> None:
    method = _installed(backbone)
    x, t, reference, text = _case(method, backbone)
    given = method.inputs(x, t, reference.zero(), text).arguments["joint_attention_kwargs"]
    projected = method.image_proj(torch.zeros_like(reference.tokens))
    assert torch.equal(given["ip_hidden_states"][0], projected)
    assert torch.equal(projected[0], projected[1])
    masked = reference.masked(torch.tensor([True, False]))
    both = method.velocity(backbone, x, t, masked, text)
    torch.testing.assert_close(both[0], method.velocity(backbone, x, t, reference, text)[0])
    torch.testing.assert_close(both[1], method.velocity(backbone, x, t, reference.zero(), text)[1])


@pytest.mark.parametrize("form", ["patch", "pooled"])
@torch.no_grad()
def test_several_references_in_any_order(backbone: FluxBackbone, form: str) -> None:
    method = _installed(backbone, tokens=form)
    x, t, two, text = _case(method, backbone, references=2)
    _, _, one, _ = _case(method, backbone, references=1)
    count = one.tokens.shape[1]
    assert two.tokens.shape[1] == 2 * count
    torch.testing.assert_close(two.tokens[:, :count], one.tokens)
    swapped = Reference(tokens=two.tokens.roll(count, dims=1))
    ours = method.velocity(backbone, x, t, two, text)
    torch.testing.assert_close(ours, method.velocity(backbone, x, t, swapped, text), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(ours, method.velocity(backbone, x, t, one, text), atol=1e-3)
    alone = method.velocity(backbone, x[1:], t[1:], two[1], text[1])
    torch.testing.assert_close(ours[1:], alone, atol=1e-5, rtol=1e-5)


# --- saved, and stock


def test_pooled_student_draws_the_same_in_stock_pipeline_from_a_picture(
    backbone: FluxBackbone, encoders: dict[str, str], tmp_path: Path
) -> None:
    student = _student(backbone, encoder=encoders["clip"], tokens="pooled")
    student.save_pretrained(tmp_path)
    stock = _stock(tmp_path)
    assert type(stock.image_encoder) is CLIPVisionModelWithProjection
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 48, 3), dtype=np.uint8))
    arguments = {"prompt": ["a red creature"], "output_type": "np", "height": 32, "width": 48}
    theirs = _drawn(
        stock, ip_adapter_image=picture, max_sequence_length=24, generator=torch.manual_seed(3), **arguments
    )
    pipe = DSDPipeline.from_pretrained(tmp_path)
    _same(_drawn(pipe, image=picture, generator=torch.manual_seed(3), **arguments), theirs)
    flipped = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    other = _drawn(pipe, image=flipped, generator=torch.manual_seed(3), **arguments)
    assert not torch.allclose(other[3], theirs[3], atol=1e-3)


@pytest.mark.parametrize("encoder", ["siglip", "dinov2", "mini"])
def test_patch_student_draws_the_same_with_diffusers_classes_alone(
    backbone: FluxBackbone, encoders: dict[str, str], tmp_path: Path, encoder: str
) -> None:
    student = _student(backbone, encoder=encoders.get(encoder, encoder))
    student.save_pretrained(tmp_path)
    stock = _stock(tmp_path)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 48, 3), dtype=np.uint8))
    pixels = stock.feature_extractor(picture, return_tensors="pt").pixel_values
    with torch.no_grad():
        output = stock.image_encoder(pixels, output_hidden_states=True)
    tokens = output.last_hidden_state
    if encoder == "mini":
        tokens = output.hidden_states[-2].flatten(2).transpose(1, 2)
    arguments = {"prompt": ["a red creature"], "output_type": "np", "height": 32, "width": 48}
    theirs = _drawn(
        stock, ip_adapter_image_embeds=[tokens[:, None]],
        negative_ip_adapter_image_embeds=[torch.zeros_like(tokens[:, None])],
        max_sequence_length=24, generator=torch.manual_seed(3), **arguments,
    )  # fmt: skip
    pipe = DSDPipeline.from_pretrained(tmp_path)
    _same(_drawn(pipe, image=picture, generator=torch.manual_seed(3), **arguments), theirs)


def test_sixteen_pooled_tokens_load_in_stock_where_the_text_is_as_wide_as_flux(tmp_path: Path) -> None:
    backbone = FluxBackbone.__new__(FluxBackbone)
    nn.Module.__init__(backbone)
    backbone.denoiser = _flux(joint_attention_dim=4096)
    method = _installed(backbone, encoder="mini", tokens="pooled", num_tokens=16)
    method.save(tmp_path)
    stock = FluxPipeline(None, None, None, None, None, None, transformer=_flux(joint_attention_dim=4096))
    stock_ip_adapter(stock, tmp_path)
    assert stock.transformer.encoder_hid_proj.image_projection_layers[0].num_image_text_embeds == 16
    tokens = torch.randn(2, 1, 160)
    theirs = stock.transformer.encoder_hid_proj([tokens])[0]
    ours = method.inputs(
        torch.randn(2, 16, 4, 6), torch.rand(2), Reference(tokens=tokens),
        Text(tokens=torch.zeros(2, 1, 4096), pooled=torch.zeros(2, 20)),
    ).arguments["joint_attention_kwargs"]["ip_hidden_states"][0]  # fmt: skip
    torch.testing.assert_close(ours, theirs.flatten(1, 2))
    for ours_, theirs_ in zip(_processors(backbone.denoiser), _processors(stock.transformer), strict=True):
        for name, value in ours_.state_dict().items():
            assert torch.equal(theirs_.state_dict()[name], value), name


def test_sixteen_pooled_tokens_elsewhere_are_warned_of(
    backbone: FluxBackbone, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "dsd"):
        IPAdapter(tokens="pooled", num_tokens=16).install(backbone.denoiser)
    assert "only if the text is 4096 wide" in caplog.text


def test_the_saved_transformer_is_plain_and_the_file_holds_the_rest(
    backbone: FluxBackbone, tmp_path: Path
) -> None:
    student = _student(backbone)
    student.save_pretrained(tmp_path, components="trained")
    _, report = FluxTransformer2DModel.from_pretrained(tmp_path / "transformer", output_loading_info=True)
    assert not any(report.values())
    saved = load_file(tmp_path / "ip_adapter.safetensors")
    own = {name for name, _ in student.named_parameters() if "_ip." in name or "image_proj" in name}
    assert len(saved) == len(own)
    x, t, reference, text = _case(student.conditioning, backbone)
    pipe = DSDPipeline.from_pretrained(tmp_path)
    assert pipe.conditioning.encode(pipe.backbone, torch.zeros(1, 3, 32, 48)).tokens.shape[1:] == (16, 96)
    with torch.no_grad():
        torch.testing.assert_close(
            pipe.conditioning.velocity(pipe.backbone, x, t, reference, text),
            student.conditioning.velocity(backbone, x, t, reference, text),
            atol=1e-5, rtol=1e-5,
        )  # fmt: skip


def test_a_saved_folder_needs_no_other_encoder(
    backbone: FluxBackbone, encoders: dict[str, str], tmp_path: Path
) -> None:
    elsewhere = tmp_path / "encoder"
    elsewhere.mkdir()
    for path in Path(encoders["dinov2"]).iterdir():
        (elsewhere / path.name).write_bytes(path.read_bytes())
    student = _student(backbone, encoder={"model": str(elsewhere), "layer": -2})
    picture = torch.rand(1, 3, 32, 48) * 2 - 1
    before = student.conditioning.encode(backbone, picture).tokens
    student.save_pretrained(tmp_path / "out")
    for path in elsewhere.iterdir():
        path.unlink()
    pipe = DSDPipeline.from_pretrained(tmp_path / "out")
    torch.testing.assert_close(pipe.conditioning.encode(pipe.backbone, picture).tokens, before)


def test_checkpoints_hold_no_encoder_and_no_base(backbone: FluxBackbone) -> None:
    student = _student(backbone)
    student.conditioning.encode(backbone, torch.zeros(1, 3, 32, 32))
    assert set(student.state_dict()) == set(student._trained)
    outside = {name for name in student.state_dict() if name.startswith("conditioning.")}
    assert outside == {name for name, _ in student.named_parameters() if name.startswith("conditioning.")}
    assert all(name.startswith("conditioning.image_proj.") for name in outside)


def test_ten_steps_of_training_use_the_reference(backbone: FluxBackbone) -> None:
    student = Student(
        base=backbone,
        conditioning="ip_adapter",
        train="added",
        text_dropout=0.0,
        reference_dropout=0.0,
        gradient_checkpointing=True,
    )
    x, t, reference, text = _case(student.conditioning, backbone)
    batch = Batch(ids=["a", "b"], reference=reference, target=torch.randn(2, 16, 4, 6), text=text)
    before = {name: p.clone() for name, p in student.named_parameters()}
    optimizer = torch.optim.AdamW(student._trained.values(), lr=1e-2)
    for step in range(10):
        optimizer.zero_grad()
        student.losses(batch, torch.Generator().manual_seed(step))[0].backward()
        optimizer.step()
    changed = {name for name, p in student.named_parameters() if not torch.equal(p, before[name])}
    assert changed == set(student._trained)
    with torch.no_grad():
        drawn = [
            student.conditioning.velocity(backbone, x, t, r, text) for r in (reference, reference[[1, 0]])
        ]
    assert (drawn[0] - drawn[1]).abs().max() > 1e-5  # float32 alone would differ by 1e-6


def test_gradient_checkpointing_changes_no_gradient(backbone: FluxBackbone) -> None:
    method = _installed(backbone)
    x, t, reference, text = _case(method, backbone)
    trained, gradients = method.trained(backbone.denoiser), []
    for _ in range(2):
        for parameter in trained.values():
            parameter.grad = None
        method.velocity(backbone, x, t, reference, text).square().mean().backward()
        gradients.append({name: p.grad.clone() for name, p in trained.items()})
        backbone.denoiser.enable_gradient_checkpointing()
        method.enable_gradient_checkpointing()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("form", ["patch", "pooled"])
@torch.no_grad()
def test_precisions(backbone: FluxBackbone, form: str) -> None:
    """All in bfloat16, and float32 adapters on a bfloat16 base under autocast, as in training."""
    method = _installed(backbone, tokens=form)
    x, t, reference, text = _case(method, backbone)
    exact = method.velocity(backbone, x, t, reference, text, 3.5)
    backbone.denoiser.to(torch.bfloat16)
    for processor in _processors(backbone.denoiser):
        processor.float()
    with torch.autocast("cpu", torch.bfloat16):
        autocast = method.velocity(backbone, x, t, reference, text, 3.5)
    backbone.denoiser.to(torch.bfloat16)
    low = [value.to(dtype=torch.bfloat16) for value in (x, reference, text)]
    half = method.velocity(backbone, low[0], t, *low[1:], 3.5)
    assert half.dtype == torch.bfloat16
    for result in (autocast, half):
        assert (result.float() - exact).square().mean() < 1e-3 * exact.square().mean()


def test_the_default_encoder_follows_the_base(
    backbone: FluxBackbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(vision, "width", lambda spec, form: asked.append(spec) or 64)
    IPAdapter().install(_flux())
    IPAdapter().install(_flux(joint_attention_dim=4096))
    assert asked == ["mini", "google/siglip-so400m-patch14-384"]
    cached = IPAdapter()
    assert cached.encode(backbone, torch.zeros(1, 3, 32, 32)).tokens.shape == (1, 16, 96)
    assert mini.identity_encoder_path().is_dir()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tokens": "pooled", "num_tokens": 8}, "4 or 16 tokens"),
        ({"width": 100}, "multiple of 64"),
        ({"depth": 0}, "must be positive"),
        ({"num_tokens": -1}, "must be positive"),
        ({"num_tokens": 0}, "must be positive"),
    ],
)
def test_impossible_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        IPAdapter(**arguments)


def test_misuse_is_refused(backbone: FluxBackbone, tmp_path: Path) -> None:
    method = IPAdapter()
    x, t, reference, text = _case(method, backbone)
    with pytest.raises(ValueError, match="Call `install` or `restore` first"):
        method.inputs(x, t, reference, text)
    method.install(backbone.denoiser)
    with pytest.raises(ValueError, match="has an IP-Adapter already"):
        IPAdapter().install(backbone.denoiser)
    with pytest.raises(FileNotFoundError, match=r"no ip_adapter\.safetensors"):
        IPAdapter().restore(_flux(), tmp_path)
    method.save(tmp_path)
    with pytest.raises(ValueError, match="form tokens='patch', not 'pooled'"):
        IPAdapter(tokens="pooled").restore(_flux(), tmp_path)
    for wrong in (
        {"num_layers": 2},
        {"num_layers": 4},
        {"num_attention_heads": 3},
        {"joint_attention_dim": 32},
    ):
        with pytest.raises(ValueError, match="does not fit a denoiser"):
            IPAdapter().restore(_flux(**wrong), tmp_path)
