"""What a stage tells while it runs: the page and the log of the run, whatever the clock on the wall does."""

import json
import logging
import re
import shutil
import threading
import time
from html.parser import HTMLParser

import pytest

import dsd
from dsd import curators
from dsd.data.rows import Failure
from dsd.data.writer import TableWriter
from dsd.engines import log, page, watch
from dsd.engines.watch import Watch
from dsd.types import Verdict
from tests.cheap_world import make_run

QUIET = {"progress": False}
EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&"


class Page(HTMLParser):
    """The texts of the page's cells by the stage of their row, and all tags that there are."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.rows, self._cells = [], [], {}, None
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [(tag, *attribute) for attribute in attributes]
        if tag == "tr":
            self._cells = []
        elif tag in ("td", "th") and self._cells is not None:
            self._cells.append("")

    def handle_endtag(self, tag):
        if tag == "tr" and self._cells:
            self.rows[self._cells[0]] = self._cells[1:]
            self._cells = None

    def handle_data(self, data):
        self.text += data
        if self._cells:
            self._cells[-1] += data


class Dear(curators.Curator):
    def judge(self, pair):
        return Verdict(keep=True, cost_usd=0.25)


def lines(run):
    return [json.loads(line) for line in (run.path / log.LOG).read_text().splitlines()]


@pytest.fixture
def clock(monkeypatch):
    """A clock that goes forward as it is told."""

    class Clock:
        now = 1000.0

    monkeypatch.setattr(watch.time, "monotonic", lambda: Clock.now)
    return Clock


def test_rate_and_time_left_are_of_the_last_two_minutes(clock):
    seen = Watch("grids", 10_000, 1000)
    for _ in range(100):
        clock.now += 1
        seen.advance(10)
    state = seen.snapshot()
    assert (state.done, state.rate) == (2000, pytest.approx(10))
    assert state.left_s == pytest.approx(800)
    for _ in range(300):  # it has become slower
        clock.now += 1
        seen.advance(2)
    state = seen.snapshot()
    assert state.rate == pytest.approx(2, rel=0.02)
    assert state.left_s == pytest.approx((10_000 - state.done) / 2, rel=0.02)
    clock.now += 600  # nothing comes any more
    assert seen.snapshot().rate < 0.5
    seen.state = "finished"
    assert seen.snapshot().rate == pytest.approx(1600 / 1000)
    assert seen.snapshot().left_s is None
    assert len(seen._counts) < 200  # bounded, however long it takes


def test_many_rows_in_no_time_are_counted(clock):
    seen = Watch("pairs", 10**6)
    for _ in range(10**4):
        clock.now += 1e-4
        seen.advance(100)
    assert seen.snapshot().rate == pytest.approx(10**6, rel=1e-3)
    assert len(seen._counts) < 5
    assert Watch("pairs", 0).snapshot().rate is None


@pytest.mark.parametrize("jump", [-1e9, 1e9])
def test_a_jump_of_the_clock_on_the_wall_harms_nothing(tmp_path, monkeypatch, jump):
    """In the midst of each stage it jumps by thirty years, to and fro."""
    expected = make_run(tmp_path / "calm" / "run", 6)
    true_time, calls = time.time, 0

    def jumping():
        nonlocal calls
        calls += 1
        return true_time() + (jump if calls % 2 else 0)

    flushes = []
    true_flush = TableWriter.flush
    monkeypatch.setattr(TableWriter, "flush", lambda self: flushes.append(self) or true_flush(self))
    monkeypatch.setattr(time, "time", jumping)
    monkeypatch.setattr(time, "time_ns", lambda: int(jumping() * 1e9))
    run = make_run(tmp_path / "jump" / "run", 6)
    dsd.draw_grids(run, teacher="cheap", overwrite=True, **QUIET)  # renames a folder by the time
    dsd.make_pairs(run, **QUIET)
    assert calls > 10
    assert len(flushes) < 40  # not after each row
    for stage in ("prompts", "grids", "pairs", "verdicts/parity"):
        one, other = run.table(stage), expected.table(stage)
        assert one.ids() == other.ids()
        assert 0 <= one.manifest.seconds < 60
    ended = [line for line in lines(run) if line["message"] == "ended"]
    assert all(0 <= line["seconds"] < 60 for line in ended)
    assert [line["state"] for line in ended] == ["finished"] * len(ended)
    with run.lock("test"):
        pass


def test_the_page_shows_every_stage(tmp_path):
    run = make_run(tmp_path / "run", 8, faults={"003": "raise"})
    found = Page((run.path / watch.PAGE).read_text())
    rows = {name: cells for name, cells in found.rows.items() if name in run.stages()}
    assert list(rows) == ["prompts", "grids", "pairs", "verdicts/parity"]
    assert rows["prompts"][0] == "8"
    assert rows["grids"][0] == "7"
    assert rows["grids"][7] == "1"  # failed
    verdicts = run.verdicts("parity").manifest.counts
    assert rows["verdicts/parity"][0] == "84 of 84"
    assert rows["verdicts/parity"][5] == f"{verdicts['yield']:.0%}"
    assert rows["verdicts/parity"][6] == "unknown"  # of those that are refused
    assert rows["verdicts/parity"][8] == "finished"
    assert ("meta", "http-equiv", "refresh") not in found.attributes  # nothing changes any more
    dsd.curate(run, Dear(), name="dear", **QUIET)
    found = Page((run.path / watch.PAGE).read_text())
    assert found.rows["verdicts/dear"][6] == "$21.00 of ~$21.00"
    assert found.rows["verdicts/parity"][6] == f"${verdicts['cost_usd']:.2f}"
    assert "Last failures of grids" in found.text
    assert "cannot draw 'prompt number 003.'" in found.text
    dsd.draw_grids(run, teacher={"name": "cheap", "faults": {"003": "raise"}}, retry_failed=True, **QUIET)
    found = Page((run.path / watch.PAGE).read_text())
    assert found.text.count("cannot draw 'prompt number 003.'") == 1
    assert found.rows["grids"][7] == "1"
    assert found.rows["verdicts/parity"][5] == f"{verdicts['yield']:.0%}"


def test_the_page_is_alive_while_one_row_takes_long(tmp_path, monkeypatch):
    monkeypatch.setattr(watch._Writer, "every_s", 0.05)
    run = make_run(tmp_path / "run", 3, curator=None)
    seen, go_on = [], threading.Event()

    class Slow(curators.Curator):
        def judge(self, pair):
            if len(seen) < 20:
                before = (run.path / watch.PAGE).stat().st_mtime_ns
                while (run.path / watch.PAGE).stat().st_mtime_ns == before:
                    go_on.wait(0.01)
                seen.append((run.path / watch.PAGE).read_text())
            return Verdict(keep=True)

    dsd.curate(run, Slow(), name="slow", batch_size=6, **QUIET)
    found = [Page(text) for text in seen]
    assert all(text.endswith("</html>\n") for text in seen)  # never half of one
    assert all(("meta", "http-equiv", "refresh") in one.attributes for one in found)
    assert [one.rows["verdicts/slow"][0] for one in found[4:6]] == ["0 of 36", "0 of 36"]
    assert found[15].rows["verdicts/slow"][0] == "12 of 36"
    assert found[15].rows["verdicts/slow"][4] != ""  # time left
    assert not any(thread.name == "dsd-progress" for thread in threading.enumerate())


def test_nothing_on_the_page_is_taken_for_html(tmp_path):
    state = page.StageState(
        stage=EVIL, state=f"stopped: {EVIL}", done=1, total=3, unit=EVIL, rate=1.0, begun_at=EVIL,
        told={"yield": EVIL, "cost": EVIL, EVIL: EVIL}, num_failed=1,
        failures=[Failure(source=EVIL, reason=EVIL * 100)],
    )  # fmt: skip
    others = {EVIL: {"rows": 3, "seconds": 1.0, "counts": {"failed": 1}}}
    text = page.page(EVIL, others, state, EVIL)
    found = Page(text)
    plain = Page(page.page("x", {"y": others[EVIL]}, page.StageState(
        stage="a", state="stopped: b", done=1, total=3, rate=1.0, told={"c": "d"}, num_failed=1,
        failures=[Failure(source="e", reason="f")],
    ), "now"))  # fmt: skip
    assert found.tags == plain.tags
    assert {(tag, name) for tag, name, _ in found.attributes} == {
        (tag, name) for tag, name, _ in plain.attributes
    }
    assert found.text.count("alert(1)") > 5  # shown as they are
    assert len(text) < 20_000
    assert text.count("<script>") == 1


def test_a_page_that_cannot_be_written_is_told_once(tmp_path, caplog, monkeypatch):
    true_replace = watch.replace_file

    def refuse(path, content):
        raise OSError(28, "the disk is full")

    monkeypatch.setattr(watch, "replace_file", refuse)
    run = make_run(tmp_path / "run", 3)
    assert len(run.verdicts("parity")) == 36
    said = [record for record in caplog.records if "is not written any more" in record.message]
    assert len(said) == 4  # once a stage
    assert true_replace is not watch.replace_file


def test_the_log_is_json_lines_of_begin_end_and_warnings(tmp_path):
    run = make_run(tmp_path / "run", 8, faults={"003": "raise"})
    found = lines(run)
    told = [(line["stage"], line["message"]) for line in found if line["message"] in ("begun", "ended")]
    stages = ["prompts", "grids", "pairs", "verdicts/parity"]
    assert told == [(stage, message) for stage in stages for message in ("begun", "ended")]
    (warning,) = [line for line in found if "could not be drawn" in line["message"]]
    assert (warning["level"], warning["stage"], warning["logger"]) == ("warning", "grids", "dsd.engines.work")
    assert "RuntimeError: cannot draw 'prompt number 003.'" in warning["error"]
    ended = next(line for line in found if (line["stage"], line["message"]) == ("grids", "ended"))
    assert (ended["state"], ended["done"], ended["total"], ended["failed"]) == ("finished", 8, 8, 1)
    assert not [handler for handler in logging.getLogger("dsd").handlers if hasattr(handler, "baseFilename")]


def test_what_stopped_a_stage_is_told_without_keys(tmp_path):
    run = make_run(tmp_path / "run", 3, curator=None)
    key = "sk-" + "a1B2" * 8

    class Broken(curators.Curator):
        def judge(self, pair):
            logging.getLogger("dsd.test").warning("sent with %s", key)
            return Verdict(keep=True)

        def judge_batch(self, pairs):
            [self.judge(pair) for pair in pairs]
            raise RuntimeError(f"refused: {key}")

    with pytest.raises(RuntimeError, match="refused"):
        dsd.curate(run, Broken(), name="broken", **QUIET)
    everything = (run.path / watch.PAGE).read_text() + (run.path / log.LOG).read_text()
    assert "a1B2" not in everything
    assert "sent with ***" in everything
    assert "stopped: RuntimeError: refused: ***" in Page((run.path / watch.PAGE).read_text()).text
    assert lines(run)[-1]["state"].startswith("stopped: RuntimeError")


def test_the_log_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(log, "_MAX_BYTES", 2000)
    with log.JsonLog(tmp_path, "grids") as written:
        for i in range(200):
            written.event("x" * 20_000 if i == 100 else "event", number=i)
    files = sorted(tmp_path.iterdir())
    assert [file.name for file in files] == ["log.jsonl", "log.jsonl.1", "log.jsonl.2"]
    assert sum(file.stat().st_size for file in files) < 3 * 2000 + log._MAX_TEXT
    last = [json.loads(line) for file in files[:1] for line in file.read_text().splitlines()]
    assert last[-1]["number"] == 199
    assert all(json.loads(line) for file in files for line in file.read_text().splitlines())


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59.4, "59 s"), (61, "1 min 1 s"), (3600, "1 h 0 min"), (90_000, "1 d 1 h")],
)
def test_durations(seconds, text):
    assert page._time(seconds) == text


@pytest.mark.parametrize(
    ("rate", "text"),
    [(None, ""), (2500, "2,500 rows/s"), (1.25, "1.25 rows/s"), (0.5, "30 rows/min"), (0.01, "36 rows/h")],
)
def test_rates(rate, text):
    assert page._rate(rate, "rows") == text


@pytest.mark.skipif(
    not (CHROMIUM := shutil.which("chromium")), reason="needs chromium (apt-get install chromium)"
)
def test_in_a_browser(tmp_path):
    from playwright.sync_api import sync_playwright

    text = page.page("run", {}, page.StageState(
        stage="grids", state="running", done=3, total=10, rate=0.4, left_s=17.5,
        failures=[Failure(source="x", reason=EVIL)], num_failed=1,
    ), "2026-01-01T00:00:00+00:00")  # fmt: skip
    (tmp_path / "page.html").write_text(text)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        shown, errors = browser.new_page(), []
        shown.on("console", lambda message: errors.append(message.text))
        shown.on("dialog", lambda dialog: errors.append("dialog"))
        shown.goto((tmp_path / "page.html").as_uri())
        assert re.search(r"\d+ s ago: the process may have ended", shown.inner_text("#age"))
        assert shown.locator("progress").get_attribute("value") == "3"
        assert EVIL in shown.inner_text("li")
        assert errors == []
        browser.close()
