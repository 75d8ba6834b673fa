"""The study of architectures: what all backends share, what is done once, and what the report says."""

import csv
import inspect
import json
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
import torch
from PIL import Image

import dsd
from dsd import backbones, conditioning
from dsd.cli import main, options
from dsd.cli import study as cli_study
from dsd.data.encoded import EncodedPairs
from dsd.evaluation import Section, bootstrap, held_out
from dsd.evaluation.page import render_page
from dsd.memory import PeakMemory
from dsd.studies import Column, Table, answers, cell, compare_architectures, plots, results, training
from dsd.studies.comparison import name_of, rate_of
from dsd.studies.folder import StudyFolder
from dsd.studies.intervals import crossed_interval
from dsd.studies.matching import matched
from dsd.studies.plan import LEAST_STEPS, Probe, marks, steps_for
from dsd.studies.sheet import write_sheet
from tests.cheap_world import make_run
from tests.html_page import EVIL, Page, check

BACKENDS = ["parallel", {"name": "token_concat", "id_scheme": "uno"}, "concat"]
NAMES = ["parallel", "token_concat id_scheme=uno", "concat"]
STEPS = 5


def shrunk(images):
    """An identity encoder that only a test could want."""
    return np.stack([np.asarray(x.resize((4, 4)), dtype=np.float32).ravel() + 1 for x in images])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("data") / "run", count=6, size=128)


@pytest.fixture(scope="module")
def asked(run, tiny_flux):
    return {
        "run": run, "base": str(tiny_flux), "backends": BACKENDS, "seeds": 2, "steps": STEPS, "references": 3,
        "scenes": 2, "batch_size": 4, "validation_pairs": 4, "num_inference_steps": 2, "precision": "32-true",
        "extractor": shrunk, "workers": 1, "checkpoint_s": 0.0, "dropout": 0.3, "lr": 1e-3, "progress": False,
    }  # fmt: skip


@pytest.fixture(scope="module")
def study(asked, tmp_path_factory):
    """A whole study, in its folder, and what it returned."""
    folder = tmp_path_factory.mktemp("study") / "out"
    return folder, compare_architectures(out=folder, **asked)


def manifests(folder, name):
    slugged = name.replace(" ", "-").replace("=", "-")
    return [json.loads(p.read_text()) for p in sorted(folder.glob(f"cells/{slugged}-seed*/manifest.json"))]


def records(folder):
    return {p.parent.name: json.loads(p.read_text()) for p in sorted(folder.glob("cells/*/training.json"))}


