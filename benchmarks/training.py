"""What a training step costs with dsd, beside the bare loop, diffusers' way and the release's pipeline.

    python benchmarks/training.py            some minutes on one core; prints a table, writes JSON and a plot
    python benchmarks/training.py --quick    rougher

The model is that of benchmarks/conditioning.py: a random `FluxTransformer2DModel` of width 384 with the
embedded model's autoencoder and text encoders; conditioning `parallel`, LoRA of rank 16. Measured are

- step: `Student.losses` with one generator a pair, backward and AdamW, against a bare loop on ready-made
  tokens; and the same through `lightning.Trainer`, whole trainings of the same number of steps;
- diffusers: a step on cached encodings against one in the way of diffusers' training scripts, which encode
  picture and text in each step;
- on the fly: the same against dsd's own step on pictures;
- pictures: memory of `ValidationPictures` against that of a training step, both beyond the denoiser;
- sampling, guidance: `DSDPipeline` against the release's pipeline (`FluxControlPipeline` is the same
  function) and its three predictions one after the other;
- loader: reading an epoch of cached encodings against steps on its batches;
- start-up: `dsd fit` on the embedded model, from the command to the end of its first step.
"""

import argparse
import json
import logging
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, cast

import diffusers
import lightning
import numpy as np
import torch
from bars import Bar, draw
from conditioning import BATCH, PROMPT, Side, sampling
from measuring import Ratio, peaks, seconds, single_thread
from PIL import Image
from rich.console import Console
from rich.table import Table
from stock import FRAME, SETTINGS
from torch.nn import functional

import dsd
from dsd import Student, teachers
from dsd.backbones import Batch, RawBatch
from dsd.backbones.packing import pack
from dsd.pictures import ValidationPictures
from dsd.randomness import generator
from dsd.types import Grid, GridPrompt

START_UP_S = 20.0


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        what: ours / theirs.
        found: what was measured.
        limit: the highest ratio that is wanted; None where the ratio is only told.
        unit: "s" or "B".
    """

    what: str
    found: Ratio
    limit: float | None
    unit: str = "s"

    @property
    def kept(self) -> bool:
        """Whether the limit holds, if there is one."""
        return self.limit is None or self.found.ratio <= self.limit


class Steps(Side):
    """Training steps of several kinds on one model and the same pairs."""

    def __init__(self) -> None:
        super().__init__(SETTINGS["parallel"])
        pixels = torch.rand(2, BATCH, 3, FRAME, FRAME, generator=torch.Generator().manual_seed(1)) * 2 - 1
        ids = [str(i) for i in range(BATCH)]
        self.raw = RawBatch(ids=ids, reference=pixels[0], target=pixels[1], captions=[PROMPT] * BATCH)
        self.black = torch.full_like(pixels[0], -1.0)

    def our_step(self, batch: Any = None) -> None:
        """As `Student.training_step`."""
        student = self.student
        generators = [generator(student.device, 0, "train", i) for i in range(BATCH)]
        student.losses(student._encoded(batch or self.batch), generators)[0].backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def diffusers_step(self) -> None:
        """Autoencoder and text encoders in each step, then the bare step."""
        backbone = self.student.backbone
        with torch.no_grad():
            canvas = torch.cat([self.raw.reference, self.raw.target], dim=-1)
            shown = torch.cat([self.raw.reference, self.black], dim=-1)
            x_0, seen = pack(backbone.encode_image(canvas)), pack(backbone.encode_image(shown))
            text = backbone.encode_text(self.raw.captions)
        noise = torch.randn(x_0.shape)
        t = torch.sigmoid(torch.randn(BATCH))
        x_t = torch.lerp(x_0, noise, t[:, None, None])
        output = self.setting.predict(self.student, x_t, self.ids, t, seen, text)
        functional.mse_loss(output, noise - x_0).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def fit(self, count: int) -> None:
        """So many steps by Lightning."""
        trainer = lightning.Trainer(
            max_steps=count,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        batches: Any = torch.utils.data.DataLoader(cast(Any, [self.batch] * count), batch_size=None)
        trainer.fit(self.student, batches)

    def pictures(self) -> Ratio:
        """Peak memory of a validation picture against that of a step, with the denoiser alone to start with.

        The autoencoder's weights are counted with the pictures: they may be mapped from their file, which the
        profiler does not see.
        """
        backbone = self.student.backbone
        weights = sum(p.numel() * p.element_size() for p in cast(torch.nn.Module, backbone.vae).parameters())
        pictures = ValidationPictures([self.reference_pixels[0] / 2 + 0.5], [PROMPT], num_inference_steps=2)
        trainer = lightning.Trainer(accelerator="cpu", barebones=True)
        pictures.setup(trainer, self.student, "fit")
        backbone.release("vae", "text")
        found = peaks(partial(pictures.draw, trainer, self.student), self.our_step)
        assert backbone.loaded == {"denoiser"}
        backbone.load("vae", "text")
        ours = found.ours + weights
        share = ours / found.theirs
        return replace(found, ours=ours, ratio=share, low=share, high=share)


@teachers.register("noise")
class Noise(teachers.Teacher):
    """Draws noise, at once."""

    def draw(self, prompts: Sequence[GridPrompt], seeds: Sequence[int]) -> list[Grid]:
        """One 2x2 grid of the small world's size for each prompt."""
        return [
            Grid(image=Image.fromarray(pixels), prompt=prompt, seed=seed, teacher="noise")
            for prompt, seed in zip(prompts, seeds, strict=True)
            for pixels in [np.random.default_rng(seed).integers(0, 256, (128, 128, 3), dtype=np.uint8)]
        ]


