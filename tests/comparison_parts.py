"""A benchmark, methods, metrics and judges of a few lines, for tests of the comparison; run as a program, one
that kills itself: `python -m tests.comparison_parts OUT WHERE COUNT`.
"""

import json
import os
import signal
import sys
from pathlib import Path

import torch
from PIL import Image
from torchmetrics import Metric

from dsd.evaluation.benchmarks import Benchmark, BenchmarkCase
from dsd.evaluation.comparison import compare
from dsd.evaluation.methods import Drawing, Method
from dsd.judges import Judge, Rating

NEAR = "tests.comparison_parts:Nearness"
COPIES = {"name": "tests.comparison_parts:NearCopy", "label": "near_copy"}


def shade(value):
    """A grey picture; its shade is what the metrics and judges here look at."""
    return Image.new("RGB", (8, 8), (value, value, value))


def shade_of(image):
    return image.convert("RGB").getpixel((0, 0))[0]


class Shades(Benchmark):
    """Subjects with a shade each, and prompts that ask for another."""

    title = "Shades <of> grey"
    source = "made & small"

    def __init__(self, subjects=6, prompts=3, root=None):
        self.subjects, self.prompts = subjects, prompts

    def load(self):
        return [
            BenchmarkCase(
                key=f"s{i}-{j}",
                prompt=f"shade {10 * i + j} <b>bold</b>",
                pictures=(shade(20 * i), shade(20 * i + 5)),
                subject=f"s{i}",
                subject_name="a <shade>",
                category="dark" if i < 2 else "light",
                kind=f"kind {j}",
                truth=shade(20 * i + 1),
            )
            for i in range(self.subjects)
            for j in range(self.prompts)
        ]


class Greys(Method):
    """Draws the reference's shade and a bit more, and writes down what it drew."""

    about = "the reference, <shifted>"
    batch_size = 1

    log = die_after = None
    fails = refuses = ()

    def __init__(self, shift=3, tunes=False):
        self.shift, self.tunes, self.drawn, self.tuned = shift, tunes, [], []

    def but(self, **faults):
        """With faults, which are no part of its spec."""
        vars(self).update(faults)
        return self

    def draw(self, jobs):
        found = []
        for job in jobs:
            if self.die_after is not None and len(self.drawn) == self.die_after:
                os.kill(os.getpid(), signal.SIGKILL)
            self.drawn.append(job.key)
            if self.log is not None:
                with Path(self.log).open("a") as file:
                    file.write(f"{job.key}\n")
            if job.key in self.fails:
                raise ValueError("a <dry> brush")
            image = shade(shade_of(job.case.reference) + self.shift + job.index)
            found.append(Drawing(status="refused", reason="no") if job.key in self.refuses else image)
        return found

    def tune(self, case):
        self.tuned.append(case.subject)
        return self.tunes


class Nearness(Metric):
    """1 - |difference of shades| / 255, for all references."""

    higher_is_better = True

    def __init__(self):
        super().__init__()
        self.add_state("total", torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, generated, reference):
        for a, b in zip(generated, reference, strict=True):
            self.total += 1 - abs(shade_of(a) - shade_of(b)) / 255
            self.count += 1

    def compute(self):
        return self.total / self.count


class NearCopy(Nearness):
    """1 where the shades are the same."""

    higher_is_better = False

    def update(self, generated, reference):
        for a, b in zip(generated, reference, strict=True):
            self.total += float(shade_of(a) == shade_of(b))
            self.count += 1


class ShadeJudge(Judge):
    """Rates by shade; refuses, fails and stops where it is told to."""

    low, high = 0.0, 4.0

    log = die_after = stop_after = None
    refuses = fails = ()

    def __init__(self, rubric="concept_preservation", step=0.25):
        self.rubric_name, self.step, self.rated = rubric, step, []

    but = Greys.but

    def rate(self, case, run=0):
        from dsd.llm.records import BudgetSpent

        if self.die_after is not None and len(self.rated) == self.die_after:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.stop_after is not None and len(self.rated) == self.stop_after:
            raise BudgetSpent("The <money> is spent.")
        self.rated.append((case.key, run))
        if self.log is not None:
            with Path(self.log).open("a") as file:
                file.write(f"{case.key} {run}\n")
        if case.key in self.fails:
            raise ConnectionError("no line")
        about = {"key": case.key, "rubric": self.rubric_name, "judge": "shade", "run": run}
        if case.key in self.refuses:
            return Rating(**about, status="refused", reason="I would rather not")
        value = 4 - abs(shade_of(case.generated) - shade_of(case.reference)) / 10 - self.step * run
        return Rating(**about, value=value, reason="<i>because</i>", cost_usd=0.001)


def run(out, method=None, benchmark=None, **more):
    given = {"metrics": [NEAR], "progress": False, **more}
    return compare(
        benchmark or Shades(),
        {"greys": method or Greys()} if not isinstance(method, dict) else method,
        out,
        **given,
    )


def _keyed(case, key):
    return type(case)(key=key, prompt=case.prompt, pictures=case.pictures, subject=case.subject)


def main() -> None:
    out, where, count = sys.argv[1:]
    die = {"die_after": int(count)}
    method = Greys().but(log=f"{out}.drawn", **(die if where == "draw" else {}))
    judge = ShadeJudge().but(log=f"{out}.rated", **(die if where == "judge" else {}))
    result = compare(
        Shades(),
        {"greys": method},
        out,
        metrics=["tests.comparison_parts:Nearness"],
        judges=[judge],
        progress=False,
    )
    figures = {name: figure.value for name, figure in result.method("greys").figures.items()}
    sys.stdout.write(json.dumps(figures))


if __name__ == "__main__":
    main()
