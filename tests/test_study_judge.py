"""The study of judges: published figures, its numbers in other ways, its tables, its resuming, its pages."""

import csv
import inspect
import itertools
import json
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from scipy import stats

from dsd import judges
from dsd.cli import main, options
from dsd.data.atomic import LockedError, lock
from dsd.judges import Judge, Rating
from dsd.llm.records import BudgetSpent
from dsd.metrics.functional import krippendorff_alpha
from dsd.studies import RatedItems, Scores, compare_judges
from dsd.studies.judge import rated_items
from dsd.studies.judge_asking import judge_entries, ratings_of
from dsd.studies.judge_ratings import EMBEDDED, IMAGENHUB, of_imagenhub, of_table
from dsd.studies.judge_results import JudgeResults, JudgeScores
from tests.test_report import EVIL, Page

NAN = float("nan")
# What VIEScore put where Gemini gave no score: its files mark these numbers "guess_if_cannot_parse".
GUESSES = {
    "DreamBooth": {86: 5, 92: 3, 109: 4, 140: 4},
    "TextualInversion": {39: 8, 71: 6, 97: 7, 116: 5, 117: 7, 136: 0, 147: 1, 149: 0},
}


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


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    out = tmp_path_factory.mktemp("study") / "judge"
    return out, compare_judges("imagenhub", out, resamples=60, progress=False)


def row(content, part, judge):
    return next(x for x in content[part] if x["judge"] == judge)


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


def results(items, count=50, seed=0):
    judged = [JudgeScores(name=name, scores=x, spec={}) for name, x in items.stored.items()]
    return JudgeResults(items, judged, count=count, seed=seed)


@pytest.mark.parametrize("level", ["interval", "ordinal", "nominal"])
def test_numbers_are_those_of_scipy_and_loops(level):
    items = noisy()
    items = RatedItems(**{**vars_of(items), "level": level})
    there = ~np.isnan(items.people)
    mean = np.where(there.any(0), np.nansum(items.people, axis=0) / np.maximum(there.sum(0), 1), NAN)
    for name, scores in items.stored.items():
        found = row(results(items, 3).agreement, "all", name)
        both = np.isfinite(scores.values) & np.isfinite(mean)
        for kind, function in (
            ("pearson", stats.pearsonr),
            ("spearman", stats.spearmanr),
            ("kendall", stats.kendalltau),
        ):
            assert found[kind] == pytest.approx(function(scores.values[both], mean[both])[0], abs=1e-9), kind
        low, high = scores.range or (scores.values.min(), scores.values.max())
        unit = (scores.values - low) / (high - low)
        alphas = [krippendorff_alpha(np.stack([unit, rater / 4]), level).item() for rater in items.people]
        assert found["alpha"] == pytest.approx(np.mean(alphas), abs=1e-9)
        assert found["items"] == both.sum()
        assert found["missing"] == pytest.approx(1 - both.sum() / np.isfinite(mean).sum())
    people = row(results(items, 3).agreement, "all", "people")
    assert people["alpha"] == pytest.approx(krippendorff_alpha(items.people / 4, level).item())
    one, other = items.people
    shared = np.isfinite(one + other)
    assert people["spearman"] == pytest.approx(stats.spearmanr(one[shared], other[shared])[0])


def vars_of(items):
    return {name: getattr(items, name) for name in items.__dataclass_fields__}


def test_intervals_are_those_of_the_plain_bootstrap_over_subjects():
    items = noisy(share=0.0)
    found = results(items, 400)
    picks = np.concatenate([weights for weights in found._resampler.weights()])
    assert set(picks.sum(1)) == {60.0}
    assert all((picks[:, i] == picks[:, i - i % 5]).all() for i in range(60))  # subjects come whole
    mean = items.people.mean(0)
    drawn = [
        stats.spearmanr(
            np.repeat(items.stored["good"].values, times.astype(int)), np.repeat(mean, times.astype(int))
        )[0]
        for times in picks
    ]
    wanted = np.quantile(drawn, [0.025, 0.975])
    line = row(found.agreement, "all", "good")
    assert [line["spearman_low"], line["spearman_high"]] == pytest.approx(wanted, abs=1e-9)
    other = row(found.agreement, "all", "bad")
    assert other["ahead"] == pytest.approx(other["spearman"] - line["spearman"])
    assert other["ahead_high"] < 0
    assert "ahead" not in line


