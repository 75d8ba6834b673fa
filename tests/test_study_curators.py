"""The study of curators: what enters its reports, and how it goes on after being stopped."""

import inspect
import itertools
import json
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from PIL import Image

from dsd.cli import main, options
from dsd.curators import HistogramCurator, Pair, Verdict
from dsd.data.atomic import LockedError, lock
from dsd.studies import Label, LabelledPairs, compare_curators
from dsd.studies.curators_mistakes import mistakes
from dsd.studies.curators_results import Results, Verdicts
from dsd.studies.curators_verdicts import Timed, entries, judge_missing, verdicts_of
from tests.curators_study import GOOD, SAID, Scripted, judged, picture, picture_table, rows, scripted_pairs
from tests.html_page import EVIL, check


@pytest.fixture
def table(tmp_path):
    return picture_table(tmp_path)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study") / "out"
    facts = compare_curators(
        scripted_pairs(), folder, {"one": Scripted(), "two": Scripted(bias=1.0)}, resamples=200, batch_size=5,
        progress=False,
    )  # fmt: skip
    return folder, facts


def test_only_decided_pairs_enter_the_numbers_and_all_are_counted(study):
    folder, facts = study
    row, _ = facts["costs"]
    counts = {
        name: row[name] for name in ("accepted", "rejected", "refused", "unparsable", "failed", "scored")
    }
    assert counts == {"accepted": 5, "rejected": 4, "refused": 1, "unparsable": 1, "failed": 1, "scored": 7}
    assert (row["cost_usd"], row["cost_known"], row["cost_a_pair"]) == (11 * 0.25, 11, 0.25)
    everything = facts["scores_all"][0]
    assert everything["judged"] == 9
    assert everything["precision"] == pytest.approx(3 / 5)
    assert everything["recall"] == pytest.approx(3 / 5)
    assert everything["auroc"] == pytest.approx(10 / 12)  # 4 x 3 ordered pairs of scores, 2 out of order
    assert everything["kappa"] == pytest.approx((5 / 9 - 41 / 81) / (1 - 41 / 81), abs=1e-6)
    hard = facts["scores_hard"][0]
    assert hard["judged"] == 6  # of the hard negatives one is decided
    assert hard["precision"] == pytest.approx(3 / 4)
    shares = facts["groups"][0]
    assert shares["accepted: same subject"] == pytest.approx(3 / 5)
    assert shares["accepted: other class"] == pytest.approx(1 / 3)
    told = [row for row in rows(folder / "verdicts.csv") if row["curator"] == "one"]
    assert [row["status"] for row in told] == [said.split()[0] for _, said in SAID]


def test_the_first_curator_is_what_the_others_are_compared_with(study):
    _, facts = study
    first, second = facts["scores_all"]
    assert "ahead" not in first
    assert (second["ahead"], second["ahead_low"], second["ahead_high"]) == (0, 0, 0), "only shifted"


def test_every_form_of_the_report_says_the_same(study):
    folder, facts = study
    assert json.loads((folder / "report.json").read_text()) == json.loads(json.dumps(facts))
    told = rows(folder / "scores_all.csv")
    assert [float(row["auroc"]) for row in told] == [row["auroc"] for row in facts["scores_all"]]
    page, text = check((folder / "report.html").read_text()), (folder / "report.md").read_text()
    for row in facts["scores_all"]:
        wanted = f"{row['recall']:.2f} ({row['recall_low']:.2f} to {row['recall_high']:.2f})"
        assert wanted in page.text
        assert wanted in text
    for drawing in folder.glob("plots/*.svg"):
        ElementTree.parse(drawing)
        assert f"plots/{drawing.name}" in text
    with Image.open(folder / "plots" / "curves.png") as drawn:
        assert min(drawn.size) > 400
    points = rows(folder / "curves.csv")
    assert {(p["curator"], p["part"]) for p in points} == set(
        itertools.product(("one", "two"), ("all", "hard"))
    )


