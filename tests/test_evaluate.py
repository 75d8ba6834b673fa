"""`dsd evaluate` from end to end on the small world: who leads is who leads by geometry, and a copy falls."""

import contextlib
import io
import json
import re

import pytest
import torch

import dsd
from dsd.cli import main
from dsd.evaluation.methods import Method
from dsd.judges import Judge
from dsd.llm.records import BudgetSpent
from dsd.quickstart import Recipe
from tests.benchmark_folders import dreambench, picture
from tests.comparison_parts import NearCopy

WORLD = "{name: small_world, characters: 10, scenes: 2}"


def call(*arguments):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main(["evaluate", *map(str, arguments)])
    return status, out.getvalue(), err.getvalue()


def ok(*arguments):
    status, out, err = call(*arguments)
    assert status == 0, err
    return out


def line(*arguments):
    status, out, err = call(*arguments, "--no_progress")
    assert (status, out) == (2, ""), err
    return err.splitlines()[-1]


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    """The quickstart's student before its training: shown a reference at half the noise, it draws from it."""
    recipe, folder = Recipe(), tmp_path_factory.mktemp("student") / "student"
    made = dsd.Student(
        base=recipe.student_base,
        conditioning=recipe.conditioning,
        frame_size=(64, 64),
        seed=0,
        **recipe.student,
    )
    made.save_pretrained(folder, components="trained")
    return folder


@pytest.fixture(scope="module")
def world(student, tmp_path_factory):
    """The whole comparison by the command line, ranked by what a network says of identity."""
    out = tmp_path_factory.mktemp("world")
    method = json.dumps(
        {"name": "student", "model": str(student), "num_inference_steps": 20, "batch_size": 20}
    )
    near = "{name: tests.test_evaluate:SamePixels, label: near_copy}"
    said = ok(
        "--benchmark", WORLD, "--method", method, "--metrics", "image_similarity", "--metrics", near,
        "--rank_by", "image_similarity", "--out", out, "--no_progress",
    )  # fmt: skip
    return said, out


class SamePixels(NearCopy):
    """1 where the two pictures are the same."""

    def update(self, generated, reference):
        for a, b in zip(generated, reference, strict=True):
            self.total += float(a.convert("RGB").tobytes() == b.convert("RGB").tobytes())
            self.count += torch.tensor(1)


def figures(out, name):
    facts = json.loads((out / "evaluation.json").read_text())
    return {label: method["figures"][name]["value"] for label, method in facts["methods"].items()}


def ranking(values):
    return sorted(values, key=lambda label: -values[label])


def test_by_a_network_methods_stand_as_by_geometry_and_the_copy_leads(world):
    _, out = world
    geometry, network = figures(out, "identity"), figures(out, "image_similarity")
    assert ranking(network) == ranking(geometry) == ["copy", "ceiling", "student", "text_only"]
    assert geometry["student"] > geometry["text_only"] + 0.05
    assert geometry["copy"] == 1
    assert geometry["ceiling"] > 0.85


def test_figures_that_penalise_copies_move_the_copy_down(world):
    _, out = world
    for name in ("without_copies", "product"):
        found = figures(out, name)
        assert ranking(found) == ["ceiling", "student", "text_only", "copy"]
        assert found["copy"] == 0
    assert figures(out, "near_copy") == {"copy": 1, "ceiling": 0, "student": 0, "text_only": 0}


def test_the_table_of_the_small_world_is_shown_as_ever(world):
    said, out = world
    lines = said.splitlines()
    assert lines[0].split()[:4] == ["identity", "identity_encoder", "scene", "product"]
    assert [text.split()[0] for text in lines[1:5]] == ["copy", "ceiling", "student", "text_only"]
    assert lines[1].split()[1:5] == ["1.000", "1.000", "0.000", "0.000"]
    assert lines[-1] == str(out / "evaluation.html")
    facts = json.loads((out / "evaluation.json").read_text())
    values = figures(out, "identity")
    expected = (values["student"] - values["text_only"]) / (values["ceiling"] - values["text_only"])
    assert facts["gap_closed"] == pytest.approx(expected)
    assert facts["gap_closed_interval"][0] < expected < facts["gap_closed_interval"][1]
    assert facts["pictures"] == 20
    assert facts["subjects"] == 10


def test_the_scores_are_those_of_the_small_worlds_own_evaluation(world):
    """The same pictures, given to `evaluate_methods` by hand."""
    from PIL import Image

    from dsd.evaluation import evaluate_methods, held_out

    _, out = world
    cases = held_out(10, 2)
    answers = {
        label: [
            [
                Image.open(next((out / "methods" / label / "images").glob(f"character_{i:03d}-{j}.*.png")))
                for j in range(2)
            ]
            for i in range(10)
        ]
        for label in ("student", "text_only")
    }
    result = evaluate_methods(cases, answers, workers=1)
    for name in ("identity", "identity_encoder", "scene", "product"):
        theirs = {label: getattr(scores, name) for label, scores in result.methods.items()}
        assert figures(out, name) == pytest.approx(theirs)
    facts = json.loads((out / "evaluation.json").read_text())
    ours = facts["methods"]["student"]["figures"]["identity"]["interval"]
    assert ours == pytest.approx(result.methods["student"].intervals["identity"])
    assert facts["gap_closed_interval"] == pytest.approx(result.gap_interval)


def test_a_second_call_draws_nothing(world, student, monkeypatch):
    from dsd.evaluation.methods.student import StudentMethod

    _, out = world
    monkeypatch.setattr(StudentMethod, "draw", lambda self, jobs: pytest.fail("drawn again"))
    method = json.dumps(
        {"name": "student", "model": str(student), "num_inference_steps": 20, "batch_size": 3}
    )
    again = ok("--benchmark", WORLD, "--method", method, "--out", out, "--no_progress")
    assert again.splitlines()[1].split()[0] == "ceiling"  # ranked by the product