def cached_run(folder: Path, count: int) -> dsd.Run:
    """A run of noise with its encodings."""
    run = dsd.Run(folder)
    dsd.write_prompts(run, writer="template", count=count, seed=0, progress=False)
    dsd.draw_grids(run, teacher="noise", progress=False)
    dsd.make_pairs(run, progress=False)
    dsd.encode(run, "mini", conditioning="parallel", policy="every", progress=False)
    return run


def training(steps: Steps, few: int, many: int) -> Iterator[Row]:
    """Steps against steps."""
    steps.student.train()
    yield Row("step / bare loop", seconds(steps.our_step, steps.stock_step, many), 1.03)
    yield Row("step / bare loop, memory", peaks(steps.our_step, steps.stock_step), 1.03, "B")

    def bare() -> None:
        for _ in range(10):
            steps.stock_step()

    yield Row("10 steps by Trainer.fit / bare loop", seconds(partial(steps.fit, 10), bare, few), None)
    steps.student.train()
    yield Row("cached / diffusers' way", seconds(steps.our_step, steps.diffusers_step, few), 1.0)
    yield Row("cached / on the fly", seconds(steps.our_step, partial(steps.our_step, steps.raw), few), 1.0)
    yield Row("pictures / step, memory", steps.pictures(), 1.0, "B")


def drawing(steps: Steps, few: int) -> Iterator[Row]:
    """Pictures against the release's way of drawing."""
    with torch.no_grad(), tempfile.TemporaryDirectory() as folder:
        steps.student.eval()
        ours, theirs = partial(steps.our_guidance, 2.0, 3.0), partial(steps.stock_guidance, 2.0, 3.0)
        yield Row("guided step / release's", seconds(ours, theirs, few), 1.0)
        steps.student.save_pretrained(folder)
        for what, key, found in sampling(SETTINGS["parallel"], Path(folder), few):
            yield Row(f"{what} / release's pipeline", found, 1.02, "B" if what.endswith("memory") else "s")
            assert key == "sampling"


