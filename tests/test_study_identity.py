"""The study of extractors: its numbers by loops over pictures, resuming, bad tables, pages, the command."""

import csv
import json
import random
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from PIL import Image
from scipy.stats import mannwhitneyu

from dsd.cli import main
from dsd.evaluation.bootstrap import resamples
from dsd.mini.render import render_image
from dsd.mini.world import sample_character, sample_context
from dsd.studies import compare_extractors
from dsd.studies.identity_pictures import of_subjects
from dsd.studies.identity_results import IdentityResults
from tests.html_page import EVIL
from tests.judge_study import check
from tests.metrics.test_photographs import FOLDER, histogram

EMBEDDED = []


def shades(images):
    """Two numbers of a picture: its first pixel as an angle."""
    EMBEDDED.append(len(images))
    angles = np.array([np.asarray(image)[0, 0, 0] for image in images]) * np.pi / 512
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def dark(images):
    return shades(images) * [1, 0.2] + [0, 0.01]


def build():
    return shades


LEVELS = {"rex": (10, 21, 63), "fido": (47, 94), "cup": (203, 224, 181, 107), "lone": (131,)}
CLASS = {"rex": "dog", "fido": "dog", "cup": "cup", "lone": "cup"}


@pytest.fixture
def table(tmp_path):
    EMBEDDED.clear()
    folder = tmp_path / "pictures"
    (folder / "images").mkdir(parents=True)
    lines = ["image,subject,class"]
    for name, levels in LEVELS.items():
        for number, level in enumerate(levels):
            Image.new("RGB", (8, 8), (level, 0, 0)).save(folder / "images" / f"{name}{number}.png")
            lines.append(f"{name}{number}.png,{name},{CLASS[name]}")
    (folder / "subjects.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder / "subjects.csv"


def compare(table, out, extractors=None, **given):
    given = {"resamples": 50, "progress": False, **given}
    return compare_extractors(table, out, {"shades": shades} if extractors is None else extractors, **given)


def by_loops(embed):
    """AUROC, PA, SSR and margin, one picture after the other."""
    shown = [(name, level) for name, levels in LEVELS.items() for level in levels]
    rows = embed([Image.new("RGB", (8, 8), (level, 0, 0)) for _, level in shown])
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    n = len(shown)
    pairs = [(i, j) for i in range(n) for j in range(i + 1, n)]
    scores = [float(rows[i] @ rows[j]) for i, j in pairs]
    same = [shown[i][0] == shown[j][0] for i, j in pairs]
    hard = [k for k, (i, j) in enumerate(pairs) if CLASS[shown[i][0]] == CLASS[shown[j][0]]]

    def area(chosen):
        yes, no = ([scores[k] for k in chosen if same[k] is x] for x in (True, False))
        return mannwhitneyu(yes, no).statistic / len(yes) / len(no)

    margins, winners = [], []
    for i in range(n):
        mine = [j for j in range(n) if j != i and shown[j][0] == shown[i][0]]
        others = [k for k in range(n) if shown[k][0] != shown[i][0]]
        found = [rows[i] @ rows[j] - rows[i] @ rows[k] for j in mine for k in others]
        if found:
            margins += found
            winners.append(min(found) > 0)
    return {
        "auroc": area([*range(len(pairs))]),
        "auroc_same_class": area(hard),
        "pa": np.mean(np.array(margins) > 0),
        "ssr": np.mean(winners),
        "margin": np.mean(margins),
    }


def test_numbers_are_those_of_loops_over_pictures(table, tmp_path):
    content = compare(table, tmp_path / "out", {"shades": shades, "dark": dark})
    for line, embed in zip(content["identity"], (shades, dark), strict=True):
        for key, value in by_loops(embed).items():
            assert line[key] == pytest.approx(value, abs=1e-6), key
            if key != "margin":
                assert line[f"{key}_low"] <= line[key] <= line[f"{key}_high"]
    first, second = content["identity"]
    assert "ahead" not in first
    assert second["ahead"] == pytest.approx(second["auroc"] - first["auroc"])
    assert content["pairs"] == {"one subject": 10, "two of one class": 10, "two of two classes": 25}
    assert (content["pictures"], content["subjects"]) == (10, 4)


def test_intervals_are_over_subjects(table):
    """Drawn by hand: a trial counts as often as both of its subjects were drawn."""
    known = of_subjects(table)
    rows = shades(known.open(range(10)))
    results = IdentityResults(known, {"shades": rows}, count=200, seed=3)
    (line,) = results.rows
    names = list(dict.fromkeys(known.subjects))
    numbers = np.array([sorted(names).index(x) for x in known.subjects])
    drawn = []
    for pick in resamples(4, 200, 3):
        times = np.bincount(pick, minlength=4)
        won = total = 0
        for i in range(10):
            for j in range(10):
                for k in range(10):
                    if i != j and numbers[i] == numbers[j] != numbers[k]:
                        weight = times[numbers[i]] * times[numbers[k]]
                        won += weight * (rows[i] @ rows[j] > rows[i] @ rows[k])
                        total += weight
        if total:
            drawn.append(won / total)
    assert [line["pa_low"], line["pa_high"]] == pytest.approx(np.quantile(drawn, [0.025, 0.975]))


def test_pictures_are_embedded_once_and_extractors_may_be_added(table, tmp_path):
    first = compare(table, tmp_path / "out", batch_size=4)
    assert EMBEDDED == [4, 4, 2]
    again = compare(table, tmp_path / "out")
    assert sum(EMBEDDED) == 10
    assert again["identity"] == first["identity"]
    compare(table, tmp_path / "out", {"shades": shades, "dark": dark})
    assert sum(EMBEDDED) == 20
    with pytest.raises(ValueError, match="holds another cell: extractor was"):
        compare(table, tmp_path / "out", {"shades": dark})
    text = table.read_text(encoding="utf-8")
    table.write_text(text.replace("lone0.png,lone", "lone0.png,cup"), encoding="utf-8")
    with pytest.raises(ValueError, match="begun with other arguments"):
        compare(table, tmp_path / "out")


def test_without_classes_there_are_no_hard_pairs(table, tmp_path):
    lines = [line.rpartition(",")[0] for line in table.read_text(encoding="utf-8").splitlines()]
    table.write_text("\n".join(lines) + "\n", encoding="utf-8")
    content = compare(table, tmp_path / "out")
    assert content["identity"][0]["auroc_same_class"] is None
    assert content["pairs"] == {"one subject": 10, "two subjects": 35}
    assert "same class" not in (tmp_path / "out" / "report.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("image,", "picture,", "has no column 'image'"),
        ("rex0.png,rex,", ",rex,", "line 2 does not name a picture and its subject"),
        ("rex1.png,rex,dog", "rex1.png,rex,cat", "line 3: 'rex' is a 'cat', and was a 'dog'"),
        ("rex1.png", "../subjects.csv", "leads out of the folder"),
        ("rex1.png", "none.png", "line 3: the picture 'none.png'"),
        ("rex1.png", "rex0.png", "'rex0.png' is the same picture as that of line 2"),
    ],
)
def test_a_table_that_cannot_be_used_says_where(table, tmp_path, before, after, message):
    table.write_text(table.read_text(encoding="utf-8").replace(before, after, 1), encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        compare(table, tmp_path / "out")


def test_what_cannot_be_compared(table, tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="no table of pictures"):
        compare(tmp_path / "none.csv", tmp_path / "out")
    with pytest.raises(ValueError, match="`columns` names 'label'"):
        compare(table, tmp_path / "out", columns={"label": "x"})
    with pytest.raises(ValueError, match="Two extractors are called 'mini'"):
        compare(table, tmp_path / "out", "mini,mini")
    with pytest.raises(ValueError, match="There is no extractor"):
        compare(table, tmp_path / "out", "")
    with pytest.raises(LookupError, match=r"'mimi'\. Did you mean 'mini'"):
        compare(table, tmp_path / "out", "mimi")
    with pytest.raises(ValueError, match="`resamples` must be at least 1"):
        compare(table, tmp_path / "out", resamples=0)
    monkeypatch.setattr("dsd.studies.identity_pictures.MOST_PICTURES", 9)
    with pytest.raises(ValueError, match="more than 9 pictures"):
        compare(table, tmp_path / "out")
    table.write_text("image,subject\nrex0.png,rex\nrex1.png,rex\n", encoding="utf-8")
    with pytest.raises(ValueError, match="2 pictures of 1 subjects"):
        compare(table, tmp_path / "out")


def test_the_report_in_all_its_forms(table, tmp_path):
    out = tmp_path / "out"
    content = compare(table, out, {EVIL: shades, "$x_2$" * 30: dark})
    check(out / "report.html")
    page, text = ((out / f"report.{x}").read_text(encoding="utf-8") for x in ("html", "md"))
    assert EVIL not in page
    assert EVIL not in text
    assert f"{content['identity'][0]['auroc']:.3f} (" in text
    assert json.loads((out / "report.json").read_text(encoding="utf-8")) == json.loads(json.dumps(content))
    with (out / "identity.csv").open(newline="", encoding="utf-8") as file:
        assert [float(x["pa"]) for x in csv.DictReader(file)] == [x["pa"] for x in content["identity"]]
    for drawing in (out / "plots").glob("*.svg"):
        ElementTree.parse(drawing)
    assert len(list((out / "plots").glob("*.svg"))) == 3
    with Image.open(out / "plots" / "identity.png") as picture:
        assert picture.width > 1000
    compare(table, out)
    assert len(list((out / "plots").glob("*.svg"))) == 2


def test_the_command_on_drawn_characters(tmp_path, capsys):
    """The encoder inside dsd against the shade of the corner, which says nothing."""
    folder = tmp_path / "drawn"
    folder.mkdir()
    lines = ["image,who"]
    for number in range(8):
        character = sample_character(random.Random(f"identity {number}"), held_out=True)
        for view in range(3):
            context = sample_context(random.Random(f"identity {number} {view}"))
            render_image(character, context).save(folder / f"{number}-{view}.png")
            lines.append(f"{number}-{view}.png,character {number}")
    (folder / "list.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    given = ["study", "identity", "--out", str(tmp_path / "out"), "--resamples", "30"]
    asked = ["--pictures", str(folder / "list.csv"), "--columns", "{subject: who}"]
    both = ["--extractors", f"[mini, '{__name__}:build']"]
    assert main([*given, *asked, *both]) == 0
    said = capsys.readouterr()
    assert said.out.strip() == str(tmp_path / "out" / "report.html")
    assert "Same subject or not" in said.err
    content = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    mini, corner = content["identity"]
    assert mini["auroc"] > 0.9 > corner["auroc"]
    assert "preprocessing" in content["specs"]["mini"]
    assert main([*given]) == 2
    assert "--pictures must be given" in capsys.readouterr().err
    assert main([*given, *asked, "--pairs", "x"]) == 2
    assert "--pairs is no option of `dsd study identity`" in capsys.readouterr().err


@pytest.mark.skipif(not FOLDER.is_dir(), reason="needs the labelled photographs")
def test_the_figures_of_photographs(tmp_path):
    content = compare(FOLDER / "subjects.csv", tmp_path / "out", {"histogram": histogram}, resamples=20)
    (line,) = content["identity"]
    found = [round(line[key], 3) for key in ("auroc", "auroc_same_class", "third_views")]
    assert found == [0.839, 0.719, 0.345]
    assert content["pairs"] == {"one subject": 176, "two of one class": 246, "two of two classes": 2738}
