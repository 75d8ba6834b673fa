"""The study of judges: whom it asks about which pictures, and that nobody is asked twice."""

import pytest
from PIL import Image
from scipy import stats

from dsd import judges
from dsd.data.atomic import LockedError, lock
from dsd.judges import Rating
from dsd.llm.records import BudgetSpent
from dsd.studies import compare_judges
from dsd.studies.judge_asking import judge_entries, ratings_of
from tests.judge_study import Scripted, row, rows


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