def test_the_page_of_mistakes_shows_the_worst_first(study):
    folder, _ = study
    found = check((folder / "mistakes.html").read_text())
    assert len(found.images) == 2 * 2 * (2 + 2)
    order = [found.text.index(f"because subject {i} ") for i in (5, 10, 2, 11)]
    assert order == sorted(order), "accepted by falling score, those without one last; then rejected likewise"
    assert "0.700" in found.text
    assert "no score" in found.text


def test_a_photograph_that_lies_on_its_side_is_shown_upright(tmp_path):
    lying = Image.effect_noise((300, 200), 60).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 6
    lying.save(tmp_path / "lying.jpg", exif=exif)
    with Image.open(tmp_path / "lying.jpg") as turned:
        turned.load()
    pairs = [Pair(reference=turned, target=picture(i), caption="accepted 1") for i in (0, 1)]
    labels = tuple(Label(pair_id=x.id, same=i == 0) for i, x in enumerate(pairs))
    given = LabelledPairs(
        source="x", truth="x", labels=labels, load=lambda ids: ((x.id, x) for x in pairs if x.id in ids)
    )
    compare_curators(given, tmp_path / "out", {"one": Scripted()}, resamples=20, progress=False)
    shown = check((tmp_path / "out" / "mistakes.html").read_text()).images[0]
    assert int(shown["height"]) / int(shown["width"]) == pytest.approx(3 / 2, abs=0.01)


def test_names_too_long_for_a_drawing_stay_apart(tmp_path):
    names = [f"embedding {'x' * 80} {kind} {'y' * 80}" for kind in ("one", "two")]
    compare_curators(
        scripted_pairs(), tmp_path, {name: Scripted(bias=float(i)) for i, name in enumerate(names)},
        resamples=20, progress=False,
    )  # fmt: skip
    for name, letters in (("auroc", 20), ("roc_all", 44)):
        drawn = ElementTree.parse(tmp_path / "plots" / f"{name}.svg").getroot().itertext()
        shown = [text for text in drawn if text.startswith("embed")]
        assert len(set(shown)) == 2
        assert max(map(len, shown)) <= letters


def test_mistakes_are_sorted_by_how_far_off_they_are():
    said = {0.2: False, 0.9: False, 0.5: False, None: False, 0.6: True, 0.1: True, 0.4: True}
    verdicts = [Verdict(keep=not same, score=score) for score, same in said.items()]
    labels = tuple(Label(pair_id=str(i), same=same) for i, same in enumerate(said.values()))
    pairs = LabelledPairs(source="x", truth="x", labels=labels, load=lambda ids: iter(()))
    (entry,) = entries({"one": Scripted()})
    timed = [Timed(pair_id=str(i), verdict=verdict, seconds=0.1) for i, verdict in enumerate(verdicts)]
    found = mistakes(pairs, Verdicts(entry=entry, timed=timed))
    assert found.accepted == [1, 2, 0, 3]
    assert found.rejected == [5, 6, 4]


def test_what_names_reasons_and_groups_say_is_shown_and_not_obeyed(tmp_path):
    pairs = scripted_pairs(subject=EVIL)
    labels = tuple(
        Label(pair_id=x.pair_id, same=x.same, group=EVIL if not x.same else "same subject", subjects=(EVIL,))
        for x in pairs.labels
    )
    pairs = LabelledPairs(source=EVIL, truth=EVIL, labels=labels, load=pairs.load, hard=EVIL)
    long = Scripted()
    long.note = EVIL + "x" * 100_000  # not in its spec, which is shown as it is
    compare_curators(pairs, tmp_path, {f"{EVIL} $x_1^2$ _": long}, resamples=20, progress=False)
    for name in ("report.html", "mistakes.html"):
        text = (tmp_path / name).read_text()
        found = check(text)
        assert all(image["src"].startswith("data:image/") for image in found.images)
        assert "alert('x')" in found.text
        assert "x" * 700 not in text, "a reason is cut"
    assert "<script" not in (tmp_path / "report.md").read_text()
    for drawing in tmp_path.glob("plots/*.svg"):
        ElementTree.parse(drawing)


class PowerFailureError(BaseException):
    """Nothing that a program could catch."""


