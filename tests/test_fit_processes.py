"""`dsd fit` in two processes of this machine, as a user runs it: one command and a recipe."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

import dsd
from tests.cheap_world import make_run
from tests.test_cli import ok

ROOT = Path(__file__).parents[1]
LIMIT_S = 300


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory, tiny_flux: Path) -> dict[str, Any]:
    """For one process; the strategy is that of docs/training.md, on the CPU."""
    folder = tmp_path_factory.mktemp("fit") / "run"
    dsd.encode(make_run(folder, 4, size=64), str(tiny_flux), policy="every", progress=False)
    quiet = {"enable_progress_bar": False, "enable_model_summary": False}
    return {
        "student": {"base": str(tiny_flux), "conditioning": "parallel", "lora": {"rank": 2}, "lr": 0.01},
        "data": {"source": str(folder), "policy": "every", "encoded": True, "batch_size": 4},
        "trainer": {"max_steps": 4, "accelerator": "cpu", **quiet},
        "checkpoint_every_n_steps": 2,
        "components": "trained",
    }


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "transformer" / "diffusion_pytorch_model.safetensors")


def test_two_processes_by_one_command_train_what_one_does(recipe: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "one.yaml").write_text(yaml.safe_dump(recipe))
    ok("fit", "--config", tmp_path / "one.yaml", "--out", tmp_path / "one")
    minutes = {"class_path": "datetime.timedelta", "init_args": {"minutes": 2}}
    ddp = {
        "class_path": "lightning.pytorch.strategies.DDPStrategy",
        "init_args": {"process_group_backend": "gloo", "timeout": minutes},
    }
    trainer = {**recipe["trainer"], "devices": 2, "strategy": ddp, "max_steps": 2}
    two = {**recipe, "data": {**recipe["data"], "batch_size": 2}, "trainer": trainer}
    (tmp_path / "two.yaml").write_text(yaml.safe_dump(two))
    command = [
        sys.executable,
        "-m",
        "dsd",
        "fit",
        "--config",
        tmp_path / "two.yaml",
        "--out",
        tmp_path / "two",
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}

    def run(*more: str) -> str:
        done = subprocess.run(
            [*map(str, command), *more],
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            env=environment,
            cwd=tmp_path,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        assert done.stderr.count("Initializing distributed: GLOBAL_RANK: 1, MEMBER: 2/2") == 1
        return done.stdout

    assert run() == f"2 steps in all; the student is in {tmp_path / 'two'}\n", "one of the processes speaks"
    halfway = weights(tmp_path / "two")
    assert run("--resume", "--trainer.max_steps", "4").startswith("4 steps in all")
    alone, together = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert alone.keys() == together.keys()
    for name, value in alone.items():
        torch.testing.assert_close(together[name], value, atol=1e-6, rtol=1e-6)
    assert any(not torch.equal(halfway[name], value) for name, value in together.items())
    assert not (tmp_path / "lightning_logs").exists(), "all that is written is in `out`"
