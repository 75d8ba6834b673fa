"""The comparison as a run: what it draws, rates and keeps, stops against SIGKILL, and wrong settings."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from dsd.data.atomic import LockedError, lock
from dsd.evaluation.comparison import write_comparison
from dsd.evaluation.comparison.measures import MetricMeasure
from dsd.evaluation.comparison.notes import notes
from dsd.evaluation.methods.base import jobs_of
from dsd.judges import Rating
from tests.comparison_parts import COPIES, NEAR, Greys, Nearness, ShadeJudge, Shades, run

ROOT = Path(__file__).parents[1]


def test_figures_are_those_of_a_loop(tmp_path):
    result = run(
        tmp_path,
        metrics=[NEAR, COPIES],
        judges=[ShadeJudge(), ShadeJudge("prompt_following")],
        images_per_prompt=2,
    )
    greys = result.method("greys")
    assert len(result.jobs) == 36
    expected = [1 - (abs(3 + j) + abs(3 + j - 5)) / 2 / 255 for j in (0, 1)]  # mean over both references
    assert greys.figures["Nearness"].value == pytest.approx(np.mean(expected))
    assert greys.figures["near_copy"].value == 0
    rated = np.mean([(4 - (3 + j) / 10) / 4 for j in (0, 1)])
    assert greys.figures["concept_preservation"].value == pytest.approx(rated)
    assert (result.preservation, result.following, result.ranked_by) == (
        "concept_preservation",
        "prompt_following",
        "product",
    )
    assert greys.figures["product"].value == pytest.approx(rated**2)
    assert greys.cost_usd == 0
    assert greys.ratings["concept_preservation"]["cost_usd"] == pytest.approx(0.036)


def test_copies_lead_in_preservation_and_fall_where_they_count_nothing(tmp_path):
    methods = {"greys": Greys(), "copy": "copy", "far": Greys(shift=60)}
    near = [{"name": NEAR, "label": "image_similarity"}, COPIES]
    result = run(tmp_path, methods, metrics=near, rank_by="image_similarity")
    assert [x.label for x in result.methods][-1] == "far"
    value = {x.label: {k: f.value for k, f in x.figures.items()} for x in result.methods}
    assert value["copy"]["near_copy"] == 0.5  # of the two references, one
    single = run(tmp_path / "b", methods, benchmark=_One(), metrics=near, rank_by="image_similarity")
    assert [x.label for x in single.methods] == ["copy", "greys", "far"]
    penalised = run(tmp_path / "b", methods, benchmark=_One(), metrics=near, rank_by="without_copies")
    assert [x.label for x in penalised.methods] == ["greys", "far", "copy"]
    assert penalised.method("copy").figures["without_copies"].value == 0
    assert (
        penalised.column("without_copies").about["rule"].startswith("image_similarity times (1 - near_copy)")
    )


class _One(Shades):
    """One reference a subject."""

    def load(self):
        return [type(x)(**{**vars(x), "pictures": x.pictures[:1]}) for x in super().load()]


def test_nothing_is_drawn_measured_or_rated_twice(tmp_path, monkeypatch):
    first, judge = Greys(), ShadeJudge()
    before = run(tmp_path, first, judges=[judge])
    assert len(first.drawn) == len(judge.rated) == 18
    second, again = Greys(), ShadeJudge()
    measured = []
    monkeypatch.setattr(MetricMeasure, "measure", lambda self, shown: measured.append(len(shown)))
    after = run(tmp_path, second, judges=[again])
    assert second.drawn == again.rated == measured == []
    assert after.method("greys").figures == before.method("greys").figures


def test_a_run_grows_by_what_is_new_alone(tmp_path):
    run(tmp_path, limit=5, judges=[ShadeJudge()])
    method, judge = Greys(), ShadeJudge()
    result = run(tmp_path, method, limit=9, images_per_prompt=2, runs=3, judges=[judge])
    assert len(method.drawn) == 18 - 5
    assert len(judge.rated) == 18 * 3 - 5
    assert len({*judge.rated}) == len(judge.rated)
    facts = result.method("greys").ratings["concept_preservation"]
    assert (facts["ratings"], facts["rated"], facts["not_asked"]) == (54, 54, 0)
    assert facts["run_std"] == pytest.approx(0.25 / 4)
    assert np.diff(facts["run_means"]) == pytest.approx([-0.0625, -0.0625])


@pytest.mark.parametrize(
    ("where", "count"),
    [
        ("draw", 7),
        ("judge", 4),
        pytest.param("draw", 0, marks=pytest.mark.slow),
        pytest.param("judge", 17, marks=pytest.mark.slow),
    ],
)
def test_killed_at_any_moment_it_goes_on_where_it_was(tmp_path, where, count):
    out = tmp_path / "out"

    def call(after):
        command = [sys.executable, "-m", "tests.comparison_parts", str(out), where, str(after)]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)

    assert call(count).returncode == -9
    done = call(10_000)
    assert done.returncode == 0, done.stderr
    drawn = Path(f"{out}.drawn").read_text().split()
    assert Counter(drawn) == {job.key: 1 for job in jobs_of(Shades().load())}
    rated = Counter(Path(f"{out}.rated").read_text().splitlines())
    assert len(rated) == 18
    in_flight = min(count, 18) if where == "judge" else 0  # the batch that was being rated
    assert sum(rated.values()) == 18 + in_flight
    undisturbed = run(tmp_path / "other", judges=[ShadeJudge()]).method("greys")
    assert json.loads(done.stdout) == pytest.approx({k: f.value for k, f in undisturbed.figures.items()})


def test_what_is_missing_is_counted_said_on_top_and_never_guessed(tmp_path):
    method = Greys().but(fails=["s0-0"], refuses=["s1-1"])
    judge = ShadeJudge().but(refuses=["s2-0"], fails=["s3-1"])
    result = run(tmp_path, method, judges=[judge], runs=2)
    greys = result.method("greys")
    assert greys.statuses == {"failed": 1, "refused": 1, "drawn": 16}
    figure = greys.figures["concept_preservation"]
    assert (figure.n, figure.missing) == (14, 4)
    assert figure.value == pytest.approx((4 - 0.3 - 0.125) / 4)
    facts = greys.ratings["concept_preservation"]
    assert {k: facts[k] for k in ("ratings", "rated", "refused", "failed", "not_asked")} == {
        "ratings": 36, "rated": 28, "refused": 2, "failed": 2, "not_asked": 4,
    }  # fmt: skip
    said = notes(result)
    assert said[0] == "greys: 11.1 % of the pictures are missing (1 failed, 1 refused)."
    assert (
        "12.5 % of the ratings by concept preservation are missing (2 refused, 2 failed, 4 not asked)"
        in said[1]
    )
    page = write_comparison(result, tmp_path).read_text()
    assert page.index("pictures are missing") < page.index("Leaderboard")
    # Failures are tried again, refusals are not.
    method, judge = Greys(), ShadeJudge()
    assert run(tmp_path, method, judges=[judge], runs=2).method("greys").statuses == {
        "drawn": 17,
        "refused": 1,
    }
    assert method.drawn == ["s0-0"]
    assert sorted({key for key, _ in judge.rated}) == ["s0-0", "s3-1"]


def test_below_one_percent_nothing_is_said(tmp_path):
    result = run(tmp_path, Greys().but(fails=["s3-2"]), benchmark=Shades(12, 10), images_per_prompt=1)
    assert notes(result) == []
    assert result.method("greys").figures["Nearness"].missing == 1


class Careful(ShadeJudge):
    """As judges that ask models do it: what was rated before the money ended comes back."""

    def rate_some(self, cases, runs=None):
        found = []
        for case in cases:
            for number in range(runs):
                found += [*super().rate_some([case], 1)] if number == 0 else [self.rate(case, number)]
        return found


def test_what_was_rated_before_the_money_ended_is_kept(tmp_path):
    result = run(tmp_path, benchmark=Shades(10, 3), judges=[Careful().but(stop_after=13)])
    assert result.method("greys").figures["concept_preservation"].n == 13
    again = Careful()
    assert run(tmp_path, benchmark=Shades(10, 3), judges=[again]).stopped == ""
    assert len(again.rated) == 17


def test_judges_of_one_label_share_the_categories(tmp_path):
    name = "tests.comparison_parts:ShadeJudge"
    specs = [
        {"name": name, "rubric": "preservation_dark", "label": "cp", "only": "dark"},
        {"name": name, "rubric": "preservation_light", "step": 1.0, "label": "cp", "only": ["light"]},
    ]
    result = run(tmp_path, judges=specs, runs=2, metrics=[])
    figure = result.method("greys").figures["cp"]
    assert figure.n == 18
    assert figure.by_category["dark"].value == pytest.approx((4 - 0.3 - 0.125) / 4)
    assert figure.by_category["light"].value == pytest.approx((4 - 0.3 - 0.5) / 4)
    assert result.preservation == "cp"
    assert result.method("greys").ratings["cp"]["rated"] == 36
    half = run(tmp_path / "half", judges=specs[:1])
    assert half.method("greys").figures["cp"].missing == 12
    assert any("(24 not asked)" in x or "(12 not asked)" in x for x in notes(half))
    with pytest.raises(ValueError, match=r"called 'cp'. Give each a `label` of its own"):
        run(tmp_path, judges=[specs[0], {**specs[1], "only": ["dark", "light"]}])
    with pytest.raises(ValueError, match="differ in scale or runs"):
        run(
            tmp_path,
            judges=[specs[0], {"name": "tests.test_comparison:Wide", "label": "cp", "only": "light"}],
        )


class Wide(ShadeJudge):
    high = 10.0


def test_a_judge_says_how_often_it_rates(tmp_path):
    judge = ShadeJudge()
    judge.runs = 3
    result = run(tmp_path, judges=[judge])
    assert len(judge.rated) == 54
    assert result.column("concept_preservation").runs == 3


def test_spent_money_ends_the_run_with_a_report(tmp_path):
    judge = ShadeJudge().but(stop_after=40)
    result = run(tmp_path, benchmark=Shades(30, 3), judges=[judge])
    assert result.stopped == "The <money> is spent."
    assert notes(result)[0] == "Unfinished: The <money> is spent."
    assert result.method("greys").figures["concept_preservation"].n == 32  # the batches that were whole
    again = ShadeJudge()
    done = run(tmp_path, benchmark=Shades(30, 3), judges=[again])
    assert len(again.rated) == 58
    assert done.stopped == ""


def test_tuning_is_done_once_a_subject_and_timed(tmp_path):
    method = Greys(tunes=True)
    result = run(tmp_path, method)
    assert method.tuned == [f"s{i}" for i in range(6)]
    assert result.method("greys").tuning_s_per_subject > 0
    again = Greys(tunes=True)
    after = run(tmp_path, again)
    assert again.tuned == []
    assert after.method("greys").tuning_s_per_subject == result.method("greys").tuning_s_per_subject
    assert run(tmp_path / "zero", {"copy": "copy"}).method("copy").tuning_s_per_subject == 0


class Forgetful(Greys):
    def cut_prompts(self, prompts):
        return [x for x in prompts if x.startswith("shade 1")]


def test_prompts_that_are_too_long_are_said(tmp_path):
    result = run(tmp_path, Forgetful())
    assert result.method("greys").cut_prompts == 4
    assert "greys: 4 prompts are longer than it reads; their ends were not seen." in notes(result)


def test_another_benchmark_seed_method_or_judge_needs_another_place(tmp_path):
    run(tmp_path, judges=[ShadeJudge()])
    for change, said in [
        ({"benchmark": Shades(5)}, "Use another `out`"),
        ({"seed": 1}, '"seed": 0'),
        ({"method": Greys(shift=4)}, '"shift"|Greys'),
        ({"judges": [ShadeJudge(step=0.5)]}, "another label"),
    ]:
        with pytest.raises(ValueError, match=said):
            run(tmp_path, **change)
    with lock(tmp_path, "a test"), pytest.raises(LockedError):
        run(tmp_path)


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ({"method": {}}, ValueError, "at least one method"),
        ({"metrics": []}, ValueError, "Nothing is measured"),
        ({"metrics": [NEAR, NEAR]}, ValueError, "Two of a metric or judge are called 'Nearness'"),
        ({"method": {"../x": Greys()}}, ValueError, "cannot be the label of a method"),
        ({"rank_by": "beauty"}, LookupError, "no column 'beauty' to rank by. Known: Nearness"),
        ({"runs": 0, "judges": [ShadeJudge()]}, ValueError, "`runs` must be at least 1; got 0"),
        ({"limit": 0}, ValueError, "`limit` must be at least 1"),
        (
            {"metrics": ["tests.test_comparison:Odd"]},
            TypeError,
            "needs 'weather', which is not known",
        ),
        ({"judges": ["nobody"]}, LookupError, "No Judge is named 'nobody'"),
    ],
)
def test_wrong_settings_are_said(tmp_path, given, error, said):
    with pytest.raises(error, match=said):
        run(tmp_path, **given)


class Odd(Nearness):
    def update(self, generated, weather):
        raise AssertionError


class Liar(ShadeJudge):
    def rate(self, case, run=0):
        return Rating(key=case.key, rubric="r", judge="j", run=run, value=5.0)


def test_a_rating_outside_its_scale_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="gave 5, outside its scale from 0 to 4"):
        run(tmp_path, judges=[Liar()])
