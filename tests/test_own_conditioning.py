"""The example package of a conditioning: installed by pip, it is found by name and obeys every law."""

import json
import os
import re
import subprocess
import sys

import pytest

from tests.test_stranger import ROOT, install

PROGRAM = """
import json, sys
import lightning, torch
from dsd import DSDPipeline, Student, conditioning
from dsd.backbones import RawBatch

found = ["palette" in conditioning.names(), "dsd_palette" in sys.modules]
base, folder = sys.argv[1:]
student = Student(base, {"name": "palette", "cells": 2}, train="added", lr=1e-2, text_dropout=0.0)
picture = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
batch = RawBatch(ids=["a", "b"], reference=picture, target=picture, captions=["a red creature", "snow"])
trainer = lightning.Trainer(
    max_steps=3, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False
)
trainer.fit(student, torch.utils.data.DataLoader([batch] * 3, batch_size=None))
student.save_pretrained(folder)

def draw(pipe, image):
    pipe.set_progress_bar_config(disable=True)
    return pipe(image, "snow", height=32, width=32, num_inference_steps=2, seed=0, output_type="pt").images

unit = picture[:1] / 2 + 0.5
live, loaded = DSDPipeline(student.backbone, student.conditioning), DSDPipeline.from_pretrained(folder)
drawn = draw(loaded, unit)
found += [torch.equal(draw(live, unit), drawn), torch.equal(draw(loaded, 1 - unit), drawn)]
print(json.dumps([*found, conditioning.spec(loaded.conditioning)]))
"""


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    target = tmp_path_factory.mktemp("palette") / "site"
    install(ROOT / "examples" / "own_conditioning", target)
    return target


def run(package, *command):
    path = os.pathsep.join((str(package), str(ROOT)))
    done = subprocess.run(
        [sys.executable, *command],
        cwd=ROOT, capture_output=True, text=True, timeout=900, env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_package_is_trained_saved_and_drawn_with_by_name(package, tiny_flux, tmp_path):
    said = run(package, "-c", PROGRAM, str(tiny_flux), str(tmp_path / "student")).splitlines()[-1]
    known, imported, same, blind, spec = json.loads(said)
    assert known
    assert not imported, "listing the names imported the package"
    assert same, "the saved student draws something else"
    assert not blind, "the reference shows nowhere"
    assert spec == {"name": "palette", "cells": 2}


def test_it_obeys_every_law(package):
    laws = (ROOT / "tests" / "laws" / "test_conditioning.py").read_text()
    said = run(
        package, "-m", "pytest", "tests/laws/test_conditioning.py", "-q", "-k", "palette",
        "-p", "no:cacheprovider", "-p", "no:xdist", "-o", "addopts=--import-mode=importlib",
    )  # fmt: skip
    passed = re.search(r"^(\d+) passed, (\d+) deselected", said, re.MULTILINE)
    assert passed, said
    assert int(passed[1]) >= laws.count("@every\n"), "a law was not run"
