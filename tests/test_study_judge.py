"""The study of judges: published figures, its reports, its command."""

import inspect
import json
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from dsd.cli import main, options
from dsd.studies import RatedItems, compare_judges
from dsd.studies.judge_ratings import EMBEDDED
from tests.html_page import EVIL
from tests.judge_study import check, noisy, row, rows, vars_of

# What VIEScore put where Gemini gave no score: its files mark these numbers "guess_if_cannot_parse".
GUESSES = {
    "DreamBooth": {86: 5, 92: 3, 109: 4, 140: 4},
    "TextualInversion": {39: 8, 71: 6, 97: 7, 116: 5, 117: 7, 136: 0, 147: 1, 149: 0},
}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    out = tmp_path_factory.mktemp("study") / "judge"
    return out, compare_judges("imagenhub", out, resamples=60, progress=False)


PUBLISHED = {
    # part: people's alpha, then Spearman with people's mean; Gemini's over the answers that it gave
    "agreement_1": {"people": 0.6392, "gpt4o": 0.6876, "gemini": 0.3560, "dino": 0.415, "clip_i": 0.132},
    "agreement_2": {"people": 0.5821, "gpt4o": 0.7199, "gemini": 0.6046, "dino": 0.651, "clip_i": 0.578},
}


@pytest.mark.parametrize("part", PUBLISHED)
def test_published_figures_of_imagenhub_come_out(study, part):
    _, content = study
    for name, value in PUBLISHED[part].items():
        found = row(content, part, name)["alpha" if name == "people" else "spearman"]
        assert found == pytest.approx(value, abs=5e-5 if value * 1000 % 1 else 5e-4), name


@pytest.mark.parametrize(("method", "printed"), [("DreamBooth", 0.3185), ("TextualInversion", 0.5521)])
def test_the_figures_that_viescore_prints_of_gemini_hold_its_guesses(method, printed):
    """It draws a number where it cannot read an answer. With those numbers, and with no other, its figure."""
    table = [x for x in rows(EMBEDDED) if x["method"] == method]
    people = [np.mean([float(x[f"human{i}_sc"]) for i in (1, 2, 3)]) for x in table]
    missing = [x["sample"] for x in table if not x["gemini_prompt"]]
    assert missing == [f"sample_{number}.jpg" for number in GUESSES[method]]
    said = [
        GUESSES[method][int(x["sample"][7:-4])]
        if not x["gemini_prompt"]
        else min(float(x["gemini_prompt"]), float(x["gemini_resemblance"]))
        for x in table
    ]
    assert round(stats.spearmanr(people, said)[0], 4) == printed


def test_missing_scores_are_said_on_top_and_none_is_guessed(study):
    out, content = study
    assert [note.split(" ")[0] for note in content["notes"]] == ["gemini", "gpt4v"]
    assert "12 of 300 items (4.0\N{NO-BREAK SPACE}%)" in content["notes"][0]
    assert row(content, "agreement", "gemini")["items"] == 288
    assert row(content, "agreement", "gpt4v")["missing"] == pytest.approx(33 / 300)
    page = (out / "report.html").read_text(encoding="utf-8")
    assert page.index("gemini gave no score to 12 of 300 items") < page.index("best Spearman with people")
    text = (out / "report.md").read_text(encoding="utf-8")
    assert text.index("> **Missing.** gemini") < text.index("## Agreement")
    scores = rows(out / "scores.csv")
    assert sum(not x["gemini"] for x in scores) == 12


def test_every_form_of_the_report_says_the_same(study):
    out, content = study
    check(out / "report.html")
    assert json.loads((out / "report.json").read_text(encoding="utf-8"))["notes"] == content["notes"]
    for name in ("agreement", "agreement_1", "agreement_2", "averages", "by_score"):
        found = rows(out / f"{name}.csv")
        assert len(found) == len(content[name])
        for line, wanted in zip(found, content[name], strict=True):
            for key in wanted:
                assert line[key] == ("" if wanted[key] is None else str(wanted[key])), (name, key)
    for drawing in (out / "plots").glob("*.svg"):
        ElementTree.parse(drawing)
    assert {x.stem for x in (out / "plots").glob("*.svg")} == {"spearman", "alpha", "by_score"}
    with Image.open(out / "plots" / "agreement.png") as picture:
        assert picture.width > 1000
    text = (out / "report.md").read_text(encoding="utf-8")
    assert f"{row(content, 'agreement', 'gpt4o')['spearman']:.2f} (" in text
    assert "over 30 subjects" in text


def test_what_names_say_is_shown_and_not_obeyed(tmp_path):
    items = noisy(n=20)
    items = RatedItems(
        **{
            **vars_of(items),
            "source": EVIL,
            "groups": [EVIL if i < 10 else "[x](javascript:y)|b" for i in range(20)],
            "stored": {EVIL: items.stored["good"], "b" * 200 + "$^2$": items.stored["bad"]},
        }
    )
    compare_judges(items, tmp_path / "out", resamples=5, progress=False)
    check(tmp_path / "out" / "report.html")
    page, text = ((tmp_path / "out" / f"report.{x}").read_text(encoding="utf-8") for x in ("html", "md"))
    assert EVIL not in page
    assert EVIL not in text
    assert "](javascript" not in text.replace("\\]", "")  # an escaped bracket ends no link
    for drawing in (tmp_path / "out" / "plots").glob("*.svg"):
        ElementTree.parse(drawing)


def test_the_command(tmp_path, capsys):
    path = tmp_path / "ratings.csv"
    path.write_text(
        "name,a,b,s\n" + "".join(f"x{i},{i % 4},{i % 3},{i % 4}\n" for i in range(12)), encoding="utf-8"
    )
    given = ["study", "judge", "--out", str(tmp_path / "out"), "--resamples", "5"]
    columns = "{item: name, people: [a, b], scores: {judge: {columns: s, range: [0, 3]}}}"
    assert main([*given, "--ratings", str(path), "--columns", columns, "--level", "ordinal"]) == 0
    said = capsys.readouterr()
    assert said.out.strip() == str(tmp_path / "out" / "report.html")
    assert "Agreement with people" in said.err  # the table is printed
    content = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    assert content["ratings"]["level"] == "ordinal"
    assert content["specs"]["judge"] == {"scores": "column s", "range": [0, 3]}
    for wrong, message in (
        (["--run", "r"], "--run is no option of `dsd study judge`"),
        (["--mistakes", "3"], "--mistakes is no option of `dsd study judge`"),
        ([], "--ratings must be given"),
        (["--ratings", str(path), "--columns", columns, "--judges", "nobody"], "nobody"),
    ):
        assert main([*given, *wrong]) == 2
        assert message in capsys.readouterr().err
    assert main(["study", "curators", "--out", "x", "--pairs", "mini", "--repeats", "2"]) == 2
    assert "--repeats is no option of `dsd study curators`" in capsys.readouterr().err


def test_every_argument_is_an_option():
    found = {option.name: option for option in options.read("dsd.cli.study:study")[1]}
    for name, parameter in inspect.signature(compare_judges).parameters.items():
        assert name in found
        if name not in ("ratings", "out"):
            assert found[name].default == parameter.default, name