def test_the_mean_over_groups_is_on_fishers_scale():
    found = results(noisy(), 5)
    for line in found.averages:
        values = [row(found.agreement, part, line["judge"])["spearman"] for part in ("one", "other")]
        assert line["spearman"] == pytest.approx(np.tanh(np.mean(np.arctanh(values))))


def test_people_by_score_are_means_of_the_items_with_that_score():
    values = np.array([0.0, 1, 1, 2, 2, 2, NAN, 0])
    people = np.array([[0.0, 1, 2, 2, 3, 4, 4, NAN], [0, 3, 2, 2, 3, 4, 4, NAN]])
    items = RatedItems(
        **{
            **vars_of(noisy(n=8)),
            "people": people,
            "groups": [""] * 8,
            "stored": {"judge": Scores(values=values, range=(0.0, 2.0))},
        }
    )
    found = results(items, 20).by_score
    assert [(x["score"], x["items"], x["people"], x["at"]) for x in found] == [
        ("0", 1, 0, 0),
        ("1", 2, 2, 0.5),
        ("2", 3, 3, 1),
    ]
    many = results(noisy(n=60, share=0.0), 5).by_score
    good = [x for x in many if x["judge"] == "good"]
    assert [x["items"] for x in good] == [12] * 5
    assert all(a["to"] < b["from"] for a, b in itertools.pairwise(good))
    assert good[0]["people"] < good[-1]["people"]


def test_numbers_without_a_value_are_none(tmp_path):
    """One rater, one group of a single item, and a judge that says the same of all."""
    items = RatedItems(
        **{
            **vars_of(noisy(n=6, raters=1, share=0.0)),
            "groups": ["a"] * 5 + ["b"],
            "stored": {"flat": Scores(values=np.full(6, 3.0)), "good": Scores(values=np.arange(6.0))},
        }
    )
    content = compare_judges(items, tmp_path / "out", resamples=10, progress=False)
    assert [x["judge"] for x in content["agreement"]] == ["flat", "good"]
    flat = row(content, "agreement", "flat")
    assert flat["spearman"] is flat["pearson"] is flat["kendall"] is None
    assert row(content, "agreement_2", "good")["spearman"] is None
    assert "spearman" not in row(content, "averages", "good")
    check(tmp_path / "out" / "report.html")


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


@pytest.fixture
def pictures(tmp_path):
    """Ten pictures of rising brightness with two people's ratings; one is refused, and one fails."""
    judges.register("scripted")(Scripted)
    Scripted.asked, Scripted.closed = [], 0
    folder = tmp_path / "table"
    (folder / "images").mkdir(parents=True)
    lines = ["name,ann,bob,prompt,file,subject,score"]
    for i in range(10):
        Image.new("RGB", (8, 8), (i * 20,) * 3).save(folder / "images" / f"{i}.png")
        prompt = {3: "refuse", 6: "fail"}.get(i, "draw")
        lines.append(f"p{i},{i // 3},{(i + 1) // 3},{prompt},{i}.png,s{i // 2},{i}")
    (folder / "ratings.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    columns = {
        "item": "name",
        "people": ["ann", "bob"],
        **{"generated": "file", "prompt": "prompt", "subject": "subject"},
    }
    return folder / "ratings.csv", columns


def ask(pictures, out, judge, **given):
    path, columns = pictures
    return compare_judges(path, out, judge, columns=columns, resamples=10, progress=False, **given)


