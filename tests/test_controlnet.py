"""`controlnet` against the classes of stock diffusers."""

from pathlib import Path

import pytest
import torch
from diffusers import FluxControlNetModel, FluxControlNetPipeline, FluxTransformer2DModel
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

from dsd import DSDPipeline, Student
from dsd.backbones import Batch, FluxBackbone, Reference, Text
from dsd.backbones.packing import grid_ids, pack, unpack
from dsd.conditioning import ControlNet
from tests.conftest import redraw

DEPTHS = [(1, 0), (0, 1), (2, 5), (1, 2), (3, 0), (2, 4), (4, 6)]


def _deep(num_layers: int = 3, num_single_layers: int = 5, **config) -> FluxTransformer2DModel:
    model = FluxTransformer2DModel(
        **{
            "in_channels": 64, "num_layers": num_layers, "num_single_layers": num_single_layers,
            "attention_head_dim": 16, "num_attention_heads": 2, "joint_attention_dim": 24,
            "pooled_projection_dim": 20, "guidance_embeds": True, "axes_dims_rope": (4, 6, 6), **config,
        }
    ).eval()  # fmt: skip
    redraw(model, torch.Generator().manual_seed(3))
    return model


@pytest.fixture
def backbone(tiny_flux: Path) -> FluxBackbone:
    """The tiny pipeline with a transformer of 3 double and 5 single blocks."""
    backbone = FluxBackbone(str(tiny_flux))
    backbone.denoiser = _deep()
    return backbone


def _case(size: tuple[int, int] = (4, 6), **dtype) -> tuple[torch.Tensor, torch.Tensor, Reference, Text]:
    generator = torch.Generator().manual_seed(1)
    x, latents = torch.randn(2, 2, 16, *size, generator=generator).to(**dtype)
    tokens, pooled = torch.randn(2, 7, 24, generator=generator), torch.randn(2, 20, generator=generator)
    text = Text(tokens=tokens.to(**dtype), pooled=pooled.to(**dtype))
    return x, torch.tensor([0.3, 0.8]), Reference(latents=latents), text


def _installed(backbone: FluxBackbone, *depth: int) -> ControlNet:
    """A network with all parameters redrawn, so that each has an effect."""
    method = ControlNet(*depth)
    method.install(backbone.denoiser)
    redraw(method.controlnet, torch.Generator().manual_seed(4))
    return method


def _by_hand(
    backbone: FluxBackbone, network: FluxControlNetModel, x, t, latents, text, guidance
) -> torch.Tensor:
    """Stock classes alone."""
    common = {
        "hidden_states": pack(x), "timestep": t, "guidance": torch.full((len(x),), guidance),
        "pooled_projections": text.pooled, "encoder_hidden_states": text.tokens,
        "txt_ids": torch.zeros(text.tokens.shape[1], 3), "img_ids": grid_ids(*x.shape[-2:]),
    }  # fmt: skip
    added = network(controlnet_cond=pack(latents), **common)
    velocity = backbone.denoiser(
        **common,
        controlnet_block_samples=added.controlnet_block_samples,
        controlnet_single_block_samples=added.controlnet_single_block_samples,
    ).sample
    return unpack(velocity, *x.shape[-2:])


@pytest.mark.parametrize("depth", DEPTHS)
@torch.no_grad()
def test_forward_equals_the_stock_classes(backbone: FluxBackbone, depth: tuple[int, int]) -> None:
    x, t, reference, text = _case()
    base = ControlNet(*depth)
    base.install(backbone.denoiser)
    assert (len(base.controlnet.transformer_blocks), len(base.controlnet.single_transformer_blocks)) == depth
    plain = unpack(backbone.call(pack(x), t, text, grid_ids(4, 6), 3.5), 4, 6)
    assert torch.equal(base.velocity(backbone, x, t, reference, text, 3.5), plain)
    method = _installed(backbone, *depth)
    ours = method.velocity(backbone, x, t, reference, text, 3.5)
    theirs = _by_hand(backbone, method.controlnet, x, t, reference.latents, text, 3.5)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(ours, plain, atol=1e-2)


