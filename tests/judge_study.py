"""For tests of the study of judges: a scripted judge, noisy items, and readers of its tables and pages."""

import csv
import re

import numpy as np

from dsd.judges import Judge, Rating
from dsd.llm.records import BudgetSpent
from dsd.studies import RatedItems, Scores
from tests.html_page import Page

NAN = float("nan")


def check(path):
    """A page that stands alone and runs nothing; it has drawings, and no pictures."""
    text = path.read_text(encoding="utf-8")
    found = Page(text)
    assert text.startswith("<!doctype html>")
    assert not {"script", "iframe", "link"} & set(found.tags)
    assert not found.addresses
    assert not re.search(r"https?://(?!www\.w3\.org)|url\(|@import", text)
    assert "default-src 'none'" in text
    assert "svg" in found.tags


def rows(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def row(content, part, judge):
    return next(x for x in content[part] if x["judge"] == judge)


def noisy(n=60, raters=2, seed=0, share=0.15):
    """Items of subjects with five pictures each, rated by people and scored by two judges."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 5, n)
    people = np.clip(truth + rng.integers(-1, 2, (raters, n)), 0, 4).astype(float)
    people[rng.random(people.shape) < share] = NAN
    good = truth + rng.normal(0, 1, n)
    bad = rng.normal(0, 1, n)
    bad[rng.random(n) < share] = NAN
    return RatedItems(
        source="noise",
        keys=[f"item {i}" for i in range(n)],
        groups=["one" if i < n // 2 else "other" for i in range(n)],
        subjects=[f"subject {i // 5}" for i in range(n)],
        raters=[f"rater {i}" for i in range(raters)],
        people=people,
        low=0.0,
        high=4.0,
        level="interval",
        stored={"good": Scores(values=good), "bad": Scores(values=bad, range=(-9.0, 9.0))},
        units="subjects",
    )


def vars_of(items):
    return {name: getattr(items, name) for name in items.__dataclass_fields__}


class Scripted(Judge):
    """Rates a picture by its brightness; may refuse, fail, run out of money or forget."""

    rubric_name, low, high = "brightness", 0.0, 4.0
    asked: list = []  # noqa: RUF012
    closed = 0

    def __init__(self, bias: float = 0.0, stop_after: int | None = None, max_cost_usd: float = 1.0) -> None:
        self.bias, self.stop_after = bias, stop_after

    def rate(self, case, run=0):
        if self.stop_after is not None and len(self.asked) >= self.stop_after:
            raise BudgetSpent("spent")
        self.asked.append((case.key, run))
        if case.prompt == "refuse":
            return Rating(
                key=case.key, rubric="brightness", judge="s", run=run, status="refused", cost_usd=0.5
            )
        if case.prompt == "fail":
            raise RuntimeError("no answer")
        value = min(4.0, np.asarray(case.generated)[0, 0, 0] / 50 + self.bias + run)
        return Rating(
            key=case.key, rubric="brightness", judge="s", run=run, value=value, cost_usd=0.5, raw="long"
        )

    def close(self):
        type(self).closed += 1
