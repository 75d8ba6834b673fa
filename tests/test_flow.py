"""Flow matching against diffusers' scheduler and closed forms."""

import math

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.flux.pipeline_flux import calculate_shift

from dsd import flow


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("steps", [1, 4, 28])
def test_euler_equals_diffusers(shift: float, steps: int) -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(sigmas=torch.linspace(1, 1 / steps, steps).tolist())
    weight, noise = torch.randn(8, 8), torch.randn(2, 5, 8)
    theirs = noise
    for t in scheduler.timesteps:
        theirs = scheduler.step(theirs @ weight * t / 1000, t, theirs, return_dict=False)[0]
    times = flow.shift_times(torch.linspace(1, 0, steps + 1), shift)
    ours = flow.euler(lambda x, t: x @ weight * t[:, None, None], noise, times)
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("num_tokens", [64, 2048, 4096])
def test_dynamic_shift_equals_diffusers(num_tokens: int) -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    mu = flow.mu_for(num_tokens)
    assert mu == pytest.approx(calculate_shift(num_tokens))
    scheduler.set_timesteps(sigmas=torch.linspace(1, 1 / 4, 4).tolist(), mu=mu)
    ours = flow.shift_times(torch.linspace(1, 0, 5), math.exp(mu))
    torch.testing.assert_close(ours, scheduler.sigmas)


def test_schedule_of_the_release() -> None:
    times = flow.shift_times(torch.linspace(1, 0, 5), math.exp(flow.mu_for(2048)))
    assert flow.mu_for(2048) == pytest.approx(0.80333, abs=1e-5)
    torch.testing.assert_close(times, torch.tensor([1, 0.870112, 0.690687, 0.426712, 0]), atol=1e-6, rtol=0)


def test_interpolation_equals_diffusers_and_its_slope_is_the_velocity() -> None:
    scheduler = FlowMatchEulerDiscreteScheduler()
    x_0, noise = torch.randn(2, 3, 4, 6, 6, dtype=torch.float64)
    t = scheduler.timesteps[[100, 500, 900]]
    torch.testing.assert_close(
        flow.interpolate(x_0, noise, t.double() / 1000), scheduler.scale_noise(x_0, t, noise)
    )
    late, early = (flow.interpolate(x_0, noise, torch.full((3,), t).double()) for t in (0.7, 0.2))
    torch.testing.assert_close((late - early) / 0.5, flow.velocity(x_0, noise))


def test_one_euler_step_along_the_true_velocity_returns_the_data() -> None:
    x_0, noise = torch.randn(2, 3, 4, 6, 6, dtype=torch.float64)
    times = torch.tensor([1.0, 0.0], dtype=torch.float64)
    torch.testing.assert_close(flow.euler(lambda x, t: flow.velocity(x_0, noise), noise, times), x_0)


def test_time_laws() -> None:
    generator = torch.Generator().manual_seed(0)
    uniform = flow.sample_times(20_000, "uniform", generator=generator)
    assert uniform.quantile(torch.tensor([0.25, 0.5, 0.75])).tolist() == pytest.approx(
        [0.25, 0.5, 0.75], abs=0.02
    )
    normal = flow.sample_times(20_000, "logit_normal", mean=0.5, std=2.0, generator=generator).logit()
    assert (float(normal.mean()), float(normal.std())) == pytest.approx((0.5, 2.0), abs=0.05)
    again = flow.sample_times(5, "uniform", generator=torch.Generator().manual_seed(0))
    assert torch.equal(again, uniform[:5])
    with pytest.raises(ValueError, match="logit_normal, uniform"):
        flow.sample_times(1, "logitnormal")


def test_loss_weighs_frames() -> None:
    predicted, truth = torch.randn(2, 3, 4, 6, 8)
    halves = [predicted.chunk(2, -1), truth.chunk(2, -1)]
    total, frames = flow.loss(*halves, [1.0, 1.0])
    torch.testing.assert_close(total, (predicted - truth).square().mean())
    torch.testing.assert_close(frames[1], (predicted - truth)[..., 4:].square().mean())
    torch.testing.assert_close(flow.loss(*halves, [1.0, 3.0])[0], frames[0] / 4 + frames[1] * 3 / 4)


@pytest.mark.parametrize("given", [torch.bfloat16, torch.float32, torch.float64])
def test_loss_is_computed_in_float32_at_least(given: torch.dtype) -> None:
    predicted, truth = torch.randn(2, 3, 4, 6, 8, dtype=torch.float64).to(given)
    total, frames = flow.loss([predicted], [truth], [1.0])
    assert total.dtype == frames.dtype == torch.promote_types(given, torch.float32)
    exact = (predicted.double() - truth.double()).square().mean()
    torch.testing.assert_close(total.double(), exact, rtol=1e-6 if given != torch.float64 else 1e-14, atol=0)