@torch.no_grad()
def test_blocks_start_as_copies_of_the_bases(backbone: FluxBackbone) -> None:
    method = ControlNet(2, 1)
    method.install(backbone.denoiser)
    state = backbone.denoiser.state_dict()
    copied = {k: v for k, v in method.controlnet.state_dict().items() if not k.startswith("controlnet_")}
    assert len(copied) > 50
    assert all(torch.equal(value, state[name]) for name, value in copied.items())
    assert not any(
        value.any()
        for name, value in method.controlnet.state_dict().items()
        if name.startswith("controlnet_")
    )


def test_a_base_made_in_python_with_default_sizes_gets_the_depth_asked_for() -> None:
    """diffusers takes defaults instead of a config's values where the base was built with defaults."""
    flux = FluxTransformer2DModel(
        num_layers=2, attention_head_dim=16, num_attention_heads=2, axes_dims_rope=(4, 6, 6),
        joint_attention_dim=24, pooled_projection_dim=20,
    )  # fmt: skip
    method = ControlNet(1, 2)
    method.install(flux)
    assert len(method.controlnet.single_transformer_blocks) == 2
    assert not method.controlnet.config.guidance_embeds
    defaults = ControlNet()
    defaults.install(flux)
    assert (
        len(defaults.controlnet.transformer_blocks),
        len(defaults.controlnet.single_transformer_blocks),
    ) == (2, 10)


@pytest.mark.parametrize("depth", DEPTHS)
def test_gradients_reach_what_is_declared_and_nothing_else_could_matter(
    backbone: FluxBackbone, depth: tuple[int, int], caplog: pytest.LogCaptureFixture
) -> None:
    method = _installed(backbone, *depth)
    declared = method.trained(backbone.denoiser)
    x, t, reference, text = _case()
    backbone.denoiser.requires_grad_(False)
    method.velocity(backbone, x, t, reference, text).square().mean().backward()
    reached = {name for name, p in method.named_parameters() if p.grad is not None and p.grad.any()}
    assert reached == set(declared)
    assert all(declared[name] is p for name, p in method.named_parameters() if name in declared)
    # 5 blocks and 4 residuals: runs of 2, so the last one is never read; 4 and 6 are more than there are.
    unread = {(2, 4): "controlnet_single_blocks.3", (4, 6): "controlnet_blocks.3"}.get(depth)
    warned = [record.getMessage() for record in caplog.records if record.name.startswith("dsd")]
    assert unread in warned[0] if unread else not warned


