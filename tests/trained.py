"""Students as training leaves them, without training."""

from pathlib import Path

import torch

from dsd.student import Student


def trained(base: Path, conditioning="parallel", lora=None, **arguments) -> Student:
    """A student all of whose trained weights were moved, as training would."""
    student = Student(str(base), conditioning, lora=lora, frame_size=(32, 32), **arguments)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in student._trained.values():
            parameter += torch.randn(parameter.shape, generator=generator) * 0.1
    return student
