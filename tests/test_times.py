"""Times and guidance stay float32 in models that compute in less."""

import pytest
import torch

from dsd import DSDPipeline
from dsd.backbones import FluxBackbone, Text
from dsd.backbones.packing import grid_ids
from dsd.backbones.times import exact_times
from dsd.conditioning import TokenConcat

T = torch.tensor([0.3135, 0.7482])


@pytest.fixture(scope="module")
def backbone(tiny_flux):
    return FluxBackbone(str(tiny_flux), parts=("denoiser",))


def given(backbone, dtype, autocast=False):
    """What the time embedding is given in a call."""
    seen = []
    hook = backbone.denoiser.time_text_embed.register_forward_hook(lambda _, args, out: seen.append(args))
    text = Text(tokens=torch.randn(2, 3, 24).to(dtype), pooled=torch.randn(2, 20).to(dtype))
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        backbone.call(torch.randn(2, 4, 64).to(dtype), T, text, grid_ids(4, 4), 3.51)
    hook.remove()
    return seen[0][:2]


@pytest.mark.parametrize("mode", ["float32", "bfloat16", "autocast"])
def test_times_and_guidance_reach_the_embedding_unrounded(backbone, mode):
    dtype = torch.bfloat16 if mode == "bfloat16" else torch.float32
    backbone.denoiser.to(dtype)
    times, guidance = given(backbone, dtype, autocast=mode == "autocast")
    backbone.denoiser.to(torch.float32)
    assert torch.equal(times, T * 1000)
    assert torch.equal(guidance, torch.full((2,), 3.51) * 1000)
    assert (T.bfloat16() * 1000 - T * 1000).abs().max() > 1, "these times would show rounding"


def test_nothing_is_left_behind(backbone):
    def stopped():
        with exact_times(backbone.denoiser, T, T):
            assert len(embedder._forward_pre_hooks) == 1
            raise RuntimeError("stopped")

    embedder = backbone.denoiser.time_text_embed
    with pytest.raises(RuntimeError, match="stopped"):
        stopped()
    assert not embedder._forward_pre_hooks


def test_the_sampler_hands_over_unrounded_times(tiny_flux, monkeypatch):
    backbone = FluxBackbone(str(tiny_flux), dtype="bfloat16")
    seen, call = [], backbone.call
    monkeypatch.setattr(
        backbone, "call", lambda tokens, t, *rest, **more: seen.append(t) or call(tokens, t, *rest, **more)
    )
    pipe = DSDPipeline(backbone, TokenConcat(), (32, 32))
    pipe(torch.rand(1, 3, 32, 32), "snow", num_inference_steps=3)
    expected = backbone.schedule(3, 4, torch.device("cpu")).timesteps / 1000
    assert torch.equal(torch.cat(seen), expected)
    assert not torch.equal(expected.bfloat16().float(), expected)