@torch.no_grad()
def test_no_image_is_latents_of_zeros_and_not_the_base(backbone: FluxBackbone) -> None:
    method = _installed(backbone, 2, 2)
    x, t, reference, text = _case()
    nothing = method.velocity(backbone, x, t, reference.zero(), text, 2.0)
    theirs = _by_hand(backbone, method.controlnet, x, t, torch.zeros_like(x), text, 2.0)
    torch.testing.assert_close(nothing, theirs, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(nothing, method.velocity(backbone, x, t, reference, text, 2.0), atol=1e-2)


@pytest.mark.parametrize("guidance_embeds", [True, False])
def test_a_saved_student_draws_the_same_in_the_stock_pipeline(
    tiny_flux: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, guidance_embeds: bool
) -> None:
    monkeypatch.setattr(DiagonalGaussianDistribution, "sample", lambda self, generator=None: self.mode())
    backbone = FluxBackbone(str(tiny_flux))
    backbone.denoiser = _deep(guidance_embeds=guidance_embeds)
    student = Student(
        base=backbone,
        conditioning={"name": "controlnet", "num_layers": 2, "num_single_layers": 3},
        lora={"rank": 2},
        frame_size=(32, 48),
    )
    for i, parameter in enumerate(student._trained.values()):
        parameter.data += 0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(i))
    redraw(student.conditioning.controlnet, torch.Generator().manual_seed(5))
    student.save_pretrained(tmp_path)
    stock = FluxControlNetPipeline.from_pretrained(tmp_path)
    stock.set_progress_bar_config(disable=True)
    reference, prompts = torch.rand(1, 3, 32, 48), ["a red creature", "the beach"]
    theirs, ours = [], []
    stock_image = stock(
        prompts, control_image=reference * 2 - 1, height=32, width=48, num_inference_steps=4,
        guidance_scale=3.5, max_sequence_length=24, output_type="pt",
        generator=[torch.Generator().manual_seed(i) for i in (3, 4)],
        callback_on_step_end=lambda pipe, i, t, kwargs: theirs.append(kwargs["latents"]) or kwargs,
    ).images  # fmt: skip
    pipe = DSDPipeline.from_pretrained(tmp_path)
    assert (pipe.conditioning.num_layers, pipe.conditioning.num_single_layers) == (2, 3)
    image = pipe(
        image=reference, prompt=prompts, num_inference_steps=4, seed=3, output_type="pt",
        callback_on_step_end=lambda pipe, i, t, kwargs: ours.append(pack(kwargs["latents"])) or kwargs,
    ).images  # fmt: skip
    for our_step, their_step in zip(ours, theirs, strict=True):
        torch.testing.assert_close(our_step, their_step, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(image, stock_image, atol=1e-5, rtol=0)
    ours.clear()
    pipe(
        image=1 - reference, prompt=prompts, num_inference_steps=4, seed=3, output_type="pt",
        callback_on_step_end=lambda pipe, i, t, kwargs: ours.append(pack(kwargs["latents"])) or kwargs,
    )  # fmt: skip
    assert not torch.allclose(ours[-1], theirs[-1], atol=1e-2)


def test_trained_only_is_saved_without_the_base(tiny_flux: Path, tmp_path: Path) -> None:
    student = Student(base=str(tiny_flux), conditioning="controlnet", train="added")
    redraw(student.conditioning.controlnet, torch.Generator().manual_seed(7))
    student.save_pretrained(tmp_path, components="trained")
    assert {path.name for path in tmp_path.iterdir()} == {"transformer", "controlnet", "dsd.json"}
    again = DSDPipeline.from_pretrained(tmp_path, torch_dtype="bfloat16").conditioning.controlnet
    assert again.dtype == torch.bfloat16
    for name, value in student.conditioning.controlnet.state_dict().items():
        assert torch.equal(again.state_dict()[name], value.bfloat16()), name
    trained = {name for name in student.state_dict() if "controlnet" in name}
    assert trained == student.state_dict().keys() != set()


@torch.no_grad()
def test_precisions(backbone: FluxBackbone) -> None:
    """All in bfloat16; and a float32 network beside a bfloat16 base, with autocast (training) and without."""
    method = _installed(backbone, 2, 2)
    x, t, reference, text = _case()
    exact = method.velocity(backbone, x, t, reference, text, 3.5)
    backbone.denoiser.to(torch.bfloat16)
    low = {"dtype": torch.bfloat16}
    halves = _case(**low)[0], t, _case(**low)[2], _case(**low)[3]
    mixed = method.velocity(backbone, *halves, 3.5)
    with torch.autocast("cpu", torch.bfloat16):
        inputs = method.inputs(x, t, reference, text, 3.5)
        residuals = inputs.arguments["controlnet_block_samples"]
        autocast = method.velocity(backbone, x, t, reference, text, 3.5)
    assert {residual.dtype for residual in residuals} == {torch.bfloat16}
    method.controlnet.to(torch.bfloat16)
    half = method.velocity(backbone, *halves, 3.5)
    assert mixed.dtype == half.dtype == torch.bfloat16
    for result in (mixed, autocast, half):
        assert (result.float() - exact).square().mean() < 1e-3 * exact.square().mean()


def test_gradient_checkpointing_changes_no_gradient(backbone: FluxBackbone) -> None:
    method = _installed(backbone, 2, 3)
    x, t, reference, text = _case()
    gradients = []
    for _ in range(2):
        method.zero_grad()
        method.velocity(backbone, x, t, reference, text).square().mean().backward()
        gradients.append(
            {name: p.grad.clone() for name, p in method.named_parameters() if p.grad is not None}
        )
        backbone.denoiser.enable_gradient_checkpointing()
        method.enable_gradient_checkpointing()
    assert method.controlnet.gradient_checkpointing
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("size", [(32, 48), (48, 32), (64, 64), (20, 90)])
@pytest.mark.parametrize("fit", ["contain", "cover", "centre"])
def test_a_reference_of_any_aspect_comes_to_the_targets_frame(fit: str, size: tuple[int, int]) -> None:
    method = ControlNet(fit=fit)
    white = torch.ones(1, 3, *size)
    fitted = method.fitted(white, 32, 48)
    assert fitted.shape == (1, 3, 32, 48)
    assert torch.equal(method.fitted(fitted, 32, 48), fitted)
    seen = fitted[0, 0] > 0
    rows, columns = int(seen.any(1).sum()), int(seen.any(0).sum())
    scale = {"contain": min, "cover": max, "centre": lambda ratios: 1}[fit]((32 / size[0], 48 / size[1]))
    assert (rows, columns) == (min(32, round(size[0] * scale)), min(48, round(size[1] * scale)))
    top, left = seen.any(1).int().argmax(), seen.any(0).int().argmax()
    assert (top, left) == ((32 - rows) // 2, (48 - columns) // 2)
    if size == (32, 48):
        assert torch.equal(fitted, white)


def test_centring_moves_pixels_and_changes_none() -> None:
    picture = torch.rand(1, 3, 64, 16) * 2 - 1
    fitted = ControlNet(fit="centre").fitted(picture, 32, 48)
    assert torch.equal(fitted[..., 16:32], picture[:, :, 16:48])
    assert (fitted[..., [*range(16), *range(32, 48)]] == -1).all()


def test_a_student_learns_from_a_reference_of_another_aspect(backbone: FluxBackbone) -> None:
    """It has an effect on the loss, and reaches the target's token count."""
    method = _installed(backbone, 1, 1)
    reference = method.prepare([torch.rand(2, 3, 48, 16) * 2 - 1], 32, 48)
    x, t, _, text = _case()
    with torch.no_grad():
        encoded = method.encode(backbone, reference)
        assert encoded.latents.shape == x.shape
        assert not torch.allclose(
            method.velocity(backbone, x, t, encoded, text),
            method.velocity(backbone, x, t, encoded[[1, 0]], text),
        )


def test_ten_steps_of_training_use_the_reference(backbone: FluxBackbone) -> None:
    student = Student(
        base=backbone,
        conditioning={"name": "controlnet", "num_layers": 1, "num_single_layers": 1},
        train="added",
        text_dropout=0.0,
        reference_dropout=0.0,
        gradient_checkpointing=True,
    )
    x, t, reference, text = _case()
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
    assert not torch.allclose(*drawn, atol=1e-3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_layers": 0, "num_single_layers": 0}, "adds nothing"),
        ({"num_layers": -1}, "at least 0"),
    ],
)
def test_impossible_arguments_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ControlNet(**arguments)


def test_misuse_is_refused(backbone: FluxBackbone, tmp_path: Path) -> None:
    x, t, reference, text = _case()
    method = ControlNet()
    with pytest.raises(ValueError, match="Call `install` or `restore` first"):
        method.inputs(x, t, reference, text)
    method.install(backbone.denoiser)
    with pytest.raises(ValueError, match="installed already"):
        method.install(backbone.denoiser)
    with pytest.raises(ValueError, match=r"canvas' size.*\(2, 16, 6, 4\)"):
        method.inputs(x, t, Reference(latents=x.mT), text)
    with pytest.raises(ValueError, match="128 input and 64 output"):
        ControlNet().install(_deep(1, 1, in_channels=128, out_channels=64))
    with pytest.raises(FileNotFoundError, match="no folder 'controlnet'"):
        ControlNet().restore(backbone.denoiser, tmp_path)
    method.save(tmp_path)
    with pytest.raises(ValueError, match="'joint_attention_dim': 32"):
        ControlNet().restore(_deep(1, 1, joint_attention_dim=32), tmp_path)
    union = FluxControlNetModel.from_config(
        {**method.controlnet.config, "num_mode": 3, "_use_default_values": []}
    )
    union.save_pretrained(tmp_path / "controlnet")
    with pytest.raises(ValueError, match="control mode"):
        ControlNet().restore(backbone.denoiser, tmp_path)