def rows(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_every_number_of_the_tables_comes_from_the_cells(study):
    folder, facts = study
    plan = json.loads((folder / "study.json").read_text())["plan"]
    told = rows(folder / "scores.csv")
    assert [(row["backend"], row["mark"]) for row in told[:6]] == [
        (name, mark) for mark in ("steps", "compute") for name in NAMES
    ]
    assert [row["backend"] for row in told[6:]] == ["text_only", "copy", "ceiling"]
    for row in told[:6]:
        step, cells = plan["marks"][row["backend"]][row["mark"]], manifests(folder, row["backend"])
        assert int(row["step"]) == step
        assert len(cells) == int(row["seeds"]) == 2
        assert float(row["tflop"]) == pytest.approx(step * plan["probes"][row["backend"]]["step_tflop"])
        for score in answers.SCORES:
            values = np.array([found["scores"][str(step)][score] for found in cells])
            assert values.shape == (2, 3, 2)
            assert float(row[score]) == pytest.approx(values.mean())
            assert float(row[f"{score}_low"]) <= values.mean() + 1e-9
            assert float(row[f"{score}_high"]) >= values.mean() - 1e-9
        product = np.array([found["scores"][str(step)]["product"] for found in cells])
        parts = [np.array([found["scores"][str(step)][x] for found in cells]) for x in ("identity", "scene")]
        np.testing.assert_allclose(product, parts[0] * parts[1], atol=1e-6)
        first = manifests(folder, "parallel")
        step = plan["marks"]["parallel"][row["mark"]]
        against = np.array([found["scores"][str(step)]["product"] for found in first])
        ahead = float(row["ahead"]) if row["ahead"] else 0.0
        assert ahead == pytest.approx(product.mean() - against.mean(), abs=1e-9)
    assert float(told[7]["copy"]) == float(told[7]["identity"]) == 1
    assert float(told[7]["scene"]) == 0
    assert float(told[8]["copy"]) == 0
    assert facts == json.loads(json.dumps(facts))
    assert json.loads((folder / "report.json").read_text())["costs"] == json.loads(json.dumps(facts["costs"]))


def test_costs_are_what_was_counted_and_measured(study):
    folder, facts = study
    written = records(folder)
    costs = {row["backend"]: row for row in facts["costs"]}
    for name in NAMES:
        own = [record for key, record in written.items() if key.startswith(name.partition(" ")[0])]
        seconds = [x for record in own for x in record["seconds"]]
        assert costs[name]["step_s"] == pytest.approx(float(np.median(seconds)))
        curve = np.mean([[loss for _, loss in record["validated"]] for record in own], axis=0)
        steps = [step for step, _ in own[0]["validated"]]
        wanted = facts["plan"]["probes"][name]
        reached = costs[name]["steps_to_quality"]
        curves = [[x for _, x in record["validated"]] for record in written.values()]
        pairs = zip(curves[::2], curves[1::2], strict=True)  # of one backend, two seeds
        quality = max(min(np.mean(pair, axis=0)) for pair in pairs)
        assert curve[steps.index(reached)] <= quality
        assert all(curve[: steps.index(reached)] > quality)
        assert costs[name]["tflop_to_quality"] == pytest.approx(reached * wanted["step_tflop"])
    assert costs["concat"]["step_tflop"] < costs["parallel"]["step_tflop"]
    assert costs["concat"]["num_tokens"] < costs["parallel"]["num_tokens"]
    assert costs["concat"]["peak_mib"] < costs["parallel"]["peak_mib"]
    flux = {row["backend"]: row for row in facts["flux"]}
    assert flux["concat"]["relative"] == 1
    assert flux["concat"]["added_parameters"] == 64 * 3072
    assert flux["concat"]["num_tokens"] == 1536
    assert flux["parallel"]["formula_tflop"] == pytest.approx(37.6, abs=0.1)


def test_all_backends_saw_the_same_pairs_noise_times_and_dropout(study, asked, run):
    folder, _ = study
    written = records(folder)
    for seed in (0, 1):
        orders = {r["orders"][str(STEPS)] for name, r in written.items() if name.endswith(f"seed{seed}")}
        assert len(orders) == 1
    first, second = (written[f"concat-seed{seed}"] for seed in (0, 1))
    assert first["orders"][str(STEPS)] != second["orders"][str(STEPS)]

    seen = {}
    for spec in BACKENDS:
        method = conditioning.create(spec)
        found = seen[name_of(conditioning.spec(method))] = {"ids": [], "noise": [], "t": [], "shown": []}
        cache = next(n for n in EncodedPairs.names(run.path) if f"/{conditioning.spec(method)['name']}" in n)
        data = dsd.PairDataModule(run, batch_size=4, encoded=cache, seed=7)
        student = dsd.Student(base=asked["base"], conditioning=method, reference_dropout=0.5, seed=7)

        def watched(backbone, x_t, t, reference, text, guidance=1.0, found=found, method=method):
            found["t"].append(t)
            found["shown"].append(reference.latents.flatten(1).abs().sum(1) > 0)
            found["x_t"] = method.crop(x_t)
            return torch.zeros_like(x_t)

        student.conditioning.velocity = watched
        for number, batch in enumerate(data.train_dataloader()):
            generator = torch.Generator().manual_seed(number)
            with torch.no_grad():
                student.losses(batch, generator)
            t = found["t"][-1].reshape(-1, 1, 1, 1)
            found["ids"] += batch.ids
            found["noise"].append((found["x_t"] - (1 - t) * batch.target) / t)
    one = seen["concat"]
    assert 0 < torch.cat(one["shown"]).float().mean() < 1
    for other in seen.values():
        assert other["ids"] == one["ids"]
        for key in ("noise", "t", "shown"):
            torch.testing.assert_close(torch.cat(other[key]), torch.cat(one[key]), rtol=1e-3, atol=1e-3)


def test_answers_start_from_the_same_noise_of_the_target():
    frame = (4, 6, 2)
    alone = answers.canvas_noise(conditioning.create("concat"), frame, [3, 4])
    beside = conditioning.create("parallel")
    canvas = answers.canvas_noise(beside, frame, [3, 4])
    assert canvas.shape == (2, 4, 6, 4)
    assert torch.equal(beside.crop(canvas), alone)
    assert not torch.equal(beside.split(canvas)["reference"], alone)
    assert not torch.equal(alone[0], alone[1])


def test_the_report_stands_alone_and_says_what_was_found(study):
    folder, facts = study
    found = check((folder / "report.html").read_text())
    best = max((row for row in facts["scores"] if row["mark"] == "compute"), key=lambda row: row["product"])
    assert f"{best['product']:.2f}" in found.text
    for name in NAMES:
        assert found.text.count(name) > 3
    assert len(found.images) == 3 * (1 + 2 * (len(NAMES) + 2))
    text = (folder / "report.md").read_text()
    for row in facts["scores"][:6]:
        wanted = f"{row['identity']:.2f} ({row['identity_low']:.2f} to {row['identity_high']:.2f})"
        assert wanted in text
        assert wanted in found.text
    for drawing in folder.glob("plots/*.svg"):
        ElementTree.parse(drawing)
        assert f"plots/{drawing.name}" in text
    assert {path.stem for path in folder.glob("plots/*.svg")} >= {"product", "copy", "validation", "training"}
    with Image.open(folder / "answers.png") as sheet:
        assert min(sheet.size) > 300
    assert not list(folder.glob("cells/*/*.ckpt"))
    assert not list(folder.glob("cells/*/*.safetensors"))


def test_what_a_name_says_is_shown_and_not_obeyed():
    table = Table(
        title=EVIL,
        text=EVIL,
        columns=[Column(key="name", title=EVIL), Column(key="x", title="x", show=str, best="max")],
        rows=[{"name": EVIL, "x": 1}, {"name": "a|b", "x": 2}, {"name": "beside", "x": 9}],
        num_beside=1,
    )
    drawing = plots.lines([plots.Line(name=EVIL, points=[(0, 1), (1, 2)])], EVIL, EVIL, description=EVIL)
    dotted = plots.dots([(EVIL, {EVIL: (1.0, 0.5, 2.0)})], EVIL, description=EVIL, rules={EVIL: 1.0})
    figures = Section(template="drawings", data={"drawings": [(EVIL, drawing), (EVIL, dotted)]})
    text = render_page("a page", [table.section(), figures])
    page = Page(text)
    assert "script" not in page.tags
    assert "img" not in page.tags
    for svg in (drawing, dotted):
        ElementTree.fromstring(plots.standalone(svg))
    lines = table.markdown().splitlines()
    assert "<" not in lines[2]
    assert r"| a\|b | **2** |" == lines[3]
    assert lines[4] == "| beside | 9 |"


def test_done_cells_are_never_done_again_and_seeds_can_be_added(study, asked, monkeypatch, tmp_path):
    folder, facts = study
    before = {p: p.stat().st_mtime_ns for p in folder.glob("cells/*/manifest.json")}
    with monkeypatch.context() as patch:
        patch.setattr(cell, "train", lambda *_, **__: pytest.fail("it was trained already"))
        patch.setattr(cell, "draw", lambda *_, **__: pytest.fail("it was drawn already"))
        again = compare_architectures(out=folder, **asked)
        fewer = compare_architectures(out=folder, **{**asked, "seeds": 1})
    assert again == facts
    assert fewer["seeds"] == 1
    assert "backends, 1 seed, the same pairs: " in (folder / "report.md").read_text()
    assert {p: p.stat().st_mtime_ns for p in before} == before
    with pytest.raises(ValueError, match=r"begun with other arguments: steps was 5, now 6"):
        compare_architectures(out=folder, **{**asked, "steps": 6})
    with pytest.raises(ValueError, match=r"holds another cell: seed was 0, now 1"):
        _ = (
            StudyFolder(folder, "architectures", facts["arguments"])
            .cell("concat-seed0", {**manifests(folder, "concat")[0]["spec"], "seed": 1})
            .manifest
        )


class PowerFailureError(BaseException):
    """Nothing that a program could catch."""


def test_killed_anywhere_it_comes_to_the_same(study, asked, monkeypatch, tmp_path):
    """The power fails after each step of the training in turn, after each picture, and before the report."""
    whole, _ = study
    asked = {**asked, "seeds": 1, "backends": ["parallel", "concat"]}
    folder, failures = tmp_path / "out", []

    def failing(module, name, after):
        function = getattr(module, name)

        def call(*args, **kwargs):
            result = function(*args, **kwargs)
            key = after(args, result)
            if key is not None and key not in failures:
                failures.append(key)
                raise PowerFailureError(key)
            return result

        monkeypatch.setattr(module, name, call)

    failing(
        training.Recorder, "on_train_batch_end", lambda args, _: (args[0].folder.name, len(args[0].losses))
    )
    failing(cell, "draw", lambda args, _: ("draw", args[0].conditioning.__class__.__name__))
    failing(cell, "save_rows", lambda args, _: ("save", str(args[1])))
    for _ in range(60):
        try:
            compare_architectures(out=folder, **asked)
            break
        except PowerFailureError:
            continue
    else:
        pytest.fail("it never ends")
    plan = json.loads((folder / "study.json").read_text())["plan"]
    assert len(failures) > sum(max(plan["marks"][name].values()) for name in ("parallel", "concat"))
    ours, theirs = records(folder), records(whole)
    for name in ("parallel", "concat"):
        for key in ("losses", "frames"):
            assert ours[f"{name}-seed0"][key] == theirs[f"{name}-seed0"][key]
        mine, yours = (manifests(path, name)[0] for path in (folder, whole))
        shared = set(mine["scores"]) & set(yours["scores"])
        assert str(STEPS) in shared
        for step in shared:
            assert mine["scores"][step] == yours["scores"][step]
        assert ours[f"{name}-seed0"]["orders"][str(STEPS)] == theirs[f"{name}-seed0"]["orders"][str(STEPS)]


def test_equal_compute_is_equal():
    costs = {"a": 3.0, "b": 1.1, "c": 2.0}
    found = marks(100, costs)
    assert {name: steps["steps"] for name, steps in found.items()} == dict.fromkeys(costs, 100)
    assert found["a"]["compute"] == 100
    for name, steps in found.items():
        assert abs(steps["compute"] * costs[name] - 300) <= costs[name] / 2
    for steps, cost in ((0, costs), (10, {}), (10, {"a": 0.0})):
        with pytest.raises(ValueError, match="must be above 0"):
            marks(steps, cost)


def probe(**changed):
    whole = ("num_tokens", "peak_bytes", "base_parameters", "added_parameters", "trained_parameters")
    numbers = {name: 1 if name in whole else 1.0 for name in Probe.__dataclass_fields__}
    return Probe(**{**numbers, "student": {}, "trained": "", **changed})


def test_the_steps_fill_the_time():
    probes = {"a": probe(step_tflop=4.0, step_s=2.0), "b": probe(step_tflop=1.0, step_s=0.6)}
    steps = steps_for(10_000.0, probes, 3, 1000.0)
    found = marks(steps, {name: p.step_tflop for name, p in probes.items()})
    took = 3 * sum(max(found[name].values()) * p.step_s for name, p in probes.items())
    assert 0.98 * 9000 < took <= 9000
    assert steps_for(1.0, probes, 3, 1000.0) == LEAST_STEPS


@pytest.mark.parametrize("name", ["parallel", "concat", "token_concat", "controlnet", "ip_adapter"])
@pytest.mark.parametrize("budget", [None, 3000, 400])
def test_what_is_trained_comes_near_the_budget(name, budget, tiny_flux):
    arguments, _ = matched(backbones.load(str(tiny_flux), parts=("denoiser",)), name, budget)
    student = dsd.Student(base=str(tiny_flux), conditioning=name, **arguments)
    trained = sum(p.numel() for p in student.parameters() if p.requires_grad)
    base = backbones.load(str(tiny_flux), parts=("denoiser",)).denoiser
    wanted = budget or sum(p.numel() for p in base.parameters())
    added = sum(p.numel() for p in student.conditioning.trained(student.denoiser).values())
    if added:
        assert 0.7 < trained / wanted < 1.3 or trained == added > wanted
    else:
        assert 0.7 < trained / wanted < 1.3 or arguments["lora"]["rank"] == 1


def test_peak_memory_is_exact():
    weight = torch.randn(256, 256, requires_grad=True)
    with PeakMemory([weight]) as memory:
        x = torch.randn(1000, 256)
        y = x
        for _ in range(4):
            y = torch.relu(y @ weight)
    matrix, rows_ = 4 * 256 * 256, 4 * 1000 * 256
    assert memory.peak == matrix + rows_ * 6  # the input, four answers, and the last product
    with PeakMemory() as memory:
        for _ in range(9):
            part = torch.zeros(1000)[10:]
            del part
    assert memory.peak == 4000


def test_a_copy_is_told_from_a_true_picture():
    cases = held_out(12, 3)
    references = [case.reference for case in cases for _ in case.scenes]
    truths = [truth for case in cases for truth in case.truths]
    assert answers.correlation(references, references).min() > 0.999
    darker = [image.point(lambda x: x * 0.7 + 20) for image in references]
    assert answers.correlation(darker, references).min() > 0.99
    assert answers.correlation(truths, references).max() < answers.COPY
    plain = [Image.new("RGB", image.size, (90, 120, 60)) for image in references]
    assert not answers.correlation(plain, references).any()


def test_intervals_are_over_references_and_seeds():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(1, 20, 3))
    alone = bootstrap.interval(lambda mean: mean, values[0], picks=bootstrap.resamples(20))
    assert crossed_interval(values) == pytest.approx(alone)
    apart = np.zeros((3, 20, 3)) + np.array([0.0, 1.0, 2.0])[:, None, None]
    assert crossed_interval(apart) == (0.0, 2.0)
    assert crossed_interval(apart + rng.normal(size=(3, 1, 3))) != (0.0, 2.0)
    shared = rng.normal(size=(3, 20, 3))
    low, high = crossed_interval((shared + 0.25) - shared)
    assert (low, high) == pytest.approx((0.25, 0.25))


