"""Each recipe, as it is, with a small base and one device in place of its own."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import yaml

import dsd
from tests.cheap_world import make_run
from tests.test_cli import ok

EXAMPLES = Path(__file__).parents[1] / "examples"
RECIPES = sorted(EXAMPLES.glob("*.yaml"))


@pytest.fixture(scope="module")
def encoded(tmp_path_factory: pytest.TempPathFactory, tiny_flux: Path) -> Path:
    folder = tmp_path_factory.mktemp("recipes") / "run"
    run = make_run(folder, 4, size=64)  # panels of 32 px
    dsd.encode(run, str(tiny_flux), policy="every", progress=False)
    return folder


def read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(path.read_text())
    return content


def test_there_are_recipes() -> None:
    assert {path.stem for path in RECIPES} >= {"paper", "released", "24gb", "one_hour"}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipes_step(path: Path, encoded: Path, tiny_flux: Path, tmp_path: Path) -> None:
    recipe = read(path)
    overrides: list[Any] = [
        "--student.base", tiny_flux, "--data.source", encoded, "--data.num_workers", 0,
        "--trainer.devices", 1,
        "--trainer.accelerator", "cpu", "--trainer.max_steps", 1, "--trainer.enable_progress_bar", "false",
        "--trainer.enable_model_summary", "false", "--data.policy", "every",
    ]  # fmt: skip
    if recipe["student"].get("compile"):
        overrides += ["--student.compile", "{backend: eager}"]  # the default one asks for a compiler
    if importlib.util.find_spec("bitsandbytes") is None:
        overrides += ["--student.quantization", "null", "--student.optimizer", "adamw"]
    said = ok("fit", "--config", path, "--out", tmp_path / "s", *overrides)
    assert said.startswith("1 steps in all")
    assert (tmp_path / "s" / "transformer").is_dir()
    student = dsd.DSDPipeline.from_pretrained(tmp_path / "s")
    assert student.frame_size == (32, 32)


def test_the_papers_numbers() -> None:
    recipe = read(EXAMPLES / "paper.yaml")
    student, trainer = recipe["student"], recipe["trainer"]
    together = recipe["data"]["batch_size"] * trainer["devices"] * trainer["accumulate_grad_batches"]
    assert (together, trainer["devices"], trainer["max_steps"]) == (160, 8, 100_000)
    assert (student["lora"]["rank"], student["optimizer"], student["lr"]) == (512, "adamw", 1e-4)
    assert read(EXAMPLES / "released.yaml")["student"]["lora"]["rank"] == 128