def test_stopped_anywhere_it_goes_on_and_asks_for_nothing_twice(study, tmp_path):
    whole, _ = study
    pairs, curator, judge = scripted_pairs(), Scripted(), Scripted.judge
    stops = iter((3, 8, 13))
    stop_at = next(stops)

    def failing(self, pair):
        if len(self.seen) >= stop_at:
            raise PowerFailureError
        return judge(self, pair)

    Failing = type(
        "Scripted", (Scripted,), {"judge": failing, "__qualname__": "Scripted", "__module__": __name__}
    )
    curator = Failing()
    for _ in range(4):
        try:
            compare_curators(pairs, tmp_path, {"one": curator}, batch_size=2, resamples=50, progress=False)
            break
        except PowerFailureError:
            stop_at = next(stops, 1000)
    assert len(set(curator.seen)) == len(SAID)
    assert len(curator.seen) <= len(SAID) + 3, "at most the running batch again, at each stop"
    ours = [row["status"] + row["score"] for row in rows(tmp_path / "verdicts.csv")]
    theirs = [row["status"] + row["score"] for row in rows(whole / "verdicts.csv") if row["curator"] == "one"]
    assert ours == theirs


def test_a_second_call_asks_only_what_is_missing(tmp_path):
    pairs, first, second = scripted_pairs(), Scripted(), Scripted(bias=2.0)
    given = {"resamples": 20, "progress": False}
    facts = compare_curators(pairs, tmp_path, {"one": first}, **given)
    compare_curators(pairs, tmp_path, {"one": first, "two": second}, **given)
    assert len(first.seen) == len(second.seen) == len(SAID)
    again = compare_curators(pairs, tmp_path, {"one": first}, retry_failed=True, **given)
    assert len(first.seen) == len(SAID) + 1
    assert again["scores_all"] == facts["scores_all"]
    assert not list(tmp_path.rglob("*.tmp"))


class Paid(Scripted):
    """Has a budget, keeps answers, and can have more pairs in hand than a batch of the study."""

    pairs_at_once = 7

    def __init__(self, max_cost_usd: float | None = None, rpm: int | None = None, bias: float = 0.0) -> None:
        super().__init__(bias)
        self.told, self.batches, self.closed = [], [], 0

    def judge_batch(self, pairs):
        self.batches.append(len(pairs))
        return [Verdict(status=x.status, score=x.score, raw="long " * 1000) for x in map(self.judge, pairs)]

    def judge(self, pair):
        return super().judge(pair) if not pair.caption.startswith("failed") else Verdict(status="failed")

    def keep_answers(self, path):
        self.told.append(path)

    def close(self):
        self.closed += 1


def test_a_larger_budget_goes_on_with_the_same_verdicts(tmp_path):
    """What a stop at `max_cost_usd` leaves is taken up by the same command with another budget."""
    pairs, first, second = scripted_pairs(), Paid(max_cost_usd=1.0), Paid(max_cost_usd=2.0, rpm=60)
    (one,), (two,) = entries([first]), entries([second])
    assert (one.name, one.spec) == (two.name, two.spec)
    assert entries([Paid(bias=1.0, rpm=7)])[0].name == "Paid bias=1.0"
    given = {"resamples": 20, "progress": False}
    facts = compare_curators(pairs, tmp_path, [first], batch_size=2, **given)
    assert compare_curators(pairs, tmp_path, [second], **given)["scores_all"] == facts["scores_all"]
    assert (len(first.seen), len(second.seen)) == (len(SAID) - 1, 0)  # one fails before it is seen
    assert first.batches == [7, 5]
    assert first.told == second.told == [tmp_path / "answers.sqlite"]
    assert first.closed == 0, "it is the caller's"