def test_backends_that_saw_other_pairs_are_not_compared():
    def record(order):
        return {
            "orders": {"5": order},
            "validated": [(5, 1.0)],
            "seconds": [1.0],
            "frames": {"target": [1.0]},
        }

    parts = {
        "backends": ["a", "b"],
        "probes": {"a": probe(), "b": probe()},
        "marks": {name: {"steps": 5, "compute": 5} for name in "ab"},
        "cells": {"a": [{}], "b": [{}]},
        "baselines": {},
    }
    results.Results(**parts, records={"a": [record("x")], "b": [record("x")]}).check()
    with pytest.raises(RuntimeError, match="did not see the same pairs"):
        results.Results(**parts, records={"a": [record("x")], "b": [record("y")]}).check()


def test_wrong_arguments_are_refused_before_anything_is_made(asked, tmp_path):
    for changed, message in (
        ({"backends": "parallel,konkat"}, "Did you mean 'concat'"),
        ({"backends": "parallel,parallel"}, "given twice"),
        ({"seeds": 0}, "`seeds` must be at least 1"),
        ({"minutes": 0.0}, "`minutes` must be above 0"),
        ({"lr": {"parallel": 1e-3}}, "`lr` gives the backend"),
        ({"parameters": 0}, "`parameters` must be at least 1"),
    ):
        with pytest.raises((ValueError, LookupError), match=message):
            compare_architectures(out=tmp_path / "out", **{**asked, **changed})
    assert not list((tmp_path / "out").glob("cells/*-seed*"))
    assert rate_of({"a": 1.0, "others": 2.0}, "b") == 2.0


