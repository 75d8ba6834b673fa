"""`parallel` is the released model: stock diffusers classes are the oracle."""

from pathlib import Path

import pytest
import torch
from diffusers import FluxControlPipeline, FluxPipeline, FluxTransformer2DModel
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from torch import nn

from dsd import DSDPipeline
from dsd.backbones import FluxBackbone, Reference
from dsd.backbones.packing import grid_ids, pack, unpack
from dsd.conditioning import Parallel


@pytest.fixture
def trained(tiny_flux: Path) -> tuple[FluxBackbone, Parallel]:
    """A backbone with the conditioning installed and its new weights no longer zero."""
    backbone, method = FluxBackbone(str(tiny_flux)), Parallel()
    method.install(backbone.denoiser)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        weight = backbone.denoiser.x_embedder.weight
        weight[:, 64:] = torch.randn(weight[:, 64:].shape, generator=generator) / 8
    return backbone, method


def _wide_stock(backbone: FluxBackbone) -> FluxTransformer2DModel:
    stock = FluxTransformer2DModel.from_config(
        {**backbone.denoiser.config, "in_channels": 128, "out_channels": 64}
    )
    stock.load_state_dict(backbone.denoiser.state_dict(), strict=True)
    return stock.eval()


def _stock_pipeline(backbone: FluxBackbone, folder: Path) -> FluxControlPipeline:
    pipe = FluxControlPipeline.from_pretrained(folder, transformer=_wide_stock(backbone))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_forward_equals_the_stock_class_on_joined_channels(trained: tuple[FluxBackbone, Parallel]) -> None:
    backbone, method = trained
    x, condition = torch.randn(2, 2, 16, 4, 12)
    text, t = backbone.encode_text(["a red creature", "the beach"]), torch.tensor([0.25, 0.9])
    with torch.no_grad():
        theirs = _wide_stock(backbone)(
            hidden_states=torch.cat([pack(x), pack(condition)], dim=-1),
            encoder_hidden_states=text.tokens,
            pooled_projections=text.pooled,
            timestep=t,
            guidance=torch.tensor([3.5, 3.5]),
            img_ids=FluxPipeline._prepare_latent_image_ids(2, 2, 6, torch.device("cpu"), torch.float32),
            txt_ids=torch.zeros(24, 3),
        ).sample
        ours = method.velocity(backbone, x, t, Reference(latents=condition), text, 3.5)
    torch.testing.assert_close(pack(ours), theirs, atol=1e-5, rtol=0)


def test_forward_equals_the_release_with_its_second_embedder(
    trained: tuple[FluxBackbone, Parallel], tiny_flux: Path
) -> None:
    """The release adds `c_embedder(condition)` to `x_embedder(noisy)`, token by token, with a bias of its
    own.
    """
    backbone, method = trained
    released = FluxTransformer2DModel.from_pretrained(tiny_flux, subfolder="transformer")
    c_embedder = nn.Linear(64, 32)
    with torch.no_grad():
        c_embedder.weight.copy_(backbone.denoiser.x_embedder.weight[:, 64:])
        backbone.denoiser.x_embedder.bias += c_embedder.bias
        x, condition = torch.randn(2, 2, 16, 4, 12)
        released.x_embedder.register_forward_hook(
            lambda layer, args, output: output + c_embedder(pack(condition))
        )
        text, t = backbone.encode_text(["a red creature", "the beach"]), torch.tensor([0.25, 0.9])
        theirs = released(
            hidden_states=pack(x), encoder_hidden_states=text.tokens, pooled_projections=text.pooled,
            timestep=t,
            guidance=torch.ones(2), img_ids=grid_ids(4, 12), txt_ids=torch.zeros(24, 3),
        ).sample  # fmt: skip
        ours = method.velocity(backbone, x, t, Reference(latents=condition), text, 1.0)
    torch.testing.assert_close(ours, unpack(theirs, 4, 12), atol=1e-5, rtol=0)


def test_every_step_equals_the_stock_pipeline(
    trained: tuple[FluxBackbone, Parallel], tiny_flux: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone, method = trained
    monkeypatch.setattr(DiagonalGaussianDistribution, "sample", lambda self, generator=None: self.mode())
    reference = torch.rand(2, 3, 32, 32)
    prompts = ["a red creature", "the beach"]
    theirs, ours = [], []
    stock = _stock_pipeline(backbone, tiny_flux)
    stock_image = stock(
        prompts,
        control_image=torch.cat([reference, torch.zeros_like(reference)], dim=-1) * 2 - 1,
        height=32, width=64, num_inference_steps=5, guidance_scale=3.5, max_sequence_length=24,
        generator=[torch.Generator().manual_seed(i) for i in (3, 4)], output_type="pt",
        callback_on_step_end=lambda pipe, i, t, kwargs: theirs.append(kwargs["latents"]) or kwargs,
    ).images  # fmt: skip
    result = DSDPipeline(backbone, method)(
        image=reference, prompt=prompts, height=32, width=32, num_inference_steps=5, seed=3, output_type="pt",
        return_both_frames=True,
        callback_on_step_end=lambda pipe, i, t, kwargs: ours.append(pack(kwargs["latents"])) or kwargs,
    )  # fmt: skip
    assert len(ours) == len(theirs) == 5
    for our_step, their_step in zip(ours, theirs, strict=True):
        torch.testing.assert_close(our_step, their_step, atol=1e-5, rtol=0)
    torch.testing.assert_close(result.images, stock_image[..., 32:], atol=1e-5, rtol=0)
    torch.testing.assert_close(result.references, stock_image[..., :32], atol=1e-5, rtol=0)


def test_encoding_is_that_of_the_joint_canvas(trained: tuple[FluxBackbone, Parallel]) -> None:
    backbone, method = trained
    reference, target = torch.rand(2, 2, 3, 32, 32) * 2 - 1
    condition = method.encode(backbone, reference).latents
    joint = backbone.encode_image(torch.cat([reference, torch.full_like(reference, -1)], dim=-1))
    assert torch.equal(condition, joint)
    pair = backbone.encode_image(torch.cat([reference, target], dim=-1))
    assert torch.equal(method.encode_target(backbone, reference, target), pair[..., 4:])
    alone = backbone.encode_image(target)
    assert not torch.allclose(alone, pair[..., 4:], atol=1e-3)
    canvas = method.canvas(Reference(latents=condition), pair[..., 4:])
    assert torch.equal(canvas[..., :4], condition[..., :4])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_installation_is_exact_in_sizes_of_the_real_model(dtype: torch.dtype) -> None:
    narrow = nn.Linear(64, 3072).to(dtype)
    holder = FluxTransformer2DModel(num_layers=0, num_single_layers=0, num_attention_heads=1)
    holder.x_embedder = narrow
    Parallel().install(holder)
    tokens, condition = torch.randn(2, 1, 2048, 64).to(dtype)
    assert torch.equal(holder.x_embedder(torch.cat([tokens, condition], dim=-1)), narrow(tokens))
    assert (holder.config.in_channels, holder.config.out_channels) == (128, 64)


def test_second_installation_and_wrong_restoration_are_refused(tiny_flux: Path, tmp_path: Path) -> None:
    backbone, method = FluxBackbone(str(tiny_flux), parts=("denoiser",)), Parallel()
    with pytest.raises(ValueError, match="128 and 64"):
        method.restore(backbone.denoiser, tmp_path)
    method.install(backbone.denoiser)
    method.restore(backbone.denoiser, tmp_path)
    with pytest.raises(ValueError, match="installed already"):
        method.install(backbone.denoiser)
