"""`dsd fit` in two processes of this machine, as a user runs it: one command and a recipe."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
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
LIMIT_S = 900


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
        "checkpoint_every_n_steps": 2,  # no multiple is the third step
        "components": "trained",
    }


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "transformer" / "diffusion_pytorch_model.safetensors")


STRATEGIES = {
    "ddp": ("DDPStrategy", {}),
    "fsdp2": (
        "ModelParallelStrategy",
        {"data_parallel_size": 2, "tensor_parallel_size": 1, "save_distributed_checkpoint": False},
    ),
}
EXACT = {"ddp": 1e-6, "fsdp2": 1e-5}
TORCH_CRASHED = re.compile(r"corrupted|malloc\(\)|free\(\)|double free|Segmentation fault")


@dataclass
class Command:
    """`dsd fit` of one recipe in processes of its own."""

    recipe: Path
    out: Path

    def run(self, *more: str) -> subprocess.CompletedProcess[str]:
        """Once more from the same files if torch crashed, as in `tests.processes.run`."""
        with tempfile.TemporaryDirectory() as kept:
            self.out.mkdir(exist_ok=True)
            shutil.copytree(self.out, kept, dirs_exist_ok=True)
            done = self._run(*more)
            if not TORCH_CRASHED.search(done.stderr):
                return done
            shutil.rmtree(self.out)
            shutil.copytree(kept, self.out)
        return self._run(*more)

    def _run(self, *more: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "dsd", "fit", "--config", self.recipe, "--out", self.out]
        return subprocess.run(
            [*map(str, command), *more],
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            cwd=self.out.parent,
        )


@pytest.fixture(scope="module")
def alone(recipe: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """What one process trains."""
    folder = tmp_path_factory.mktemp("alone")
    (folder / "one.yaml").write_text(yaml.safe_dump(recipe))
    ok("fit", "--config", folder / "one.yaml", "--out", folder / "one")
    return weights(folder / "one")


@pytest.mark.parametrize("kind", STRATEGIES)
def test_two_processes_by_one_command_train_what_one_does(
    kind: str, recipe: dict[str, Any], alone: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    """DDP is ended by SIGTERM to one of the two, FSDP2 by its number of steps; both go on."""
    name, arguments = STRATEGIES[kind]
    minutes = {"class_path": "datetime.timedelta", "init_args": {"minutes": 10}}
    strategy = {
        "class_path": f"lightning.pytorch.strategies.{name}",
        "init_args": {"process_group_backend": "gloo", "timeout": minutes, **arguments},
    }
    told = {"class_path": "tests.processes.TerminatedAt", "init_args": {"step": 3, "rank": 1}}
    trainer = {**recipe["trainer"], "devices": 2, "strategy": strategy}
    ends = {"callbacks": told} if kind == "ddp" else {"max_steps": 3}
    two = {**recipe, "data": {**recipe["data"], "batch_size": 2}, "trainer": {**trainer, **ends}}
    (tmp_path / "two.yaml").write_text(yaml.safe_dump(two))
    command = Command(tmp_path / "two.yaml", tmp_path / "two")
    done = command.run()
    assert done.stderr.count("Initializing distributed: GLOBAL_RANK: 1, MEMBER: 2/2") == 1
    if kind == "ddp":
        assert done.returncode == 143, done.stderr[-2000:]
        assert "dsd fit: Terminated." in done.stderr
    else:
        assert done.returncode == 0, done.stderr[-2000:]
        assert done.stdout == f"3 steps in all; the student is in {tmp_path / 'two'}\n", "one of them speaks"
    halfway = torch.load(tmp_path / "two" / "training" / "last.ckpt", weights_only=False)
    assert halfway["global_step"] == 3
    (tmp_path / "two.yaml").write_text(yaml.safe_dump({**two, "trainer": trainer}))
    done = command.run("--resume")
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.startswith("4 steps in all")
    together = weights(tmp_path / "two")
    assert alone.keys() == together.keys()
    for key, value in alone.items():
        torch.testing.assert_close(together[key], value, atol=EXACT[kind], rtol=EXACT[kind])
    last = torch.load(tmp_path / "two" / "training" / "last.ckpt", weights_only=False)
    trained = halfway["state_dict"]
    assert any(not torch.equal(last["state_dict"][key], value) for key, value in trained.items())
    assert not (tmp_path / "lightning_logs").exists(), "all that is written is in `out`"
