"""The comparison beside what was published: ratings like a published row give that row."""

import json
import re

import pytest

from dsd.evaluation import published
from dsd.evaluation.benchmarks import create as create_benchmark
from dsd.evaluation.benchmarks.dreambench_plus import category_of, split_key
from dsd.evaluation.comparison import write_comparison
from dsd.evaluation.comparison.standings import standings
from dsd.judges import Judge, Rating
from tests.benchmark_folders import dreambench
from tests.comparison_parts import run


class PublishedJudge(Judge):
    """Rates as a published row says: every picture of a group by the group's mean."""

    low, high = 0.0, 4.0

    def __init__(self, rubric, table="dreambench++", method="dreambooth_lora"):
        self.rubric_name = rubric
        self.row = next(x for x in published.table(table).rows if x.method == method)

    def rate(self, case, run=0):
        kinds = ["photorealistic"] * 4 + ["style"] * 3 + ["imaginative"] * 2
        groups = self.row.categories, category_of(case.key)
        if self.rubric_name == "prompt_following":
            groups = self.row.kinds, kinds[split_key(case.key)[1]]
        value = 4 * groups[0][groups[1]]
        return Rating(key=case.key, rubric=self.rubric_name, judge="table", run=run, value=value)


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    root = tmp_path_factory.mktemp("judged")
    benchmark = create_benchmark({"name": "dreambench++", "root": dreambench(root / "bench")})
    judges = [PublishedJudge("concept_preservation"), PublishedJudge("prompt_following")]
    result = run(root / "out", {"ours": "copy"}, benchmark=benchmark, metrics=[], judges=judges)
    return result, root / "out"


def test_ratings_like_a_published_row_give_that_row(judged):
    result, _ = judged
    ours = result.method("ours")
    assert round(ours.figures["concept_preservation"].value, 3) == 0.598
    assert round(ours.figures["prompt_following"].value, 3) == 0.865
    assert ours.figures["product"].value == pytest.approx(0.517, abs=0.001)
    by_category = ours.figures["concept_preservation"].by_category
    assert {k: round(x.value, 3) for k, x in by_category.items()} == {
        "animal": 0.751,
        "human": 0.311,
        "object": 0.543,
        "style": 0.718,
    }
    tables = standings(result)
    for name in ("dreambench++", "dsd", "dsd_debiased"):
        mine = next(row for row in tables[name] if row.ours)
        assert mine.name == "ours"
        theirs = next(row for row in tables[name] if "LoRA" in row.name)
        if name != "dsd_debiased":
            assert (mine.cp, mine.pf) == pytest.approx((theirs.cp, theirs.pf))
    dsd_rows = tables["dsd"]
    assert [round(row.cp_pf, 3) for row in dsd_rows if not row.ours][:2] == [0.492, 0.458]
    assert next(row for row in dsd_rows if row.ours).cp_pf == pytest.approx(0.492, abs=5e-4)
    assert any(row.printed.startswith("0.450 (CP macro") for row in dsd_rows)


def test_the_page_shows_published_rows_beside_ours(judged):
    result, out = judged
    page = write_comparison(result, out).read_text()
    assert "Beside published rows: DreamBench++ leaderboard" in page
    assert page.count("measured here") == 3
    assert re.search(r'<circle class="ours"', page)
    assert page.count('<circle class="other"') == 7
    text = (out / "evaluation.md").read_text()
    assert "| **ours** measured here |" in text or "| **ours** measured here" in text
    facts = json.loads((out / "evaluation.json").read_text())
    assert len(facts["published"]["dsd"]) == 9
    assert facts["methods"]["ours"]["figures"]["concept_preservation"]["by_category"]["human"]["n"] == 180


def test_a_published_row_counts_the_categories_that_its_table_has(tmp_path):
    benchmark = create_benchmark(
        {"name": "dreambench++", "root": dreambench(tmp_path / "b", {"style": 20}), "complete": False}
    )
    judges = [PublishedJudge("concept_preservation"), PublishedJudge("prompt_following")]
    tables = standings(run(tmp_path / "o", {"ours": "copy"}, benchmark=benchmark, metrics=[], judges=judges))
    assert any(row.ours for row in tables["dreambench++"])
    assert not any(row.ours for row in tables["dsd"])  # which leaves style out