def test_a_judge_is_asked_about_the_pictures(pictures, tmp_path):
    content = ask(pictures, tmp_path / "out", "scripted", batch_size=3)
    line = row(content, "agreement", "scripted")
    kept = [i for i in range(10) if i not in (3, 6)]
    mean = [(i // 3 + (i + 1) // 3) / 2 for i in kept]
    assert line["spearman"] == pytest.approx(stats.spearmanr(kept, mean)[0])
    assert (line["items"], line["missing"]) == (8, pytest.approx(0.2))
    (cost,) = content["costs"]
    assert [cost[x] for x in ("rated", "refused", "unparsable", "failed")] == [8, 1, 0, 1]
    assert (cost["cost_usd"], cost["cost_known"]) == (4.5, 9)
    assert "scripted gave no score to 2 of 10 items" in content["notes"][0]
    assert content["ratings"]["resampled"] == "5 subjects"
    assert Scripted.closed == 1
    assert "long" not in (tmp_path / "out" / "report.json").read_text(encoding="utf-8")


def test_what_was_asked_is_never_asked_again(pictures, tmp_path):
    out = tmp_path / "out"
    stopping = {"mine": {"name": "scripted", "stop_after": 5}}
    with pytest.raises(BudgetSpent):
        ask(pictures, out, stopping, batch_size=2)
    assert len(Scripted.asked) == 5
    entry = judge_entries(stopping)[0]
    assert len(ratings_of(out, entry)) == 4  # whole batches
    with pytest.raises(ValueError, match="'mine' by another spec: stop_after was 5, now None"):
        ask(pictures, out, {"mine": "scripted"})
    Scripted.asked = []
    content = ask(pictures, out, {"other": {"name": "scripted", "bias": 0.0}})
    assert len(Scripted.asked) == 10
    again = ask(pictures, out, {"other": {"name": "scripted", "bias": 0.0, "max_cost_usd": 9.0}})
    assert len(Scripted.asked) == 10
    assert again["agreement"] == content["agreement"]
    ask(pictures, out, {"other": {"name": "scripted", "bias": 0.0}}, retry_failed=True)
    assert Scripted.asked[10:] == [("p6", 0)]


def test_repeats_are_averaged_and_added_to_what_is_there(pictures, tmp_path):
    once = ask(pictures, tmp_path / "out", "scripted")
    Scripted.asked = []
    twice = ask(pictures, tmp_path / "out", "scripted", repeats=2)
    (cost,) = twice["costs"]
    assert cost["rated"] == 16
    assert (once["repeats"], twice["repeats"]) == ({"scripted": 1}, {"scripted": 2})
    found = {x["item"]: x["scripted"] for x in rows(tmp_path / "out" / "scores.csv")}
    assert float(found["p1"]) == pytest.approx((0.4 + 1.4) / 2)


def test_a_judge_is_asked_as_often_as_it_says_itself(pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(Scripted, "runs", 2)
    content = ask(pictures, tmp_path / "out", "scripted")
    assert content["repeats"] == {"scripted": 2}
    assert {run for _, run in Scripted.asked} == {0, 1}


def test_ratings_by_another_text_are_not_mixed_under_one_name(pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(Scripted, "fingerprint", "first text")
    ask(pictures, tmp_path / "out", "scripted")
    monkeypatch.setattr(Scripted, "fingerprint", "second text")
    with pytest.raises(ValueError, match=r"fingerprint was 'first text', now 'second text'"):
        ask(pictures, tmp_path / "out", "scripted")


def test_a_judge_that_answers_something_else_is_refused_and_no_rating_leaves_its_scale(pictures, tmp_path):
    class Wild(Scripted):
        def rate(self, case, run=0):
            return Rating(
                key=case.key,
                rubric="b",
                judge="s",
                value=9.0 if case.key == "p1" else 2.0 + int(case.key[1]) / 9,
            )

    class Forgetful(Scripted):
        def rate_batch(self, cases, runs=1):
            return super().rate_batch(cases, runs)[:-1]

    content = ask(pictures, tmp_path / "wild", {"wild": Wild()})
    assert content["costs"][0]["failed"] == 1
    with pytest.raises(
        ValueError, match="Forgetful was asked for 1 ratings of each of 10 items, and gave others"
    ):
        ask(pictures, tmp_path / "forgetful", {"forgetful": Forgetful()})
    assert Scripted.closed == 0  # objects of the caller's


def test_scores_of_the_table_stand_beside_judges(pictures, tmp_path):
    path, columns = pictures
    columns = {**columns, "scores": {"stored": {"columns": "score", "range": [0, 9]}}}
    content = ask((path, columns), tmp_path / "out", {"asked": "scripted"})
    assert [x["judge"] for x in content["agreement"]] == ["stored", "asked", "people"]
    with pytest.raises(ValueError, match="Two rows would be called 'stored'"):
        ask((path, columns), tmp_path / "other", {"stored": "scripted"})


def test_other_ratings_and_other_studies_are_kept_apart(pictures, tmp_path):
    path, _ = pictures
    ask(pictures, tmp_path / "out", "scripted")
    path.write_text(path.read_text(encoding="utf-8").replace("p1,0,0", "p1,0,3"), encoding="utf-8")
    with pytest.raises(ValueError, match="begun with other arguments"):
        ask(pictures, tmp_path / "out", "scripted")
    (tmp_path / "locked").mkdir()
    with lock(tmp_path / "locked", "another study"), pytest.raises(LockedError):
        ask(pictures, tmp_path / "locked", "scripted")


TABLE = "name,a,b,s\nx,1,2,0.5\ny,0,,0.1\nz,2,2,\n"
GIVEN = {"item": "name", "people": ["a", "b"], "scores": {"judge": "s"}}


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_tables_of_both_kinds_are_read(tmp_path, kind):
    path = tmp_path / f"ratings.{kind}"
    if kind == "csv":
        path.write_text(TABLE, encoding="utf-8")
    else:
        content = {"name": ["x", "y", "z"], "a": [1, 0, 2], "b": [2.0, None, 2.0], "s": [0.5, 0.1, None]}
        pq.write_table(pa.table(content), path)
    found = of_table(path, GIVEN)
    assert found.keys == ["x", "y", "z"]
    np.testing.assert_array_equal(found.people, [[1, 0, 2], [2, NAN, 2]])
    np.testing.assert_array_equal(found.stored["judge"].values, [0.5, 0.1, NAN])
    assert (found.low, found.high, found.units) == (0, 2, "items")
    assert of_table(path, GIVEN, low=0, high=4).high == 4


@pytest.mark.parametrize(
    ("combine", "wanted"),
    [("min", [1, 2]), ("mean", [2.5, 5]), ("product", [4, 16]), ("geometric", [2, 4])],
)
def test_several_columns_become_one_score(tmp_path, combine, wanted):
    path = tmp_path / "ratings.csv"
    path.write_text("a,s,t\n1,1,4\n2,2,8\n0,,3\n", encoding="utf-8")
    found = of_table(path, {"people": "a", "scores": {"judge": {"columns": ["s", "t"], "combine": combine}}})
    np.testing.assert_allclose(found.stored["judge"].values, [*wanted, NAN])
    assert found.keys == ["1", "2", "3"]


@pytest.mark.parametrize(
    ("text", "columns", "given", "message"),
    [
        (TABLE, {"people": ["a", "c"]}, {}, "no column 'c'. It has: name, a, b, s"),
        (TABLE, {"people": []}, {}, "does not say which columns are people's"),
        (TABLE, {**GIVEN, "persons": "a"}, {}, "`columns` names 'persons'. Allowed: item, people"),
        (TABLE.replace("1,2", "one,2"), GIVEN, {}, "row 1, column 'a': 'one' is no number"),
        (TABLE.replace("1,2", "inf,2"), GIVEN, {}, "'inf' is not finite"),
        (TABLE.replace("z,", "x,"), GIVEN, {}, "the item 'x' twice"),
        (TABLE, GIVEN, {"high": 1.0}, "rating 2 is outside the scale from 0 to 1"),
        ("name,a,b,s\nx,1,1,1\n", GIVEN, {}, "scale goes from 1 to 1"),
        ("name,a,b,s\nx,,,1\n", GIVEN, {}, "no rating of people in the columns a, b"),
        ("name,a,b,s\n", GIVEN, {}, "has no rows"),
        (TABLE, {**GIVEN, "scores": {"judge": {"column": "s"}}}, {}, "names 'column'. Allowed: columns"),
        (
            TABLE,
            {**GIVEN, "scores": {"judge": {"columns": "s", "combine": "max"}}},
            {},
            "combine is one of min",
        ),
        (TABLE, {**GIVEN, "scores": {"judge": {"columns": "s", "range": [1, 0]}}}, {}, "from low up to high"),
        (
            TABLE,
            {**GIVEN, "scores": {"judge": {"columns": "s", "range": [0, 0.4]}}},
            {},
            "row 1: the score 0.5",
        ),
    ],
)
def test_a_table_that_cannot_be_used_says_where(tmp_path, text, columns, given, message):
    path = tmp_path / "ratings.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        of_table(path, columns, **given)


def test_pictures_outside_the_folder_are_not_opened(pictures, tmp_path):
    path, columns = pictures
    Image.new("RGB", (8, 8)).save(tmp_path / "secret.png")
    path.write_text(
        path.read_text(encoding="utf-8").replace("0.png", "../../secret.png", 1), encoding="utf-8"
    )
    with pytest.raises(
        ValueError, match=r"generated picture '../../secret.png' of 'p0'.*leads out of the folder"
    ):
        ask((path, columns), tmp_path / "out", "scripted")
    columns = {key: value for key, value in columns.items() if key != "generated"}
    with pytest.raises(ValueError, match="scripted is to look at pictures, but the ratings name none"):
        ask((path, columns), tmp_path / "out", "scripted")


def test_arguments_that_do_not_go_together(tmp_path):
    for ratings, given, message in (
        ("imagenhub", {"low": 0.0}, "`low` is known for ImagenHub"),
        ("imagenhub", {"columns": {"people": "a"}}, "`columns` are known"),
        ("x.csv", {}, "Say with `columns` what the table holds"),
        (noisy(), {"high": 3.0}, "`high` goes with a table"),
        ("imagenhub", {"level": "cardinal"}, "Unknown level 'cardinal'"),
    ):
        with pytest.raises(ValueError, match=message):
            rated_items(ratings, **given)
    with pytest.raises(FileNotFoundError, match="no such file"):
        rated_items(tmp_path / "none.csv", columns=IMAGENHUB)
    with pytest.raises(ValueError, match="`resamples` must be at least 1"):
        compare_judges("imagenhub", tmp_path, resamples=0)
    empty = RatedItems(**{**vars_of(noisy()), "stored": {"judge": Scores(values=np.full(60, NAN))}})
    with pytest.raises(ValueError, match="judge has no score of any item"):
        compare_judges(empty, tmp_path / "out")
    with pytest.raises(ValueError, match="nothing to compare"):
        compare_judges(RatedItems(**{**vars_of(empty), "stored": {}}), tmp_path / "out")


def test_a_file_in_imagenhubs_layout_is_read_like_the_embedded_one(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_bytes(EMBEDDED.read_bytes())
    assert rated_items(path, columns="imagenhub").digest == rated_items("imagenhub").digest
    found = of_imagenhub()
    assert (len(found.keys), len(set(found.subjects)), found.level) == (300, 30, "ordinal")
    path.write_text(path.read_text(encoding="utf-8").replace("sample_7.jpg", "seventh"), encoding="utf-8")
    with pytest.raises(ValueError, match="a sample is called sample_NUMBER"):
        of_imagenhub(path)


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


class Thrifty(Scripted):
    """Stops in the midst of a batch and says what it rated until then."""

    def rate_some(self, cases, runs=None):
        found = []
        for case in cases:
            try:
                found += self.rate_batch([case], runs)
            except BudgetSpent as stop:
                found.append(stop)
        return found


def test_what_was_rated_before_the_money_ended_is_kept(pictures, tmp_path):
    judges.register("thrifty")(Thrifty)
    judge = {"mine": {"name": "thrifty", "stop_after": 5}}
    with pytest.raises(BudgetSpent):
        ask(pictures, tmp_path / "out", judge, batch_size=8)
    assert len(ratings_of(tmp_path / "out", judge_entries(judge)[0])) == 5
