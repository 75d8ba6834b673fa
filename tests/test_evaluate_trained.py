"""`dsd evaluate` with a student that the quickstart trained: every form of the report says the same."""

import csv
import html.parser
import json

import numpy as np
import pytest

from dsd.evaluation.comparison.measures import MetricMeasure
from dsd.evaluation.methods.student import StudentMethod
from dsd.quickstart import Recipe, quickstart
from tests.test_evaluate import ok

WORLD = "{name: small_world, characters: 3, scenes: 2}"
METHODS = {"student", "untrained", "text_only", "copy", "ceiling"}


class Tables(html.parser.HTMLParser):
    """The rows of all tables of a page, as texts."""

    def __init__(self, text):
        super().__init__()
        self.rows, self._cell = [], None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self._cell = []

    def handle_endtag(self, tag):
        if tag in ("td", "th") and self._cell is not None:
            self.rows[-1].append(" ".join("".join(self._cell).split()))
            self._cell = None

    def handle_data(self, data):
        if self._cell is not None:
            self._cell.append(data)


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """The default recipe for a few seconds, and its student on the small world."""
    run, out = tmp_path_factory.mktemp("quickstart") / "run", tmp_path_factory.mktemp("evaluated")
    few = Recipe(
        teacher={**Recipe().teacher, "num_inference_steps": 2}, curator={"name": "embedding", "low": -1.0},
        sampling={**Recipe().sampling, "num_inference_steps": 1}, references=4, batch_size=8, workers=1,
    )  # fmt: skip
    told = quickstart(run, minutes=0.05, recipe=few)
    assert told["training"]["steps"] >= 1
    return evaluate(run / "student", out), out, run / "student"


def evaluate(student, out):
    near = "{name: near_copy_rate, label: near_copy}"
    return ok(
        "--model", student, "--out", out, "--benchmark", WORLD, "--metrics", "image_similarity",
        "--metrics", near, "--no_progress",
    )  # fmt: skip


def facts_of(out):
    return json.loads((out / "evaluation.json").read_text(encoding="utf-8"))


def markdown_rows(text):
    """The cells of all table rows, without marks."""
    plain = text.replace("**", "").replace("\\", "")
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in plain.splitlines()
        if line[:1] == "|"
    ]


def shown(figure):
    low, high = figure["interval"]
    return f"{figure['value']:.3f} [{low:.3f}, {high:.3f}] n {figure['n']}"


def test_every_form_says_the_same_of_every_method_and_column(evaluated):
    said, out, _ = evaluated
    facts = facts_of(out)
    page = Tables((out / "evaluation.html").read_text(encoding="utf-8")).rows
    text = markdown_rows((out / "evaluation.md").read_text(encoding="utf-8"))
    columns = said.splitlines()[0].split()
    assert columns == [*facts["columns"]]
    assert set(facts["methods"]) == METHODS
    for place, (label, method) in enumerate(facts["methods"].items()):
        printed = said.splitlines()[1 + place].split()
        assert printed[0] == label
        figures = [method["figures"][name] for name in columns]
        assert printed[1:] == [f"{figure['value']:.3f}" for figure in figures]
        (row,) = [cells for cells in text[2:7] if cells[0].split()[0] == label]
        assert row[1 : len(columns) + 1] == [shown(figure) for figure in figures]
        drawn = [" ".join(cells) for cells in page[1:6] if cells[0].split()[0] == label]
        assert len(drawn) == 1
        for figure in figures:
            assert shown(figure) in drawn[0].replace("n\N{NO-BREAK SPACE}", "n "), drawn[0]
        assert method["figures"]["identity"]["n"] == facts["pictures"] == 6


def test_figures_are_the_means_of_the_table_of_pictures(evaluated):
    _, out, _ = evaluated
    facts = facts_of(out)
    with (out / "pictures.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6 * len(METHODS)
    for label, method in facts["methods"].items():
        mine = [row for row in rows if row["method"] == label]
        for name in ("identity", "identity_encoder", "scene", "product", "image_similarity", "near_copy"):
            mean = np.mean([float(row[name]) for row in mine])
            assert method["figures"][name]["value"] == pytest.approx(mean, abs=1e-6), (label, name)
        kept = [float(row["identity"]) * (float(row["near_copy"]) == 0) for row in mine]
        assert method["figures"]["without_copies"]["value"] == pytest.approx(np.mean(kept), abs=1e-6)


def test_the_trained_student_is_another_than_the_untrained_one_and_the_copy_falls(evaluated):
    _, out, folder = evaluated
    methods = facts_of(out)["methods"]
    value = {label: method["figures"] for label, method in methods.items()}
    assert value["student"]["identity_encoder"]["value"] != value["untrained"]["identity_encoder"]["value"]
    assert value["copy"]["identity"]["value"] == value["copy"]["near_copy"]["value"] == 1
    assert value["copy"]["without_copies"]["value"] == value["copy"]["product"]["value"] == 0
    assert value["ceiling"]["product"]["value"] > value["student"]["product"]["value"]
    assert [*methods][-1] == "copy"
    assert methods["student"]["spec"]["model"] == str(folder)


def test_the_same_command_draws_and_measures_nothing(evaluated, monkeypatch):
    said, out, folder = evaluated
    monkeypatch.setattr(StudentMethod, "draw", lambda self, jobs: pytest.fail("drawn again"))
    monkeypatch.setattr(MetricMeasure, "measure", lambda self, shown: pytest.fail("measured again"))
    assert evaluate(folder, out) == said
