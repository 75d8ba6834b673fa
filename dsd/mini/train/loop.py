"""What the training scripts share: a clock, a learning-rate curve, an average of the weights, checkpoints, a
log.
"""

import json
import math
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn


class Average:
    """Exponential moving average of a module's parameters, with the usual warm-up of its decay."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.shadow = {name: p.detach().clone() for name, p in module.state_dict().items()}

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """Move towards the module's present weights."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, value in module.state_dict().items():
            if value.is_floating_point():
                self.shadow[name].lerp_(value, 1 - decay)
            else:
                self.shadow[name].copy_(value)


def write_checkpoint(path: Path, saved: Mapping[str, Any]) -> None:
    """Write a checkpoint whole, under a temporary name first."""
    part = path.with_suffix(".pt.part")
    torch.save(dict(saved), part)
    part.replace(path)


class Training:
    """A training of stated length in minutes that survives being stopped.

    The learning rate follows the share of the time that is spent: a linear warm-up, then a cosine to a
    fiftieth. A checkpoint holds modules, averages, optimisers, the step and the minutes spent, so that a run
    goes on where it stopped, on another machine too. With `restart` the curve begins anew at the checkpoint.
    """

    def __init__(
        self,
        folder: Path,
        minutes: float,
        warmup_steps: int = 100,
        save_every_s: float = 120.0,
        restart: bool = False,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.minutes, self.warmup_steps, self.save_every_s = (
            folder,
            minutes,
            warmup_steps,
            save_every_s,
        )
        self.step, self.spent_s, self.since_s = 0, 0.0, 0.0
        self.restart = restart
        self.state: dict[str, Any] = {}

    @property
    def share(self) -> float:
        """Share of the time that is spent, since the learning rate was last raised, in [0, 1]."""
        return min(1.0, (self.spent_s - self.since_s) / (60 * self.minutes - self.since_s))

    def rate(self) -> float:
        """What to multiply the peak learning rate by."""
        warm = min(1.0, (self.step + 1) / self.warmup_steps)
        return warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * self.share)))

    def run(self, **state: Any) -> Iterator[int]:
        """Yield step numbers until the time is spent; `state` are the objects with a state dict to be
        saved.
        """
        self.state = state
        path = self.folder / "checkpoint.pt"
        if path.exists():
            saved = torch.load(path, weights_only=True)
            for name, thing in state.items():
                if isinstance(thing, Average):
                    thing.shadow = saved[name]
                else:
                    thing.load_state_dict(saved[name])
            self.step, self.spent_s = saved["step"], saved["spent_s"]
            self.since_s = self.spent_s if self.restart else saved.get("since_s", 0.0)
        last_save, last = time.monotonic(), time.monotonic()
        while self.spent_s < 60 * self.minutes:
            yield self.step
            now = time.monotonic()
            self.spent_s += now - last
            last = now
            self.step += 1
            if now - last_save > self.save_every_s:
                self.save()
                last_save = last = time.monotonic()
        self.save()

    def save(self) -> None:
        """Write the checkpoint."""
        saved = {n: t.shadow if isinstance(t, Average) else t.state_dict() for n, t in self.state.items()}
        clock = {"step": self.step, "spent_s": self.spent_s, "since_s": self.since_s}
        write_checkpoint(self.folder / "checkpoint.pt", {**saved, **clock})

    def log(self, **values: float) -> None:
        """Append one line to `log.jsonl`."""
        row = {"step": self.step, "minutes": round(self.spent_s / 60, 2)} | {
            k: round(v, 5) for k, v in values.items()
        }
        with (self.folder / "log.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")
