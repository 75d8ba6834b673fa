"""What one backend costs: counted on the meta device, and measured on this machine."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from dsd import backbones
from dsd.backbones.base import Batch
from dsd.counting import count
from dsd.evaluation.small_world import HeldOut
from dsd.memory import PeakMemory
from dsd.student import Student
from dsd.studies.answers import FRAME, draw
from dsd.studies.matching import matched
from dsd.studies.plan import Probe

_TIMED = 3


def probe(
    base: Mapping[str, Any],
    conditioning: Mapping[str, Any],
    batch: Batch,
    cases: Sequence[HeldOut],
    *,
    budget: int | None,
    precision: str,
    sampling: Mapping[str, Any],
    **settings: Any,
) -> Probe:
    """Count and measure a backend.

    Args:
        base: the backbone's spec.
        conditioning: the backend's spec.
        batch: encoded pairs, as many as in training.
        cases: of which the first is drawn, for the time that it takes.
        budget: see `matched`.
        precision: of the `Trainer`.
        sampling: arguments of the pipeline's call.
        settings: further arguments of `Student`.
    """
    choice, words = matched(backbones.load(base, parts=("denoiser",)), conditioning, budget)
    counted = count(
        base["base"],
        conditioning,
        height=FRAME[0],
        width=FRAME[1],
        batch_size=len(batch),
        text_tokens=batch.text.tokens.shape[1],
        reference=batch.reference,
        **choice,
    )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    student = Student(base=base, conditioning=conditioning, **settings, **choice).to(device)
    found = student.configure_optimizers()
    optimizer = found["optimizer"] if isinstance(found, dict) else found
    batch = batch.to(device)

    def step() -> None:
        half = precision.startswith("bf16")
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            total, _ = student.losses(batch, torch.Generator(device).manual_seed(0), dropout=False)
        total.backward()
        optimizer.step()
        optimizer.zero_grad()

    with PeakMemory([*student.parameters(), *student.buffers(), *_tensors(batch)]) as memory:
        step()
    step_s = min(_seconds(step) for _ in range(_TIMED))
    student.backbone.load("vae", "text")
    pictures = len(cases[0].scenes)
    picture_s = _seconds(lambda: draw(student, cases[:1], seed=0, **sampling)) / pictures
    return Probe(
        step_tflop=counted.step_tflop,
        forward_tflop=counted.forward_tflop,
        formula_tflop=counted.formula_tflop,
        num_tokens=counted.num_tokens,
        step_s=step_s,
        picture_s=picture_s,
        peak_bytes=memory.peak,
        base_parameters=counted.base_parameters,
        added_parameters=counted.added_parameters,
        trained_parameters=counted.trained_parameters,
        student=choice,
        trained=words,
    )


def _seconds(function: Any) -> float:
    started = time.perf_counter()
    function()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


def _tensors(batch: Batch) -> list[torch.Tensor]:
    found: list[torch.Tensor] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        found.append(tensor)
        return tensor

    batch.map(keep)
    return found
