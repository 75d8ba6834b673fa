"""Parts of the scripts that train the small world."""

from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from diffusers import FluxPipeline
from torch import nn

from dsd.mini.train.autoencoder import compose
from dsd.mini.train.examples import Examples, apart, at_once
from dsd.mini.train.loop import Training
from dsd.mini.train.muon import orthogonalise
from dsd.mini.train.relatives import family
from dsd.mini.train.teacher import GIVEN, give
from dsd.mini.world import is_held_out


def _packed(latents: torch.Tensor) -> torch.Tensor:
    return FluxPipeline._pack_latents(latents, *latents.shape)


@pytest.mark.parametrize("layout", [(2, 2), (1, 2)])
def test_a_grid_taken_apart_is_its_panels_packed_alone(layout: tuple[int, int]) -> None:
    panels = torch.randn(3 * layout[0] * layout[1], 16, 8, 8)
    grids = _packed(compose(panels, layout))
    assert torch.equal(apart(grids, layout), _packed(panels))
    assert torch.equal(at_once(_packed(panels), layout), grids)


@pytest.mark.parametrize("shape", [(24, 24), (16, 80), (80, 16)])
def test_iterating_the_gram_matrix_is_newton_schulz(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = matrix / matrix.norm()
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    torch.testing.assert_close(orthogonalise(matrix), x, atol=1e-5, rtol=0)
    values = torch.linalg.svdvals(orthogonalise(matrix))
    assert 0.5 < values[: min(shape) // 2].mean() < 1.3


def test_relatives_differ_in_one_thing_and_are_in_no_held_out_combination() -> None:
    for index in range(20):
        first, *others = family(index)
        for other in others:
            differ = [name for name, value in asdict(first).items() if asdict(other)[name] != value]
            assert len(differ) == 1
            assert not is_held_out(other)


@pytest.mark.parametrize("layout", ["2x2", "1x2", "1x1"])
def test_half_of_the_grids_have_one_panel_of_less_noise_that_is_not_asked_for(layout: str) -> None:
    count, (rows, columns) = 400, {"2x2": (2, 2), "1x2": (1, 2), "1x1": (1, 1)}[layout]
    generator = torch.Generator().manual_seed(0)
    batch = Examples(
        x_0=torch.zeros(count, 16 * rows * columns, 64),
        prompts=[""] * count,
        captions=[],
        layout=layout,
        scenes=torch.zeros(count, rows * columns, dtype=torch.long),
        facts=None,
        rows=4 * rows,
        columns=4 * columns,
    )
    t, noise = torch.rand(count, generator=generator), torch.ones_like(batch.x_0)
    x_t, asked = give(batch, t, noise, generator)
    levels = apart(x_t, (rows, columns)).unflatten(0, (count, -1))
    assert torch.equal(levels.amin((2, 3)), levels.amax((2, 3)))  # a panel has one level
    level, wanted = levels[..., 0, 0], apart(asked, (rows, columns)).unflatten(0, (count, -1))[..., 0, 0]
    assert torch.equal(level[wanted == 1], t[:, None].expand_as(level)[wanted == 1])
    assert (level[wanted == 0] < t[:, None].expand_as(level)[wanted == 0]).all()
    given = (wanted == 0).sum(1)
    assert given.max() == (layout != "1x1")
    assert abs(given.float().mean() - (GIVEN if layout != "1x1" else 0)) < 0.08


def test_a_training_goes_on_along_its_curve_and_restarts_it_when_asked(tmp_path: Path) -> None:
    def trained(minutes: float, restart: bool = False) -> Training:
        training = Training(tmp_path, minutes, warmup_steps=1, restart=restart)
        next(training.run(model=nn.Linear(1, 1)), None)
        return training

    first = trained(10.0)
    first.spent_s, first.step = 300.0, 7
    first.save()
    halfway = trained(10.0)
    assert halfway.step == 7
    assert halfway.rate() == pytest.approx(0.51)
    anew = trained(10.0, restart=True)
    assert anew.rate() == pytest.approx(1.0)
    anew.spent_s = 450.0
    anew.save()
    assert trained(10.0).rate() == pytest.approx(0.51)
