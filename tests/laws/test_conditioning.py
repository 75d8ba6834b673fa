"""Laws that every conditioning obeys, whoever wrote it."""

import copy
from pathlib import Path

import pytest
import torch
from diffusers import FluxTransformer2DModel

from dsd import conditioning as conditionings
from dsd.backbones import FluxBackbone, Reference, Text
from dsd.backbones.packing import grid_ids, pack, unpack
from dsd.conditioning import Conditioning

NAMES = conditionings.names()


@pytest.fixture(scope="module")
def base(tiny_flux: Path) -> FluxBackbone:
    return FluxBackbone(str(tiny_flux))


@pytest.fixture
def backbone(base: FluxBackbone) -> FluxBackbone:
    return copy.deepcopy(base)


def _encoded(method: Conditioning, backbone: FluxBackbone) -> tuple[Reference, torch.Tensor, Text]:
    generator = torch.Generator().manual_seed(0)
    reference, target = torch.rand(2, 2, 3, 32, 48, generator=generator) * 2 - 1
    with torch.no_grad():
        text = backbone.encode_text(["a red creature", "the beach"])
        return method.encode(backbone, reference), method.encode_target(backbone, reference, target), text


def _velocity(
    method: Conditioning, backbone: FluxBackbone, reference: Reference, x: torch.Tensor, text: Text
) -> torch.Tensor:
    with torch.no_grad():
        return method.velocity(backbone, x, torch.tensor([0.3, 0.8]), reference, text, 1.0)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_lost_on_the_way_in_and_out(name: str, backbone: FluxBackbone) -> None:
    method = conditionings.create(name)
    reference, target, _ = _encoded(method, backbone)
    canvas = method.canvas(reference, target)
    assert torch.equal(method.crop(canvas), target)
    frames = method.split(canvas)
    assert tuple(frames) == method.frames
    assert all(frame.shape == target.shape for frame in frames.values())


@pytest.mark.parametrize("name", NAMES)
def test_installation_leaves_the_base_as_it_was(name: str, backbone: FluxBackbone) -> None:
    method = conditionings.create(name)
    reference, target, text = _encoded(method, backbone)
    x = torch.randn(method.canvas(reference, target).shape, generator=torch.Generator().manual_seed(1))
    ids = grid_ids(*x.shape[-2:])
    with torch.no_grad():
        base = unpack(backbone.call(pack(x), torch.tensor([0.3, 0.8]), text, ids), *x.shape[-2:])
    method.install(backbone.denoiser)
    assert torch.equal(_velocity(method, backbone, reference, x, text), base)


@pytest.mark.parametrize("name", NAMES)
def test_every_trained_parameter_and_the_reference_matter_once_trained(
    name: str, backbone: FluxBackbone
) -> None:
    """After the first steps of training: zero layers have moved."""
    method = conditionings.create(name)
    reference, target, text = _encoded(method, backbone)
    method.install(backbone.denoiser)
    trained = method.trained(backbone.denoiser)
    assert trained
    with torch.no_grad():
        for parameter in trained.values():
            parameter += 0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2))
    x = torch.randn(method.canvas(reference, target).shape)
    plain = _velocity(method, backbone, reference, x, text)
    assert plain.shape == x.shape
    assert not torch.allclose(_velocity(method, backbone, reference.zero(), x, text), plain, atol=1e-3)
    assert not torch.allclose(_velocity(method, backbone, reference[[1, 0]], x, text), plain, atol=1e-3)
    for parameter in trained.values():
        parameter.requires_grad_(True)
    method.velocity(backbone, x, torch.tensor([0.3, 0.8]), reference, text).square().mean().backward()
    assert [
        key for key, parameter in trained.items() if parameter.grad is None or not parameter.grad.any()
    ] == []


@pytest.mark.parametrize("name", NAMES)
def test_batch_neighbours_do_not_matter(name: str, backbone: FluxBackbone) -> None:
    method = conditionings.create(name)
    reference, target, text = _encoded(method, backbone)
    method.install(backbone.denoiser)
    x = torch.randn(method.canvas(reference, target).shape)
    both = _velocity(method, backbone, reference, x, text)
    with torch.no_grad():
        alone = method.velocity(backbone, x[1:], torch.tensor([0.8]), reference[1], text[1])
    torch.testing.assert_close(alone[0], both[1], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_its_spec_builds_it_again(name: str) -> None:
    method = conditionings.create(name)
    assert conditionings.spec(method)["name"] == name
    again = conditionings.create(conditionings.spec(method))
    assert (type(again), again.frames) == (type(method), method.frames)


@pytest.mark.parametrize("name", NAMES)
def test_the_denoiser_stays_a_stock_class(name: str, backbone: FluxBackbone) -> None:
    conditionings.create(name).install(backbone.denoiser)
    assert type(backbone.denoiser) is FluxTransformer2DModel
