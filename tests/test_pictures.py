"""Pictures drawn while training: the pipeline's own, without more memory than training takes."""

from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from dsd import DSDPipeline
from dsd.pictures import ValidationPictures
from dsd.pixels import from_pixels, to_pixels
from tests.test_student import Batches, _batch, _student, _trainer

PROMPTS = ["a red creature", "the beach"]


def test_rows_are_what_the_pipeline_draws(tiny_flux: Path, tmp_path: Path) -> None:
    student = _student(tiny_flux)
    reference = torch.rand(3, 32, 32)
    settings: dict[str, Any] = {"num_inference_steps": 3, "image_guidance": 2.0, "guidance_skip_steps": 1}
    pictures = ValidationPictures([reference], PROMPTS, every_n_steps=1, seed=5, **settings)
    trainer = _trainer(tmp_path, 1, callbacks=[pictures])
    trainer.fit(student, Batches(_batch()))
    assert student.backbone.loaded == {"denoiser"}
    pipe = DSDPipeline(student.backbone, student.conditioning, student.frame_size)
    pipe.set_progress_bar_config(disable=True)
    drawn = pipe(reference, PROMPTS, seed=5, output_type="pt", **settings).images
    expected = from_pixels(torch.cat([*to_pixels(reference, 32, 32), *(drawn * 2 - 1)], dim=-1)[None])[0]
    written = Image.open(tmp_path / "pictures" / "step-0000001-0.png")
    difference = (torch.tensor(list(expected.getdata())) - torch.tensor(list(written.getdata()))).abs()
    assert difference.max() <= 1  # batches of two and of one round differently


def test_text_encoders_are_not_there_while_drawing(tiny_flux: Path, tmp_path: Path) -> None:
    student = _student(tiny_flux)
    pictures = ValidationPictures([torch.rand(3, 32, 32)], PROMPTS, every_n_steps=1, num_inference_steps=2)
    there: list[frozenset[str]] = []
    call = student.backbone.call
    sizes: list[int] = []

    def look(tokens: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if not torch.is_grad_enabled():
            there.append(student.backbone.loaded)
            sizes.append(len(tokens))
        return call(tokens, *args, **kwargs)

    student.backbone.call = look  # type: ignore[method-assign]
    _trainer(tmp_path, 2, callbacks=[pictures]).fit(student, Batches(_batch(), _batch()))
    assert len(there) == 8
    assert all("text" not in parts for parts in there)
    assert set(sizes) == {1}