def test_a_curator_built_from_a_spec_is_closed_also_when_it_fails(table, tmp_path, monkeypatch):
    closed = []
    monkeypatch.setattr(HistogramCurator, "close", lambda self: closed.append(self))
    given = {"resamples": 20, "progress": False}
    compare_curators(table(*GOOD), tmp_path / "out", "histogram", **given)
    assert len(closed) == 1
    monkeypatch.setattr(HistogramCurator, "judge_some", lambda self, pairs: [])
    with pytest.raises(ValueError, match="HistogramCurator gave 0 verdicts for 3 pairs"):
        compare_curators(table(*GOOD), tmp_path / "other", "histogram", **given)
    assert len(closed) == 2


def test_raw_answers_stay_on_the_disk(tmp_path):
    pairs = scripted_pairs()
    (entry,) = entries({"one": Paid()})
    said = judge_missing(tmp_path, entry, pairs, progress=False)
    assert {x.verdict.raw for x in said.values()} == {""}
    assert {x.verdict.raw for x in verdicts_of(tmp_path, entry)} == {"long " * 1000}


def test_curators_are_compared_on_the_pairs_that_both_scored():
    """The second refuses what it finds hard; on the rest it is no better than the first."""
    pairs, x = scripted_pairs(), judged(12, seed=1)
    labels = tuple(Label(pair_id=str(i), same=bool(same)) for i, same in enumerate(x.same))
    pairs = LabelledPairs(source="x", truth="x", labels=labels, load=pairs.load)
    hard = {int(i) for i in np.flatnonzero(x.same)[:2]} | {int(np.flatnonzero(~x.same)[-1])}
    scores = {i: -5.0 if i in hard and x.same[i] else float(score) for i, score in enumerate(x.scores)}
    found = []
    for refused in (set(), hard):
        said = [
            Verdict(status="refused") if i in refused else Verdict(keep=scores[i] > 0, score=scores[i])
            for i in range(12)
        ]
        (entry,) = entries({f"refuses {len(refused)}": Scripted()})
        timed = [Timed(pair_id=str(i), verdict=verdict, seconds=0.1) for i, verdict in enumerate(said)]
        found.append(Verdicts(entry=entry, timed=timed))
    first, second = Results(pairs, found, count=50).scores["all"]
    assert second["auroc"] > first["auroc"] + 0.05
    assert (second["ahead"], second["ahead_low"], second["ahead_high"]) == (0, 0, 0)
    backwards = Results(pairs, found[::-1], count=50).scores["all"][1]
    assert backwards["ahead"] == 0


def test_another_spec_or_other_pairs_are_refused(tmp_path):
    pairs, given = scripted_pairs(), {"resamples": 20, "progress": False}
    compare_curators(pairs, tmp_path, {"one": Scripted()}, **given)
    before = {path: path.read_bytes() for path in tmp_path.rglob("part-*")}
    with pytest.raises(
        ValueError, match=r"verdicts of 'one' by another spec: bias was None, now 1.0. Give this"
    ):
        compare_curators(pairs, tmp_path, {"one": Scripted(bias=1.0)}, **given)
    for changed in (
        pairs.labels[1:],
        (Label(pair_id=pairs.labels[0].pair_id, same=False, group="same class"), *pairs.labels[1:]),
    ):
        other = LabelledPairs(source="x", truth="x", labels=changed, load=pairs.load, hard="same class")
        with pytest.raises(ValueError, match="begun with other arguments: pairs was '12 labelled pairs"):
            compare_curators(other, tmp_path, {"one": Scripted()}, **given)
    assert {path: path.read_bytes() for path in tmp_path.rglob("part-*")} == before
    with lock(tmp_path, "another"), pytest.raises(LockedError):
        compare_curators(pairs, tmp_path, {"one": Scripted()}, **given)


def test_names_come_from_specs_and_must_differ():
    found = entries(["heuristic", {"name": "histogram", "crop": 0.25}, "histogram"])
    assert [x.name for x in found] == ["heuristic", "histogram crop=0.25", "histogram"]
    assert [x.name for x in entries("heuristic, histogram")] == ["heuristic", "histogram"]
    assert [x.spec for x in entries({"a": {"name": "histogram", "low": 0.5}})] == [
        {"name": "histogram", "low": 0.5}
    ]
    assert [x.name for x in entries({"name": "histogram", "low": 0.5})] == ["histogram low=0.5"]
    assert "batch_size" not in entries([{"name": "embedding", "batch_size": 3}])[0].spec
    for wrong, error, message in (
        ([], ValueError, "There is no curator"),
        (["heuristic", "heuristic"], ValueError, "Two curators are called 'heuristic'"),
        ("heuristik", LookupError, "Did you mean 'heuristic'"),
    ):
        with pytest.raises(error, match=message):
            entries(wrong)


