"""Metrics in the study of judges: measured on the pictures that people rated, once, as they are by hand."""

import csv
import json

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats
from torchmetrics import Metric

from dsd import extractors, judges, metrics
from dsd.cli import main
from dsd.judges import Case
from dsd.metrics.functional import krippendorff_alpha
from dsd.studies import RatedItems, compare_judges
from dsd.studies.curators_rendered import of_renderer
from dsd.studies.judge_metrics import metric_entries
from dsd.studies.judge_ratings import EMBEDDED, of_table
from tests.judge_study import Scripted, row, rows
from tests.metrics.test_photographs import FOLDER, histogram


class Counting(Metric):
    """The difference of the first pixels, and how often pictures were measured; nothing for black ones."""

    higher_is_better = False
    measured = 0
    broken = False

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        self.weight = weight
        self.add_state("total", torch.tensor(0.0), dist_reduce_fx="sum")

    def update(self, generated, reference) -> None:
        assert len(generated) == len(reference) == 1
        type(self).measured += 1
        if self.broken:
            raise OSError("no weights")
        a, b = (float(np.asarray(x[0])[0, 0, 0]) for x in (generated, reference))
        self.total += self.weight * abs(a - b) if a else float("nan")

    def compute(self):
        return self.total


class Pasted(Metric):
    """How many references, truths and letters it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.tensor(0.0), dist_reduce_fx="sum")

    def update(self, generated, reference, truth, prompts) -> None:
        self.total += 100 * len(reference) + 10 * len(truth) + len(prompts[0]) + np.asarray(truth[0])[0, 0, 0]

    def compute(self):
        return self.total


COUNTING, PASTED = f"{__name__}:Counting", f"{__name__}:Pasted"


@pytest.fixture
def grey(tmp_path):
    """Twelve grey pictures, ever further from their references; the first is black."""
    Counting.measured, Counting.broken = 0, False
    folder = tmp_path / "table"
    (folder / "pictures" / "a").mkdir(parents=True)
    lines = ["name,method,ann,bob,words,other"]
    for i in range(12):
        Image.new("RGB", (8, 8), (i * 10,) * 3).save(folder / "pictures" / "a" / f"{i}.png")
        lines.append(f"{i},a,{4 - i // 3},{4 - (i + 1) // 3},{'x' * i},{'' if i % 2 else '3.png'}")
    Image.new("RGB", (8, 8), (5, 5, 5)).save(folder / "pictures" / "black.png")
    (folder / "ratings.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


COLUMNS = {
    "item": "name",
    "people": ["ann", "bob"],
    "generated": "{method}/{name}.png",
    "reference": "{method}/5.png",
    "prompt": "words",
}


def measure(folder, out, measured, columns=(), **given):
    given |= {"columns": COLUMNS | dict(columns), "images": folder / "pictures", "resamples": 20}
    return compare_judges(folder / "ratings.csv", out, metrics=measured, progress=False, **given)


def test_a_metric_stands_in_the_table_with_the_numbers_that_it_has_by_hand(grey, tmp_path):
    content = measure(grey, tmp_path / "out", COUNTING, batch_size=5)
    line = row(content, "agreement", "Counting")
    kept = np.arange(1, 12)  # black pictures have no value
    away = abs(kept * 10.0 - 50)
    people = np.array([[4 - i // 3, 4 - (i + 1) // 3] for i in kept], dtype=float).T
    for kind, function in (
        ("spearman", stats.spearmanr),
        ("pearson", stats.pearsonr),
        ("kendall", stats.kendalltau),
    ):
        assert line[kind] == pytest.approx(function(-away, people.mean(0))[0]), "lower is better"
        assert line[f"{kind}_low"] <= line[kind] <= line[f"{kind}_high"]
    unit = 1 - (away - away.min()) / (away.max() - away.min())
    alphas = [krippendorff_alpha(np.stack([unit, rater / 4]), "interval").item() for rater in people]
    assert line["alpha"] == pytest.approx(np.mean(alphas), abs=1e-6)
    assert (line["items"], line["missing"]) == (11, pytest.approx(1 / 12))
    assert "Counting gave no score to 1 of 12 items" in content["notes"][0]
    (cost,) = content["costs"]
    assert [cost[x] for x in ("rated", "refused", "failed", "cost_usd")] == [11, 0, 1, 0.0]
    found = {x["item"]: x["Counting"] for x in rows(tmp_path / "out" / "scores.csv")}
    assert found["0"] == ""
    assert [float(found[str(i)]) for i in kept] == list(away)


def test_what_was_measured_is_not_measured_again(grey, tmp_path):
    out = tmp_path / "out"
    first = measure(grey, out, COUNTING)
    assert Counting.measured == 12
    again = measure(grey, out, {"Counting": {"name": COUNTING, "range": [0, 100]}}, repeats=3)
    assert Counting.measured == 12, "a metric says the same when it is asked again"
    assert again["agreement"][0]["spearman"] == first["agreement"][0]["spearman"]
    assert again["agreement"][0]["alpha"] != first["agreement"][0]["alpha"]
    with pytest.raises(ValueError, match="gave 0 to 60, which leaves its range from 0 to 50"):
        measure(grey, out, {"Counting": {"name": COUNTING, "range": [0, 50]}})
    with pytest.raises(ValueError, match=r"'Counting' by another spec: weight was None, now 2\.0"):
        measure(grey, out, {"Counting": {"name": COUNTING, "weight": 2.0}})
    measure(grey, out, [COUNTING, {"name": COUNTING, "weight": 2.0}])
    assert Counting.measured == 24
    measure(grey, out, COUNTING, retry_failed=True)
    assert Counting.measured == 25, "the one without a value alone"


def test_a_metric_that_cannot_measure_at_all_ends_the_study_and_goes_on_later(grey, tmp_path, monkeypatch):
    out = tmp_path / "out"
    monkeypatch.setattr(Counting, "broken", True)
    with pytest.raises(OSError, match="no weights"):
        measure(grey, out, COUNTING)
    monkeypatch.setattr(Counting, "broken", False)
    assert measure(grey, out, COUNTING)["costs"][0]["rated"] == 11


def test_metrics_see_all_references_the_truth_and_the_prompt(grey, tmp_path):
    columns = {"reference": ["{method}/7.png", "a/{other}"], "truth": "{method}/3.png"}
    measure(grey, tmp_path / "out", PASTED, columns)
    found = {x["item"]: x["Pasted"] for x in rows(tmp_path / "out" / "scores.csv")}
    assert found["0"] == "", "without words there is no prompt"
    assert {found[str(i)] == str(float(140 + i)) for i in range(1, 12)} == {True}


def test_what_a_metric_needs_must_be_named(grey, tmp_path):
    for measured, columns, message in (
        (PASTED, {}, "needs generated and prompt and reference and truth of each item.*name no truth"),
        (COUNTING, {"reference": ""}, "The metric Counting needs .*the ratings name no reference"),
        (COUNTING, {"generated": ""}, "the ratings name no generated"),
        (COUNTING, {"reference": "{nothing}.png"}, "has no column 'nothing'"),
        (COUNTING, {"generated": "{words}.png"}, "The generated picture '' of '0' .* its cell is empty"),
        (COUNTING, {"generated": "../{name}.png"}, "leads out of the folder"),
        ([COUNTING, COUNTING], {}, "Two metrics are called 'Counting'"),
        ("", {}, "There is no metric"),
        ({"a": {"name": COUNTING, "range": [1, 1]}}, {}, "a range goes from low up to high"),
    ):
        with pytest.raises(ValueError, match=message):
            measure(grey, tmp_path / "out", measured, columns)
    judges.register("scripted")(Scripted)
    with pytest.raises(ValueError, match="Two judges or metrics are called 'x'"):
        measure(grey, tmp_path / "out", {"x": COUNTING}, judges={"x": "scripted"})
    with pytest.raises(TypeError, match="compares the pictures of one prompt with each other"):
        metric_entries("intra_prompt_diversity")
    with pytest.raises(LookupError, match="No Metric is named 'nobody'"):
        metric_entries("nobody")


def test_the_encoder_inside_dsd_agrees_with_what_is_known_of_drawn_characters(tmp_path):
    pairs = of_renderer(24)
    (tmp_path / "images").mkdir()
    lines = ["key,rater,one,other,character"]
    images = dict(pairs.load([label.pair_id for label in pairs.labels]))
    for number, label in enumerate(pairs.labels):
        pair = images[label.pair_id]
        pair.reference.save(tmp_path / "images" / f"{number}a.png")
        pair.target.save(tmp_path / "images" / f"{number}b.png")
        lines.append(f"{number},{int(label.same)},{number}a.png,{number}b.png,{label.subjects[0]}")
    table = tmp_path / "ratings.csv"
    table.write_text("\n".join(lines) + "\n", encoding="utf-8")
    columns = "{item: key, people: rater, generated: other, reference: one, subject: character}"
    given = ["study", "judge", "--ratings", str(table), "--columns", columns, "--out", str(tmp_path / "out")]
    asked = "{encoder: image_similarity, copies: {name: near_copy_rate, range: [0, 1]}}"
    assert main([*given, "--metrics", asked, "--resamples", "50"]) == 0
    content = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    model = extractors.load("mini")
    shown = [images[label.pair_id] for label in pairs.labels]
    a, b = model([pair.reference for pair in shown]), model([pair.target for pair in shown])
    cosines = (a * b).sum(-1).numpy()
    same = np.array([float(x.same) for x in pairs.labels])
    line = row(content, "agreement", "encoder")
    assert line["spearman"] == pytest.approx(stats.spearmanr(cosines, same)[0], abs=1e-6)
    assert line["pearson"] == pytest.approx(stats.pearsonr(cosines, same)[0], abs=1e-6)
    assert line["spearman_low"] > 0.5
    assert content["ratings"]["resampled"] == "24 subjects"
    assert "preprocessing" in content["specs"]["encoder"]
    copies = row(content, "agreement", "copies")
    assert copies["spearman"] is None, "no picture is a copy, so that all have one score"
    text = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert f"{line['spearman']:.2f} (" in text


def test_imagenhubs_pictures_are_found_in_its_folder(tmp_path):
    folder = tmp_path / "ImagenHub_Subject-Driven_IG"
    rng = np.random.default_rng(0)
    for name in ("input", "DreamBooth", "TextualInversion"):
        (folder / name).mkdir(parents=True)
    for line in csv.DictReader(EMBEDDED.open(encoding="utf-8")):
        for name in ("input", line["method"]):
            level = int(rng.integers(1, 255))
            Image.new("RGB", (8, 8), (level,) * 3).save(folder / name / line["sample"])
    content = compare_judges(
        "imagenhub", tmp_path / "out", metrics={"grey": COUNTING}, images=folder, resamples=5, progress=False
    )
    assert row(content, "agreement", "grey")["items"] == 300
    assert [x["judge"] for x in content["agreement"]][-2:] == ["grey", "people"]
    found = next(
        x for x in rows(tmp_path / "out" / "scores.csv") if x["item"] == "TextualInversion / sample_7.jpg"
    )
    a, b = (
        float(np.asarray(Image.open(folder / name / "sample_7.jpg"))[0, 0, 0])
        for name in ("input", "TextualInversion")
    )
    assert float(found["grey"]) == abs(a - b)
    (folder / "input" / "sample_3.jpg").unlink()
    with pytest.raises(
        ValueError, match=r"The reference picture 'input/sample_3.jpg' of 'DreamBooth / sample_3"
    ):
        compare_judges(
            "imagenhub", tmp_path / "other", metrics=COUNTING, images=folder, resamples=5, progress=False
        )


def test_scores_of_a_table_may_be_better_when_lower(tmp_path):
    path = tmp_path / "ratings.csv"
    path.write_text(
        "a,s\n" + "".join(f"{i % 4},{10 - i % 4 + i / 20}\n" for i in range(12)), encoding="utf-8"
    )
    found = {}
    for better in (True, False):
        columns = {"people": "a", "scores": {"apart": {"columns": "s", "higher_is_better": better}}}
        content = compare_judges(path, tmp_path / str(better), columns=columns, resamples=5, progress=False)
        found[better] = content["agreement"][0]["spearman"]
    assert found[False] == pytest.approx(-found[True])
    assert found[False] > 0.9
    with pytest.raises(ValueError, match="higher_is_better is true or false; got 'no'"):
        of_table(path, {"people": "a", "scores": {"s": {"higher_is_better": "no"}}})


def test_items_of_ones_own_give_pictures_to_metrics(grey):
    items = of_table(grey / "ratings.csv", COLUMNS, images=grey / "pictures")
    fields = {name: getattr(items, name) for name in items.__dataclass_fields__}

    def load(keys):
        for case in items.load(keys):
            yield Case(key=case.key, generated=case.generated, reference=case.reference)

    own = RatedItems(**{**fields, "load": load, "shows": ("generated", "reference")})
    content = compare_judges(own, grey / "out", metrics=COUNTING, resamples=5, progress=False)
    assert row(content, "agreement", "Counting")["items"] == 11


@pytest.mark.skipif(not FOLDER.is_dir(), reason="needs the labelled photographs")
def test_labelled_photographs_are_ratings_too(tmp_path):
    """Whether two photographs show one subject, as a rating from 0 to 1."""
    columns = {
        "item": ["reference", "target"], "people": "same_subject", "reference": "reference",
        "generated": "target",
    }  # fmt: skip
    content = compare_judges(
        FOLDER / "pairs.csv",
        tmp_path / "out",
        metrics={"histogram": metrics.create({"name": "image_similarity", "extractor": histogram})},
        columns=columns,
        resamples=20,
        progress=False,
    )
    line = row(content, "agreement", "histogram")
    assert line["items"] == 352
    assert line["spearman_low"] > 0.3
