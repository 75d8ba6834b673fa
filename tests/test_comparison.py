"""The comparison: figures against loops, stops against SIGKILL, pages against what was published."""

import csv
import json
import math
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from dsd.data.atomic import LockedError, lock
from dsd.evaluation import bootstrap, published
from dsd.evaluation.benchmarks import create as create_benchmark
from dsd.evaluation.benchmarks.dreambench_plus import category_of, split_key
from dsd.evaluation.comparison import compare, write_comparison
from dsd.evaluation.comparison.album import Album
from dsd.evaluation.comparison.figures import Averages
from dsd.evaluation.comparison.journal import Journal
from dsd.evaluation.comparison.markdown import escaped
from dsd.evaluation.comparison.measures import MetricMeasure, Shown
from dsd.evaluation.comparison.notes import notes
from dsd.evaluation.comparison.standings import standings
from dsd.evaluation.methods import Drawing
from dsd.evaluation.methods.base import jobs_of
from dsd.judges import Judge, Rating
from tests.benchmark_folders import dreambench, picture
from tests.comparison_parts import Greys, Nearness, ShadeJudge, Shades, shade, shade_of

ROOT = Path(__file__).parents[1]
NEAR = "tests.comparison_parts:Nearness"
COPIES = {"name": "tests.comparison_parts:NearCopy", "label": "near_copy"}


def run(out, method=None, benchmark=None, **more):
    given = {"metrics": [NEAR], "progress": False, **more}
    return compare(
        benchmark or Shades(),
        {"greys": method or Greys()} if not isinstance(method, dict) else method,
        out,
        **given,
    )


# Figures


def ragged(seed=0):
    rng = np.random.default_rng(seed)
    subjects = [f"s{i}" for i in range(12) for _ in range(rng.integers(1, 6))]
    categories = ["a" if int(x[1:]) < 3 else "b" for x in subjects]
    kinds = [f"k{i % 3}" for i in range(len(subjects))]
    values = rng.normal(0.5, 0.2, len(subjects)) + np.array([0.05 * int(x[1:]) for x in subjects])
    values[rng.random(len(subjects)) < 0.15] = np.nan
    return subjects, categories, kinds, values


@pytest.mark.parametrize("average", ["micro", "macro"])
def test_means_and_intervals_are_those_of_a_loop_over_resamples(average):
    subjects, categories, kinds, values = ragged()
    figure = Averages(subjects, categories, kinds, average, resamples=400, seed=3).figure(values)

    def mean(rows):
        if average == "micro":
            found = [values[i] for i in rows if not math.isnan(values[i])]
            return sum(found) / len(found)
        groups = {
            c: [values[i] for i in rows if categories[i] == c and not math.isnan(values[i])] for c in "ab"
        }
        return np.mean([sum(x) / len(x) for x in groups.values() if x])

    every = range(len(values))
    assert figure.value == pytest.approx(mean(every))
    assert (figure.n, figure.missing) == (int(np.isfinite(values).sum()), int(np.isnan(values).sum()))
    names = list(dict.fromkeys(subjects))
    rows_of = {name: [i for i in every if subjects[i] == name] for name in names}
    rng, found = np.random.default_rng(3), []
    for pick in rng.integers(0, len(names), (400, len(names))):
        found.append(mean([i for number in pick for i in rows_of[names[number]]]))
    assert figure.interval == pytest.approx(tuple(np.quantile(found, [0.025, 0.975])))


def test_on_equal_clusters_intervals_are_those_of_the_older_bootstrap():
    values = np.random.default_rng(1).random((20, 4))
    subjects = [f"s{i}" for i in range(20) for _ in range(4)]
    ours = Averages(subjects, [""] * 80, [""] * 80, seed=5).figure(values.ravel())
    theirs = bootstrap.interval(lambda mean: mean, values, picks=bootstrap.resamples(20, seed=5))
    assert ours.interval == pytest.approx(theirs)


def test_groups_have_figures_of_their_own():
    subjects, categories, kinds, values = ragged(2)
    averages = Averages(subjects, categories, kinds)
    figure = averages.figure(values)
    for key, found in figure.by_kind.items():
        rows = np.array(kinds) == key
        assert found.value == pytest.approx(np.nanmean(values[rows]))
        assert found.n + found.missing == rows.sum()
    assert list(figure.by_category) == ["a", "b"]
    assert sum(x.n for x in figure.by_category.values()) == figure.n
    plain = Averages(subjects, [""] * len(subjects), kinds).figure(values)
    assert plain.by_category == {}


