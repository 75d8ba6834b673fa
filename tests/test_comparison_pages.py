"""The comparison's pages: every number with what it is of, and nothing from outside is obeyed."""

import csv
import json
import re

import numpy as np
import pytest

from dsd.evaluation.comparison import write_comparison
from dsd.evaluation.comparison.markdown import escaped
from dsd.evaluation.methods.base import jobs_of
from tests.comparison_parts import (
    COPIES,
    NEAR,
    Greys,
    ShadeJudge,
    Shades,
    _keyed,
    run,
)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    out = tmp_path_factory.mktemp("written")
    methods = {
        "greys": Greys(),
        "copy": "copy",
        "gone": Greys().but(fails=[job.key for job in jobs_of(Shades().load())]),
    }
    judges = [ShadeJudge(), ShadeJudge("prompt_following")]
    result = run(out, methods, metrics=[NEAR, COPIES], judges=judges, runs=2, limit=15)
    return result, write_comparison(result, out), out


def test_what_comes_from_outside_is_escaped(written):
    _, page, out = written
    html, text = page.read_text(), (out / "evaluation.md").read_text()
    for tag in ("<b>bold", "<i>because", "<of>", "<shifted>", "<dry>"):
        assert tag not in html
        assert tag not in text
    assert "&lt;b&gt;bold&lt;/b&gt;" in html
    assert "&lt;i&gt;because&lt;/i&gt;" in html
    assert "Shades &lt;of&gt; grey" in html
    assert "<script" not in html
    assert (
        escaped("a|b `c` [x](javascript:1) <script>\n# d")
        == "a\\|b \\`c\\` \\[x\\](javascript:1) &lt;script&gt; \\# d"
    )


def test_every_figure_stands_with_its_n_and_what_it_is_of(written):
    result, page, out = written
    html, text = page.read_text(), (out / "evaluation.md").read_text()
    facts = json.loads((out / "evaluation.json").read_text())
    for content in (html, text):
        assert "n 15" in content
        assert "15 of 18 cases" in content
        assert "comparison\\_parts:Nearness" in content or "comparison_parts:Nearness" in content
        assert "0 to 4, brought to 0 to 1" in content
        assert "std over runs" in content
    assert facts["columns"]["concept_preservation"]["runs"] == 2
    assert facts["methods"]["gone"]["figures"]["Nearness"] == {
        "value": None,
        "interval": None,
        "n": 0,
        "missing": 15,
    } | {key: facts["methods"]["gone"]["figures"]["Nearness"][key] for key in ("by_category", "by_kind")}
    assert list(facts["methods"])[-1] == "gone"
    assert facts["settings"]["average"].startswith("micro: every picture counts alike")
    for name, method in facts["methods"].items():
        figure = result.method(name).figures["product"]
        assert method["figures"]["product"]["value"] == (
            figure.value if figure.value is None else pytest.approx(figure.value)
        )


def test_the_page_stands_alone_and_shows_pictures(written):
    _, page, _ = written
    html = page.read_text()
    assert not re.search(r'(src|href)="(?!data:)', html)
    assert html.count("<h3>Best</h3>") == 2  # nothing of the method that drew nothing
    assert html.count("Side by side") == 1
    assert html.count("<em>missing</em>") > 0
    assert 'aria-label="concept preservation against' in html or "preservation" in html


def test_the_table_of_pictures_holds_every_number(written):
    result, _, out = written
    rows = list(csv.DictReader((out / "pictures.csv").open()))
    assert len(rows) == 3 * 15
    mine = [float(x["Nearness"]) for x in rows if x["method"] == "greys"]
    assert np.mean(mine) == pytest.approx(result.method("greys").figures["Nearness"].value)
    assert {x["Nearness"] for x in rows if x["method"] == "gone"} == {""}


def test_a_formula_in_a_key_is_not_run_by_spreadsheets(tmp_path):
    class Formula(Shades):
        def load(self):
            return [_keyed(case, f"=cmd()|{case.key}") for case in super().load()]

    write_comparison(run(tmp_path, benchmark=Formula()), tmp_path)
    rows = list(csv.DictReader((tmp_path / "pictures.csv").open()))
    assert all(x["key"].startswith("'=cmd()") for x in rows)
