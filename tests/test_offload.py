"""Offload of what other conditionings bring along: the same pictures as without.

On a CPU alone, main memory is the device too: hooks and their order are real, transfers are not.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import cpu_offload
from PIL import Image

from dsd import DSDPipeline, Student
from tests.test_inference import aligned, draw

CONDITIONINGS: dict[str, Any] = {
    "concat": "concat",
    "token_concat": "token_concat",
    "controlnet": {"name": "controlnet", "num_layers": 1, "num_single_layers": 1},
    "ip_adapter": "ip_adapter",
    "ip_adapter, pooled": {"name": "ip_adapter", "tokens": "pooled"},
}
GUIDED: dict[str, Any] = {"image_guidance": 2.0, "text_guidance": 1.5, "guidance_skip_steps": 0}


@pytest.fixture(scope="module")
def saved(tiny_flux: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Students whose conditioning does something."""
    folders = {}
    for name, spec in CONDITIONINGS.items():
        student = Student(
            str(tiny_flux),
            spec,
            train="added" if name.startswith(("co", "ip")) else "full",
            frame_size=(32, 32),
        )
        generator = torch.Generator().manual_seed(5)
        with torch.no_grad():
            for parameter in student._trained.values():
                parameter += torch.randn(parameter.shape, generator=generator) / 4
        folders[name] = tmp_path_factory.mktemp("offload") / "student"
        student.save_pretrained(folders[name])
    return folders


@pytest.fixture(scope="module")
def reference() -> Image.Image:
    return Image.radial_gradient("L").resize((32, 32)).convert("RGB")


def sequentially(pipe: DSDPipeline) -> None:
    """What `enable_sequential_cpu_offload` does, but for the name of the device: "cpu:0", which accelerate's
    hooks do not know again.
    """
    for part in pipe.stock.components.values():
        if isinstance(part, torch.nn.Module):
            cpu_offload(part, torch.device("cpu"), offload_buffers=len(part._parameters) > 0)
    assert {p.device.type for p in pipe.transformer.parameters()} == {"meta"}


OFFLOADS: dict[str, Callable[[DSDPipeline], None]] = {
    "model": lambda pipe: pipe.enable_model_cpu_offload(device="cpu"),
    "sequential": sequentially,
    "leaves": lambda pipe: pipe.enable_group_offload(torch.device("cpu"), offload_type="leaf_level"),
    "blocks": lambda pipe: pipe.enable_group_offload(
        torch.device("cpu"), offload_type="block_level", num_blocks_per_group=1
    ),
}


@pytest.mark.parametrize("offload", OFFLOADS)
@pytest.mark.parametrize("name", CONDITIONINGS)
def test_offload_is_exact(name: str, offload: str, saved: dict[str, Path], reference: Image.Image) -> None:
    pipe = aligned(DSDPipeline.from_pretrained(saved[name]))
    pipe.set_progress_bar_config(disable=True)
    arguments = {"num_inference_steps": 2, "output_type": "pt", **GUIDED}
    plain = draw(pipe, reference, **arguments)
    other = draw(pipe, Image.new("RGB", (32, 32), "red"), **arguments)
    assert not torch.allclose(plain, other, atol=1e-4), "the reference must matter"
    OFFLOADS[offload](pipe)
    for _ in range(2):
        assert torch.equal(draw(pipe, reference, **arguments), plain)


@pytest.mark.parametrize("offload", ["leaves", "blocks"])
def test_a_vision_encoder_that_comes_in_parts_is_not_brought_whole(
    offload: str, saved: dict[str, Path], reference: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = DSDPipeline.from_pretrained(saved["ip_adapter"])
    pipe.set_progress_bar_config(disable=True)
    moved: list[Any] = []
    encoder: Any = pipe.stock.image_encoder
    with monkeypatch.context() as patch:
        patch.setattr(encoder, "to", lambda *where: moved.append(where))
        draw(pipe, reference, num_inference_steps=1)
        assert len(moved) == 1
    OFFLOADS[offload](pipe)
    monkeypatch.setattr(encoder, "to", lambda *where: moved.append(where))
    draw(pipe, reference, num_inference_steps=1)
    assert len(moved) == 1