def test_empty_groups_have_no_number_and_are_counted():
    values = np.array([np.nan, np.nan, 0.5, 0.7])
    figure = Averages(["s", "s", "t", "u"], ["a", "a", "b", "b"], [""] * 4).figure(values)
    empty = figure.by_category["a"]
    assert (empty.value, empty.interval, empty.n, empty.missing) == (None, None, 0, 2)
    nothing = Averages(["s", "t"], ["", ""], ["", ""]).figure(np.array([np.nan, np.nan]))
    assert (nothing.value, nothing.interval) == (None, None)
    assert (
        Averages(["s", "s"], ["", ""], ["", ""]).figure(np.array([0.1, 0.9])).interval is None
    )  # one subject
    with pytest.raises(ValueError, match="no picture to average"):
        Averages([], [], [])


def test_the_product_is_of_means_and_its_parts_are_resampled_together():
    subjects, categories, kinds, values = ragged(4)
    averages = Averages(subjects, categories, kinds, resamples=300, seed=1)
    other = 1 - np.nan_to_num(values, nan=0.3)
    product = averages.product(values, other)
    assert product.value == pytest.approx(np.nanmean(values) * other.mean())
    assert product.value != pytest.approx(np.nanmean(values * other))
    names, rng = list(dict.fromkeys(subjects)), np.random.default_rng(1)
    found = []
    for pick in rng.integers(0, len(names), (300, len(names))):
        rows = [i for n in pick for i in range(len(subjects)) if subjects[i] == names[n]]
        found.append(np.nanmean(values[rows]) * other[rows].mean())
    assert product.interval == pytest.approx(tuple(np.quantile(found, [0.025, 0.975])))


# What is kept


def test_a_journal_survives_a_torn_line_and_knows_its_head(tmp_path):
    journal = Journal(tmp_path / "x" / "j.jsonl", {"a": 1})
    journal.append([{"n": 1, "text": "ä\n\u2028"}, {"n": 2}])
    with (tmp_path / "x" / "j.jsonl").open("ab") as file:
        file.write(b'{"n": 3, "te')
    again = Journal(tmp_path / "x" / "j.jsonl", {"a": 1})
    assert [entry["n"] for entry in again.entries] == [1, 2]
    again.append([{"n": 4}])
    assert [x["n"] for x in Journal(tmp_path / "x" / "j.jsonl", {"a": 1}).entries] == [1, 2, 4]
    with pytest.raises(ValueError, match=r'what came of {"a": 1}, not of {"a": 2}'):
        Journal(tmp_path / "x" / "j.jsonl", {"a": 2})
    content = (tmp_path / "x" / "j.jsonl").read_bytes().replace(b'{"n": 2}', b'{"n"')
    (tmp_path / "x" / "j.jsonl").write_bytes(content)
    with pytest.raises(ValueError, match=r"Line 3 of .* is damaged"):
        Journal(tmp_path / "x" / "j.jsonl", {"a": 1})
    (tmp_path / "torn.jsonl").write_bytes(b'{"a"')
    assert Journal(tmp_path / "torn.jsonl", {"a": 1}).entries == []


def test_an_album_keeps_pictures_exactly_under_any_key(tmp_path):
    keys = ["a/b", "a-b", "../../evil", "ü" * 300, "object_20_rubik's_cube-3", "CON", "x.", "\udcff"]
    jobs = jobs_of([Shades().load()[0]])
    jobs = [type(jobs[0])(case=_keyed(jobs[0].case, key), seed=i) for i, key in enumerate(keys)]
    album = Album(tmp_path / "p", Greys())
    for job in jobs:
        album.put(job, Drawing(image=picture(job.key), seconds=1.5, cost_usd=0.25, model="m"))
    again = Album(tmp_path / "p", Greys())
    assert all(again.settled(job) for job in jobs)
    assert {job.key: image.tobytes() for job, image in again.images(jobs)} == {
        job.key: picture(job.key).tobytes() for job in jobs
    }
    assert again.drawn(jobs[0]).cost_usd == 0.25
    assert len(list((tmp_path / "p").iterdir())) == len(jobs)
    assert list(tmp_path.iterdir()) == [tmp_path / "p"]