def test_a_model_alone_brings_its_own_baselines(student, tmp_path):
    said = ok("--model", student, "--out", tmp_path, "--benchmark", WORLD, "--limit", 2, "--no_progress")
    names = {text.split()[0] for text in said.splitlines()[1:6]}
    assert names == {"student", "untrained", "text_only", "copy", "ceiling"}
    page = (tmp_path / "evaluation.html").read_text()
    assert "A sample: 2 of 20 cases" in page
    untrained, trained = figures(tmp_path, "identity")["untrained"], figures(tmp_path, "identity")["student"]
    assert untrained == pytest.approx(trained, abs=0.02)  # it has not been trained


class Twice(Method):
    """The reference, in twice its size; nothing for subjects of which there are several pictures."""

    about = "the reference, enlarged"

    def draw(self, jobs):
        if any(len(job.case.references) > 1 for job in jobs):
            raise ValueError("too many")
        return [job.case.reference.resize((128, 128)) for job in jobs]


def test_a_folder_of_ones_own_a_method_by_its_class_and_what_is_missing_is_printed(tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    for number in range(3):
        picture(number, 64).save(folder / f"{number}.png")
    cases = [{"prompt": "a cup", "reference": "0.png"}, {"prompt": "Rex", "reference": ["1.png", "2.png"]}]
    (folder / "cases.jsonl").write_text("\n".join(map(json.dumps, cases)), encoding="utf-8")
    said = ok(
        "--benchmark", "folder", "--root", folder, "--out", tmp_path / "out", "--no_progress",
        "--method", f"{__name__}:Twice", "--metrics", "image_similarity",
    ).splitlines()  # fmt: skip
    assert {text.split()[0] for text in said[1:3]} == {"copy", "Twice"}
    assert said[3] == "! Twice: 50.0 % of the pictures are missing (1 failed)."
    assert said[-1] == str(tmp_path / "out" / "evaluation.html")
    text = (tmp_path / "out" / "evaluation.md").read_text(encoding="utf-8")
    assert said[3].removeprefix("! ") in text.replace("\\", "")


def test_folders_of_peers_on_dreambench(tmp_path):
    dreambench(tmp_path / "bench", {"object": 3, "style": 2})
    for peer in ("One", "Two <x>"):
        for number in range(3):
            folder = tmp_path / peer / "tgt_image" / f"object_{number:02d}_thing_number_{number}"
            folder.mkdir(parents=True)
            for prompt in range(9):
                picture((peer, number, prompt)).save(folder / f"{prompt}_0.jpg")
    peers = [
        json.dumps({"name": "folder", "path": str(tmp_path / x), "label": x[:3]}) for x in ("One", "Two <x>")
    ]
    said = ok(
        "--benchmark", "{name: dreambench++, complete: false}", "--root", tmp_path / "bench",
        "--method", peers[0], "--method", peers[1], "--metrics", "image_similarity", "--no_progress",
        "--out", tmp_path / "out",
    )  # fmt: skip
    assert said.splitlines()[1].startswith("copy ")
    facts = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert facts["methods"]["One"]["pictures"] == {"drawn": 27, "missing": 18}
    assert [x for x in facts["notes"] if "One" in x] == [
        "One: 40.0 % of the pictures are missing (18 missing)."
    ]
    assert facts["methods"]["Two"]["figures"]["image_similarity"]["by_category"]["style"]["n"] == 0
    assert re.search("Beside published rows", (tmp_path / "out" / "evaluation.md").read_text())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "Say who is compared: --method, or --model for a student."),
        (["--method", "{name: copy"], "is no spec"),
        (["--method", "copie"], "No Method is named 'copie'. Did you mean 'copy'?"),
        (
            ["--method", "copy", "--benchmark", "dreambench"],
            "No Benchmark is named 'dreambench'. Did you mean 'dreambench++'",
        ),
        (["--method", "copy", "--benchmark", "dreambench++"], "needs the argument 'root'"),
        (
            ["--method", "copy", "--benchmark", "dreambooth", "--root", "/nowhere"],
            "There is no folder /nowhere",
        ),
        (
            ["--method", "{name: text_only, label: a}", "--method", "{name: copy, label: a}"],
            "Two methods are called 'a'",
        ),
        (
            ["--method", "copy", "--average", "mean"],
            "--average cannot be 'mean': it takes one of micro, macro",
        ),
        (["--model", "/nowhere/m"], "There is no folder '/nowhere/m'"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(tmp_path, arguments, said):
    assert said in line("--out", tmp_path, *arguments)


def test_a_budget_that_is_spent_ends_with_a_report(tmp_path):
    (tmp_path / "f").mkdir()
    picture("x", 64).save(tmp_path / "f" / "x.png")
    (tmp_path / "f" / "cases.jsonl").write_text('{"prompt": "a", "reference": "x.png"}\n')
    spec = "{name: tests.test_evaluate:Spent}"
    folder = ["--benchmark", "folder", "--root", tmp_path / "f", "--out", tmp_path / "o"]
    said = line(*folder, "--method", "copy", "--judges", spec, "--metrics", "image_similarity")
    assert "No dollar is left. What there is stands in" in said
    assert "Unfinished: No dollar is left." in (tmp_path / "o" / "evaluation.html").read_text()


class Spent(Judge):
    rubric_name, low, high = "concept_preservation", 0, 4

    def rate(self, case, run=0):
        raise BudgetSpent("No dollar is left.")
