"""`concat` is Flux-Control's layout: stock diffusers is the oracle."""

import pytest
import torch
from diffusers import FluxControlPipeline, FluxTransformer2DModel

from dsd import DSDPipeline
from dsd.backbones import FluxBackbone, Reference
from dsd.backbones.packing import grid_ids, pack, unpack
from dsd.conditioning import Concat
from tests.conftest import redraw
from tests.laws import stock

T = torch.tensor([0.3, 0.8])


@pytest.fixture
def wide(tiny_flux):
    """A stock Flux-Control transformer with every parameter drawn anew, the reference's columns included."""
    narrow = FluxBackbone(str(tiny_flux), parts=("denoiser",)).denoiser
    made = FluxTransformer2DModel.from_config(
        {**narrow.config, "in_channels": 128, "out_channels": 64}
    ).eval()
    redraw(made, torch.Generator().manual_seed(3))
    return made


@torch.no_grad()
def test_forward_equals_the_stock_class_on_joined_channels(tiny_flux, wide):
    backbone = FluxBackbone(str(tiny_flux))
    backbone.denoiser = wide
    x, condition = torch.randn(2, 2, 16, 4, 6)
    text = backbone.encode_text(["a red creature", "the beach"])
    theirs = wide(
        hidden_states=torch.cat([pack(x), pack(condition)], dim=-1), encoder_hidden_states=text.tokens,
        pooled_projections=text.pooled, timestep=T, guidance=torch.tensor([3.5, 3.5]), img_ids=grid_ids(4, 6),
        txt_ids=torch.zeros(24, 3),
    ).sample  # fmt: skip
    ours = Concat().velocity(backbone, x, T, Reference(latents=condition), text, 3.5)
    torch.testing.assert_close(ours, unpack(theirs, 4, 6), atol=1e-6, rtol=0)


def test_a_stock_flux_control_folder_draws_the_same_here(tiny_flux, wide, tmp_path, monkeypatch):
    """One that we did not save: it says nothing of dsd."""
    stock.take_modes(monkeypatch)
    pipe = FluxControlPipeline.from_pretrained(tiny_flux, transformer=wide)
    pipe.set_progress_bar_config(disable=True)
    pipe.save_pretrained(tmp_path)
    ours = DSDPipeline.from_pretrained(tmp_path, conditioning="concat")
    ours.set_progress_bar_config(disable=True)
    reference, noise = torch.rand(1, 3, 32, 48), torch.randn(1, 16, 4, 6)
    common = {
        "prompt": "a red creature",
        "num_inference_steps": 3,
        "guidance_scale": 30.0,
        "output_type": "latent",
    }
    theirs = pipe(
        control_image=reference * 2 - 1,
        latents=pack(noise),
        height=32,
        width=48,
        max_sequence_length=24,
        **common,
    ).images
    drawn = ours(image=reference, latents=noise, height=32, width=48, **common).images
    torch.testing.assert_close(pack(drawn), theirs, atol=1e-5, rtol=0)


def test_a_reference_of_another_size_is_refused(tiny_flux):
    backbone, method = FluxBackbone(str(tiny_flux)), Concat()
    method.install(backbone.denoiser)
    text = backbone.encode_text(["a", "the"])
    with pytest.raises(ValueError, match=r"latents are 4 x 4 and the canvas is 6 x 4: .* one size"):
        method.velocity(
            backbone, torch.zeros(2, 16, 4, 6), T, Reference(latents=torch.zeros(2, 16, 4, 4)), text
        )


@pytest.mark.parametrize(
    ("fit", "given", "shown"),
    [
        ("contain", (16, 64), (slice(12, 20), slice(0, 32))),  # wide: bars above and below
        ("contain", (64, 16), (slice(0, 32), slice(12, 20))),
        ("cover", (16, 64), (slice(0, 32), slice(0, 32))),
    ],
)
def test_references_of_another_shape_come_into_the_frame(fit, given, shown):
    prepared = Concat(fit=fit).prepare([torch.ones(1, 3, *given)], 32, 32)
    expected = torch.full((1, 3, 32, 32), -1.0)
    expected[..., shown[0], shown[1]] = 1
    torch.testing.assert_close(prepared, expected, atol=1e-5, rtol=0)


def test_what_does_not_fit_is_refused(tiny_flux, tmp_path):
    backbone, method = FluxBackbone(str(tiny_flux), parts=("denoiser",)), Concat()
    with pytest.raises(ValueError, match="`concat` or a converted release has 128 and 64"):
        method.restore(backbone.denoiser, tmp_path)
    method.install(backbone.denoiser)
    method.restore(backbone.denoiser, tmp_path)
    with pytest.raises(ValueError, match="installed already"):
        method.install(backbone.denoiser)
    with pytest.raises(ValueError, match="'cover', 'contain'"):
        Concat.__init__.__wrapped__(Concat.__new__(Concat), fit="stretch")
