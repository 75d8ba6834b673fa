"""A service that goes away in the midst of a stage: the stage stops, and goes on when it is back."""

from pathlib import Path

import pytest

import dsd
from dsd import curators, teachers
from dsd.captioners import Captioner
from dsd.captioning import caption_pairs
from dsd.curators import EnsembleCurator
from dsd.engines.trial import MAX_OUTAGES, Trial
from dsd.llm import CallFailed, OutOfService
from dsd.llm.outages import is_outage
from dsd.types import Verdict
from tests.cheap_world import make_run, picture, write_prompt_file

QUIET = {"progress": False}


class Distant(curators.Curator):
    """Cannot be reached for pairs of late grids, unless the file `up` is there."""

    def __init__(self, up, early):
        self.up, self.early = up, early

    def judge(self, pair):
        if pair.grid_id not in self.early and not Path(self.up).exists():
            raise ConnectionError("refused")
        return Verdict(keep=True)


class DistantCaptioner(Captioner):
    def __init__(self, up, early):
        self.up, self.early = up, early

    def caption(self, pair):
        if pair.grid_id not in self.early and not Path(self.up).exists():
            raise TimeoutError("no answer")
        return "a caption"


def stopped_and_resumed(run, up, stage, call, match):
    """The stage stops after 24 of 48, twice, and does the rest when the service is back."""
    table = run.table(stage)
    with pytest.raises(OutOfService, match=rf"The last 16 of '{stage}' got no answer, at last with: {match}"):
        call()
    assert len(table) == 24
    with pytest.raises(OutOfService, match="has 0 new rows, which are written; 24 are missing"):
        call()
    assert len(table) == 24
    assert not run.failed(stage).exists
    assert not table.manifest.complete
    Path(up).touch()
    summary = call()
    assert (summary.added, summary.failed, summary.rows) == (24, 0, 48)
    assert table.row_keys() == run.pairs.ids()
    assert run.verify() == []


@pytest.mark.parametrize("members", [0, 2])
def test_a_curator_that_goes_away(tmp_path, members):
    run, up = make_run(tmp_path / "run", 4, curator=None), str(tmp_path / "up")
    early = run.grids.ids()[:2]

    def call():
        curator = Distant(up, early)
        if members:
            curator = EnsembleCurator([curator, Distant(up, early)], rule="all")
        return dsd.curate(run, curator=curator, name="distant", batch_size=8, **QUIET)

    stopped_and_resumed(run, up, "verdicts/distant", call, "(.|\n)*ConnectionError: refused")


def test_a_pair_that_got_no_answer_just_before_is_asked_again(tmp_path):
    """Of pairs that are asked at the same time, those behind it may still have been answered."""
    run, up = make_run(tmp_path / "run", 4, curator=None), tmp_path / "up"
    away = [run.pairs.ids()[i] for i in (18, *range(24, 48))]

    class Away(curators.Curator):
        def judge(self, pair):
            if pair.id in away and not up.exists():
                raise ConnectionError("refused")
            return Verdict(keep=True)

    def call():
        return dsd.curate(run, curator=Away(), name="away", batch_size=8, **QUIET)

    with pytest.raises(OutOfService, match="has 23 new rows, which are written; 25 are missing"):
        call()
    assert {judged.verdict.status for judged in run.verdicts("away")} == {"accepted"}
    up.touch()
    summary = call()
    assert (summary.added, summary.failed, summary.rows) == (25, 0, 48)
    assert sorted(run.verdicts("away").row_keys()) == sorted(run.pairs.ids())
    assert run.verify() == []


def test_what_is_held_back_behind_an_outage_is_written_when_the_stage_is_interrupted(tmp_path):
    run, up = make_run(tmp_path / "run", 4, curator=None), tmp_path / "up"
    lost, last = (run.pairs.ids()[i] for i in (10, 20))

    class Interrupted(curators.Curator):
        def judge(self, pair):
            if pair.id == last and not up.exists():
                raise KeyboardInterrupt
            if pair.id == lost and not up.exists():
                raise ConnectionError("refused")
            return Verdict(keep=True)

    def call():
        return dsd.curate(run, curator=Interrupted(), name="cut", batch_size=8, **QUIET)

    with pytest.raises(KeyboardInterrupt):
        call()
    assert run.verdicts("cut").ids() == [i for i in run.pairs.ids()[:16] if i != lost]
    up.touch()
    summary = call()
    assert (summary.added, summary.failed, summary.rows) == (33, 0, 48)


