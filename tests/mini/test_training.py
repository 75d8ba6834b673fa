"""Parts of the scripts that train the small world."""

from dataclasses import asdict

import pytest
import torch
from diffusers import FluxPipeline

from dsd.mini.train.autoencoder import compose
from dsd.mini.train.guidance import apart, at_once
from dsd.mini.train.muon import orthogonalise
from dsd.mini.train.relatives import family
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