def test_what_was_judged_before_the_money_was_spent_is_kept(tmp_path):
    from dsd.llm.records import Stopped

    class Costly(Scripted):
        def judge_some(self, pairs):
            verdicts = super().judge_batch(pairs[:3])
            return [*verdicts, *(Stopped("the money is spent") for _ in pairs[3:])]

    pairs, curator = scripted_pairs(), Costly()
    with pytest.raises(Stopped, match="spent"):
        compare_curators(pairs, tmp_path, {"one": curator}, progress=False)
    assert len(curator.seen) == 3
    cheap = Scripted()
    Costly.judge_some = lambda self, given: cheap.judge_batch(given)
    compare_curators(pairs, tmp_path, {"one": curator}, resamples=20, progress=False)
    assert sorted(curator.seen + cheap.seen) == sorted(x.pair_id for x in pairs.labels)


def test_a_price_that_is_unknown_is_not_zero():
    class Free(Scripted):
        free = True

        def judge(self, pair):
            return Verdict(keep=True)

    class Unknown(Free):
        free = False

    pairs = scripted_pairs()
    found = []
    for curator in (Free(), Unknown()):
        (entry,) = entries({"one": curator})
        timed = [Timed(pair_id=x.pair_id, verdict=curator.judge(None), seconds=0.5) for x in pairs.labels]
        (row,) = Results(pairs, [Verdicts(entry=entry, timed=timed)], count=10).costs
        found.append((row["cost_usd"], row["cost_known"], row["seconds_a_pair"]))
    assert found == [(0, 12, 0.5), (None, 0, 0.5)]


def test_the_command(table, tmp_path, capsys, caplog):
    path = table(*GOOD)
    out = tmp_path / "out"
    given = [
        "study",
        "curators",
        "--pairs",
        str(path),
        "--out",
        str(out),
        "--no_progress",
        "--resamples",
        "20",
    ]
    spec = "[heuristic, {name: histogram, crop: 0.25}]"
    assert main([*given, "--curators", spec]) == 0
    assert capsys.readouterr().out.strip() == str(out / "report.html")
    assert [row["curator"] for row in rows(out / "scores_all.csv")] == ["heuristic", "histogram crop=0.25"]
    assert main([*given, "--curators", "{mine: {name: histogram, low: 0.5}}", "--columns.group", "kind"]) == 0
    assert [row["curator"] for row in rows(out / "scores_all.csv")] == ["mine"]
    assert main([*given, "--curators", "heuristic,histogram", "--hard", "other class"]) == 2
    assert "begun with other arguments" in capsys.readouterr().err
    for wrong, message in (
        (["--run", "r"], "--run is no option of `dsd study curators`"),
        (["--seeds", "4"], "--seeds is no option of `dsd study curators`"),
        (["--curators", "heuristik"], "Did you mean 'heuristic'"),
    ):
        assert main([*given, *wrong]) == 2
        assert message in capsys.readouterr().err
    assert main(["study", "curators", "--out", "x"]) == 2
    assert "--pairs must be given" in capsys.readouterr().err
    assert main(["study", "architectures", "--out", "x"]) == 2
    assert "--run must be given" in capsys.readouterr().err
    assert main(["study", "architectures", "--out", "x", "--run", "r", "--mistakes", "3"]) == 2
    assert "--mistakes is no option of `dsd study architectures`" in capsys.readouterr().err


def test_every_argument_is_an_option():
    found = {option.name: option for option in options.read("dsd.cli.study:study")[1]}
    for name, parameter in inspect.signature(compare_curators).parameters.items():
        assert name in found
        if name not in ("pairs", "out"):
            assert found[name].default == parameter.default, name
