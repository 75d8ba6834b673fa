"""Training with the packages of others: their optimisers and quantised layers, where they are installed."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FluxTransformer2DModel

from tests.test_student import _batch, _student
from tests.test_training_options import Loader, _trainer


@pytest.mark.parametrize(
    ("name", "package", "kind"),
    [
        ("schedulefree", "schedulefree", "AdamWScheduleFree"),
        ("prodigy", "prodigyopt", "Prodigy"),
        ("adamw8bit", "bitsandbytes", "AdamW8bit"),
    ],
)
def test_optimisers_of_others_train(
    tiny_flux: Path, tmp_path: Path, name: str, package: str, kind: str
) -> None:
    pytest.importorskip(package)
    student = _student(tiny_flux, optimizer=name, lr=1e-3)
    before = {name: p.detach().clone() for name, p in student._trained.items()}
    _trainer(tmp_path, 3).fit(student, Loader())
    assert type(student._built).__name__ == kind
    assert all(torch.isfinite(p).all() for p in student._trained.values())
    assert any(not torch.equal(p, before[name]) for name, p in student._trained.items())
    last = {name: p.detach().clone() for name, p in student._trained.items()}
    with student.ema_weights():
        averaged = [not torch.equal(p, last[name]) for name, p in student._trained.items()]
    assert any(averaged) == (name == "schedulefree")  # it draws with an average of its own
    for name, p in student._trained.items():
        torch.testing.assert_close(p.detach(), last[name])


@pytest.mark.parametrize(("name", "kind"), [("int8_torchao", "Int8Tensor"), ("fp8_torchao", "Float8Tensor")])
def test_a_base_quantised_by_torchao_is_nearly_the_base(
    tiny_flux: Path, tmp_path: Path, name: str, kind: str
) -> None:
    pytest.importorskip("torchao")
    plain, fewer = (_student(tiny_flux, **more, dtype="bfloat16") for more in ({}, {"quantization": name}))
    kinds = {type(p.data).__name__ for p in fewer.denoiser.parameters()}
    assert kind in kinds
    losses: list[Any] = []
    for student in (plain, fewer):
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            losses.append(student.losses(_batch(4), torch.Generator().manual_seed(0), dropout=False)[0])
    assert losses[0] != losses[1]
    torch.testing.assert_close(*losses, rtol=0.05, atol=0)
    fewer.save_pretrained(tmp_path / "fewer", components="trained")
    saved = FluxTransformer2DModel.from_pretrained(tmp_path / "fewer" / "transformer")
    base = FluxTransformer2DModel.from_pretrained(tiny_flux / "transformer")
    weight = "transformer_blocks.0.ff.net.2.weight"
    torch.testing.assert_close(
        saved.state_dict()[weight].float(), base.state_dict()[weight].bfloat16().float()
    )