def _keyed(case, key):
    return type(case)(key=key, prompt=case.prompt, pictures=case.pictures, subject=case.subject)


def test_an_album_tries_again_what_failed_and_not_what_was_refused(tmp_path):
    job, other = jobs_of(Shades(1, 2).load())
    album = Album(tmp_path, Greys())
    album.put(job, Drawing(status="failed", reason="r" * 9999))
    album.put(other, Drawing(status="refused"))
    again = Album(tmp_path, Greys())
    assert (again.settled(job), again.settled(other)) == (False, True)
    assert len(again.drawn(job).reason) == 2000
    again.put(job, Drawing(image=shade(3)))
    assert sorted(x.suffix for x in tmp_path.iterdir()) == [".json", ".png"]
    assert Album(tmp_path, Greys()).settled(job)
    next(tmp_path.glob("*.png")).write_bytes(b"broken")
    with pytest.raises(ValueError, match="is damaged, or no picture of this command"):
        Album(tmp_path, Greys())


# The run


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


def test_a_picture_goes_through_a_network_once(tmp_path):
    seen = Counter()

    def extractor(images):
        seen.update(shade_of(image) for image in images)
        return np.array([[1.0, shade_of(image)] for image in images])

    measure = MetricMeasure({"name": "image_similarity", "extractor": extractor})
    jobs = jobs_of(Shades().load())
    shown = [Shown(job=job, image=shade(100 + number)) for number, job in enumerate(jobs)]
    found = measure.measure(shown[:9]) + measure.measure(shown[9:])
    assert set(seen.values()) == {1}
    a = np.array([1.0, 107])
    refs = [np.array([1.0, x]) for x in (40, 45)]
    expected = np.mean([a @ r / np.linalg.norm(a) / np.linalg.norm(r) for r in refs])
    assert found[7]["image_similarity"] == pytest.approx(expected, abs=1e-6)


class Sets(Nearness):
    """Takes sets of references, and the nearest of each."""

    def update(self, generated, reference, reference_index=None):
        for image, some in zip(generated, reference, strict=True):
            near = [1 - abs(shade_of(image) - shade_of(x)) / 255 for x in some]
            self.total, self.count = self.total + max(near), self.count + 1


class Pasted(Nearness):
    """How much nearer to the reference than to the truth."""

    def update(self, generated, truth, reference):
        for image, t, r in zip(generated, truth, reference, strict=True):
            self.total += abs(shade_of(image) - shade_of(t)) - abs(shade_of(image) - shade_of(r))
            self.count += 1


def test_metrics_get_the_references_as_they_take_them(tmp_path):
    (job,) = jobs_of(Shades(1, 1).load())
    shown = [Shown(job=job, image=shade(6))]
    name = "tests.test_comparison:"
    assert MetricMeasure(name + "Sets").measure(shown) == [{"Sets": pytest.approx(1 - 1 / 255)}]
    assert MetricMeasure(name + "Pasted").measure(shown) == [
        {"Pasted": 5 - 6}
    ]  # the truth is 1, the reference 0
    without = type(job)(case=type(job.case)(**{**vars(job.case), "truth": None}))
    assert MetricMeasure(name + "Pasted").measure([Shown(job=without, image=shade(6))]) == [{"Pasted": 1 - 6}]
    alone = type(job)(case=type(job.case)(**{**vars(without.case), "pictures": without.case.pictures[:1]}))
    assert MetricMeasure(name + "Pasted").measure([Shown(job=alone, image=shade(6))]) == [{"Pasted": None}]


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("image_similarity", "preservation"),
        ("text_image_similarity", "following"),
        ("clip_image_similarity", "preservation"),
        ("near_copy_rate", "copying"),
        ("nearness", "other"),
    ],
)
def test_roles_follow_from_names(name, role):
    assert MetricMeasure({"name": NEAR, "label": name}).columns[0].role == role


def test_a_role_can_be_said():
    assert MetricMeasure({"name": NEAR, "role": "following"}).columns[0].role == "following"
    with pytest.raises(ValueError, match="Unknown `role` 'best' of a metric"):
        MetricMeasure({"name": NEAR, "role": "best"})


# Published rows


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


# The pages


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