def loading(run: dsd.Run, repeats: int) -> Iterator[Row]:
    """An epoch read from disk against steps on as many batches, both of the embedded model.

    The loader reads ahead with threads, so that a step beside it would be charged with its work.
    """
    data = dsd.PairDataModule(run, batch_size=16, encoded=True, policy="every", num_workers=2)
    student = Student("mini", lora={"rank": 16})
    optimizer: Any = student.configure_optimizers()
    batch = next(iter(data.train_dataloader()))
    assert isinstance(batch, Batch)
    batches = len(data.train_dataloader())

    def read() -> None:
        for _ in data.train_dataloader():
            pass

    def steps() -> None:
        for _ in range(batches):
            student.losses(batch, torch.Generator().manual_seed(0), dropout=False)[0].backward()
            optimizer.step()
            optimizer.zero_grad()

    yield Row(f"reading {batches} batches of 16 / steps on them", seconds(read, steps, repeats), 0.2)


def start_up(run: dsd.Run, repeats: int) -> dict[str, Any]:
    """Seconds from the command to the end of the first step, and the CPU seconds of them."""
    walls, cpus = [], []
    with tempfile.TemporaryDirectory() as folder:
        for i in range(repeats):
            file, config = Path(folder) / f"{i}.json", Path(folder) / f"{i}.yaml"
            callback = {"class_path": "first_step.FirstStep", "init_args": {"file": str(file)}}
            trainer = {"max_steps": 1, "accelerator": "cpu", "callbacks": [callback]}
            content = {
                "student": {"base": "mini", "lora": {"rank": 16}},
                "data": {"source": str(run.path), "policy": "every", "encoded": True, "batch_size": 16},
                "trainer": {**trainer, "enable_progress_bar": False, "enable_model_summary": False},
                "components": "trained",
            }
            config.write_text(json.dumps(content))
            command = [
                sys.executable,
                "-m",
                "dsd",
                "fit",
                "--config",
                str(config),
                "--out",
                str(Path(folder) / f"s{i}"),
            ]
            path = {"PYTHONPATH": f"{Path(__file__).parent}:{Path.cwd()}"}
            begun = time.time()
            subprocess.run(command, check=True, capture_output=True, env={**os.environ, **path})
            told = json.loads(file.read_text())
            walls.append(told["time"] - begun)
            cpus.append(told["cpu_s"])
    return {"wall_s": statistics.median(walls), "cpu_s": statistics.median(cpus), "limit_s": START_UP_S}


def main() -> None:
    """Measure, print a table, write JSON and a plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer repeats")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks/training.json"))
    arguments = parser.parse_args()
    single_thread()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    diffusers.utils.logging.set_verbosity_error()
    diffusers.utils.logging.disable_progress_bar()
    few, many = (3, 7) if arguments.quick else (7, 21)
    console, steps = Console(), Steps()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        run = cached_run(Path(folder) / "run", 8)
        started = start_up(run, 1 if arguments.quick else 3)
        console.print(f"start-up: {started}")
        for row in chain(training(steps, few, many), drawing(steps, few), loading(run, few)):
            rows.append(row)
            console.print(f"{row.what}: {row.found.ratio:.3f}")
    table = Table("what", "ours", "theirs", "ratio", "quartiles", "at most")
    for row in rows:
        scale, unit = (1.0, "s") if row.unit == "s" else (2**20, "MiB")
        found = row.found
        cells = [f"{x / scale:.3f} {unit}" for x in (found.ours, found.theirs)]
        spread, limit = f"{found.low:.3f} to {found.high:.3f}", "" if row.limit is None else f"{row.limit}"
        style = None if row.kept else "bold red"
        table.add_row(row.what, *cells, f"{found.ratio:.3f}", spread, limit, style=style)
    console.print(table)
    about = {
        "versions": {package.__name__: package.__version__ for package in (torch, diffusers, lightning)},
        "machine": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "seconds": "CPU time of the process, median",
        "start_up": started,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    ratios = [{"what": r.what, "limit": r.limit, "kept": r.kept, **asdict(r.found)} for r in rows]
    arguments.out.write_text(json.dumps({**about, "ratios": ratios}, indent=2) + "\n")
    bars = [Bar(row.what, row.found.ratio, row.limit, row.unit) for row in rows]
    draw(bars, arguments.out.with_suffix(".png"))
    console.print(f"Written to {arguments.out} and its .png.")


if __name__ == "__main__":
    main()