def test_a_captioner_that_goes_away(tmp_path):
    run, up = make_run(tmp_path / "run", 4, curator=None), str(tmp_path / "up")
    early = run.grids.ids()[:2]
    stopped_and_resumed(
        run, up, "captions/far",
        lambda: caption_pairs(run, DistantCaptioner(up, early), name="far", batch_size=5, **QUIET),
        "TimeoutError: no answer",
    )  # fmt: skip


def test_a_teacher_that_goes_away(tmp_path):
    class Far(teachers.Teacher):
        batch_size, up, drawn = 4, False, 0

        def draw(self, prompts, seeds):
            if not Far.up and Far.drawn + len(prompts) > 8:
                raise CallFailed("no route to host", kind="connection")
            Far.drawn += len(prompts)
            return [
                dsd.types.Grid(image=picture(prompt.id), prompt=prompt, seed=seed, teacher="far")
                for prompt, seed in zip(prompts, seeds, strict=True)
            ]

    run = dsd.Run(tmp_path / "run")
    dsd.write_prompts(run, writer=write_prompt_file(tmp_path / "p.txt", 40), count=40, **QUIET)
    with pytest.raises(OutOfService, match="has 8 new rows, which are written; 32 are missing"):
        dsd.draw_grids(run, teacher=Far(), **QUIET)
    assert not run.failed("grids").exists
    Far.up = True
    assert dsd.draw_grids(run, teacher=Far(), **QUIET).added == 32


def test_outages_are_held_back_until_it_is_clear_whose_they_are():
    trial = Trial("grids", proven=True)
    assert trial.passed("own", "why") == ["own"]
    for number in range(MAX_OUTAGES - 1):
        assert trial.passed(number, "away", outage=True) == []
    assert trial.passed("refused", "why") == []  # it answered, but those before are not settled
    for number in range(MAX_OUTAGES - 1):
        assert trial.passed(number, "away", outage=True) == []
    with pytest.raises(OutOfService, match="The last 16 of 'grids' got no answer, at last with: gone They"):
        trial.passed("last", "gone", outage=True)
    assert trial.stop() == ["refused"]
    assert trial.stop() == []
    few = Trial("grids", proven=True)
    assert few.passed(0, "away", outage=True) == []
    assert few.finish() == [0]  # too few to say that the service is away


def test_an_outage_is_the_rows_own_when_enough_others_have_come():
    trial = Trial("grids", proven=True)
    assert trial.passed("lost", "away", outage=True) == []
    for number in range(2 * MAX_OUTAGES - 1):
        assert trial.passed(number, None) == []
    assert trial.passed("last", None) == ["lost", *range(2 * MAX_OUTAGES - 1), "last"]
    assert trial.passed("next", None) == ["next"]


@pytest.mark.parametrize("late", range(1, MAX_OUTAGES + 1))
def test_of_rows_asked_at_the_same_time_some_are_answered_when_the_service_has_gone(late):
    """The row in front is not recorded as failed, and the late answers are kept."""
    trial = Trial("grids", proven=True)
    assert trial.passed("first", None) == ["first"]
    assert trial.passed("in front", "away", outage=True) == []
    for number in range(late):
        assert trial.passed(number, None) == []
    for _ in range(MAX_OUTAGES - 1):
        assert trial.passed("behind", "away", outage=True) == []
    with pytest.raises(OutOfService):
        trial.passed("behind", "away", outage=True)
    assert trial.stop() == [*range(late)]


def test_of_a_stage_that_never_worked_nothing_is_recorded_when_it_is_stopped():
    trial = Trial("grids", proven=False)
    assert trial.passed("own", "why") == []
    assert trial.stop() == []


@pytest.mark.parametrize(
    ("error", "outage"),
    [(ConnectionRefusedError(), True), (TimeoutError(), True), (CallFailed("", kind="server"), True),
     (CallFailed("", kind="connection"), True), (CallFailed("", kind="timeout"), True),
     (CallFailed("", kind="rate_limit"), True), (CallFailed("", kind="quota"), True),
     (CallFailed("", kind="authentication"), True), (CallFailed("", kind="not_found"), True),
     (CallFailed("", kind="bad_request"), False), (CallFailed("", kind="context"), False),
     (CallFailed("", kind="malformed"), False), (CallFailed("", kind="empty"), False),
     (CallFailed("", kind="too_large"), False), (ValueError(), False), (FileNotFoundError(), False)],
)  # fmt: skip
def test_which_errors_are_outages(error, outage):
    assert is_outage(error) is outage