def test_the_command_passes_everything_on(monkeypatch, capsys, tmp_path):
    called = {}
    signature = inspect.signature(compare_architectures)
    parameters = signature.parameters

    def take(*args, **options):
        signature.bind(*args, **options)
        called.update(options, args=args)

    monkeypatch.setattr("dsd.studies.compare_architectures", take)
    given = ["study", "architectures", "--run", "r", "--out", str(tmp_path), "--backends", "parallel,concat"]
    assert main([*given, "--seeds", "2", "--minutes", "2", "--lr.others", "0.1", "--no_progress"]) == 0
    assert called.pop("args") == ("r", str(tmp_path))
    wanted = {"backends": "parallel,concat", "seeds": 2, "minutes": 2.0, "lr": {"others": 0.1}}
    assert {**called, **wanted, "progress": False} == called
    found = {option.name: option for option in options.read("dsd.cli.study:study")[1]}
    assert set(parameters) - set(found) == {"extractor"}
    for name in set(parameters) - {"run", "out", "extractor", "backends"}:
        assert found[name].default == parameters[name].default, name
    assert found["backends"].default.split(",") == list(parameters["backends"].default)
    assert capsys.readouterr().out.strip().endswith("report.html")
    assert cli_study.study.__doc__
    assert main(["study", "arcitectures", "--run", "r", "--out", "o"]) == 2


def test_long_names_stay_in_their_column_of_the_sheet(tmp_path):
    """Between the names and the pictures, and between the pictures, there is nothing but paper."""
    cases = held_out(1, num_scenes=2)
    picture, name = Image.new("RGB", (64, 64), "red"), "parallel encoding=per_frame reference_noise=0.5"
    sheet = np.asarray(
        Image.open(write_sheet(tmp_path / "a.png", cases, {name: [[picture] * 2]})).convert("L")
    )
    rows = slice(60, 60 + 96)
    paper = sheet[0, 0]
    assert (sheet[rows, 122:226] != paper).any(), "the name"
    for left in (246, 348):
        assert (sheet[rows, left : left + 6] == paper).all()
