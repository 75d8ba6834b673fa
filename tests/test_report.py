"""Reports stand alone, are valid, and show what a prompt or a model said without obeying it."""

import base64
import hashlib
import io
import json
import random
import re
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

import dsd
from dsd import curators, teachers
from dsd.curators import Verdict
from dsd.evaluation import (
    Consistency,
    Section,
    answers_sheet,
    evaluate_methods,
    held_out,
    page,
    plots,
    report_run,
    sections,
    write_answers,
)
from dsd.types import Grid
from tests.html_page import EVIL, Page, check


@teachers.register("scribbler")
class Scribbler(teachers.Teacher):
    batch_size = 4

    def draw(self, prompts, seeds):
        made = []
        for prompt, seed in zip(prompts, seeds, strict=True):
            pixels = np.random.default_rng(seed).integers(0, 256, (32, 32, 3), dtype=np.uint8)
            made.append(Grid(image=Image.fromarray(pixels), prompt=prompt, seed=seed, teacher="scribbler"))
        return made


@curators.register("evil")
class EvilCurator(curators.Curator):
    def judge(self, pair):
        if pair.reference_panel == 0:
            return Verdict(status="refused", reason=f"I refuse {EVIL}")
        return Verdict(keep=pair.target_panel == 0, score=pair.reference_panel / 4, reason=f"because {EVIL}")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    row = {"text": f"grid of {EVIL}", "subject": EVIL, "panels": [f"{EVIL} {place}" for place in "abcd"]}
    (folder / "prompts.jsonl").write_text(
        "".join(json.dumps({**row, "text": f"{row['text']} {i}"}) + "\n" for i in range(6))
    )
    run = dsd.Run(folder / "run")
    dsd.write_prompts(run, {"name": "file", "path": str(folder / "prompts.jsonl")}, count=6, progress=False)
    dsd.draw_grids(run, "scribbler", progress=False)
    dsd.make_pairs(run, progress=False)
    dsd.curate(run, "evil", progress=False)
    return run


def test_a_run_has_a_report_that_stands_alone(run, tmp_path):
    path = report_run(run, tmp_path / "new" / "folder")
    text = path.read_text()
    found = check(text)
    assert text.count("<script") == 1
    assert "onerror=alert(1)>" not in text
    assert "49" not in found.text.split("quotes")[1][:20]
    assert found.text.count("alert('x')") >= 12  # shown as it was written
    for word in (
        "6 prompts",
        "6 grids",
        "72 pairs",
        "18 kept",
        "refused",
        f"because {EVIL[:8]}",
        "Dropped 36 of 72",
        "Not judged 18 of 72",
        "yield 33",
    ):
        assert word in found.text, word
    told = json.loads((path.parent / "report.json").read_text())
    assert told["stages"]["pairs"]["rows"] == 72
    assert told["stages"]["verdicts/evil"]["counts"]["refused"] == 18


def test_the_report_shows_the_runs_own_pictures(run, tmp_path):
    found = Page(report_run(run, tmp_path, samples=3).read_text())
    shown = {decode(attrs["src"]).tobytes() for attrs in found.images}
    grids = {grid.image.tobytes() for grid in run.grids}
    panels = {image.tobytes() for pair in run.pairs for image in (pair.reference, pair.target)}
    assert len(shown & grids) == 3
    assert shown <= grids | panels
    assert len(found.images) == 3 + 2 * 72
    found = Page(report_run(run, tmp_path, samples=3, search=0).read_text())
    assert len(found.images) == 3 + 2 * 9


def test_kept_and_dropped_pairs_stand_in_their_own_column(run):
    groups = sections.pairs(run, "evil", samples=10, search=9).data["groups"]
    wanted = {"Kept": {"accepted"}, "Dropped": {"rejected"}, "Not judged": {"refused"}}
    sizes = {"Kept": (18, 10, 8), "Dropped": (36, 10, 9), "Not judged": (18, 10, 8)}
    assert [name for name, *_ in groups] == list(wanted)
    judged = {j.pair_id: j.verdict for j in run.verdicts("evil")}
    for name, number, shown, more in groups:
        assert (number, len(shown), len(more)) == sizes[name]
        assert {verdict.status for _, verdict in shown + more} == wanted[name]
        assert all(judged[pair.id] == verdict for pair, verdict in shown + more)
        assert len({pair.id for pair, _ in shown + more}) == len(shown + more)


def test_an_unfinished_run_has_a_report_too(tmp_path):
    run = dsd.Run(tmp_path / "run")
    with pytest.raises(FileNotFoundError, match="There is no run in"):
        report_run(run)
    dsd.write_prompts(run, count=3, progress=False)
    text = report_run(run).read_text()
    assert "3 prompts" in Page(text).text
    assert (tmp_path / "run" / "report.json").is_file()


def test_a_report_of_another_kind_is_not_replaced(run, tmp_path):
    (tmp_path / "report.json").write_text('{"seconds": 1.0, "methods": {}}')
    with pytest.raises(FileExistsError, match="belongs to a report of another kind"):
        report_run(run, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]
    report_run(run, tmp_path / "own")
    report_run(run, tmp_path / "own")


def test_the_sheet_shows_every_answer_in_its_place(tmp_path):
    cases = held_out(3)
    answers = [list(case.truths) for case in cases]
    path = write_answers(tmp_path / "new" / "answers.png", cases, answers, columns=2, side_px=64)
    sheet = np.asarray(Image.open(path))
    tiles = np.lib.stride_tricks.sliding_window_view(sheet[..., 0], (64, 64))

    def places(image):
        wanted = np.asarray(image)
        corners = np.argwhere(
            (tiles[:, :, 0, 0] == wanted[0, 0, 0]) & (tiles[:, :, 63, 63] == wanted[-1, -1, 0])
        )
        return [(y, x) for y, x in corners.tolist() if (sheet[y : y + 64, x : x + 64] == wanted).all()]

    found = [[places(image) for image in (case.reference, *case.truths)] for case in cases]
    assert all(len(place) == 1 for row in found for place in row)
    corners = [[place[0] for place in row] for row in found]
    assert all(len({y for y, _ in row}) == 1 and row == sorted(row) for row in corners)
    assert corners[0][0][0] == corners[1][0][0] < corners[2][0][0]
    assert corners[0][0][1] == corners[2][0][1] < corners[1][0][1]
    few = answers_sheet(cases, answers, characters=1, side_px=64)
    assert few.height < sheet.shape[0]
    for bad in ({"characters": 0}, {"side_px": 0}, {"columns": 0}):
        with pytest.raises(ValueError, match="at least one of each"):
            answers_sheet(cases, answers, **bad)
    with pytest.raises(ValueError, match="3 characters with 2 rows"):
        answers_sheet(cases, answers[:2])


def decode(address):
    return Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))).convert("RGB")


def test_small_pictures_are_exact_and_large_ones_are_made_smaller():
    pixels = np.random.default_rng(0).integers(0, 256, (64, 128, 3), dtype=np.uint8)
    assert np.array_equal(np.asarray(decode(page.data_uri(Image.fromarray(pixels)))), pixels)
    large = Image.effect_noise((1500, 1000), 40)
    shown = decode(page.data_uri(large))
    assert shown.size == (512, 341)
    assert large.size == (1500, 1000)
    assert len(page.data_uri(large)) < 200_000


@pytest.fixture(scope="module")
def judged():
    cases = held_out(3)
    truths = [list(case.truths) for case in cases]
    answers = {"student": truths, "text_only": truths[::-1], "untrained": truths[::-1]}

    def extractor(images):
        return np.stack([np.asarray(x.resize((4, 4)), dtype=np.float32).ravel() for x in images])

    return cases, answers, evaluate_methods(cases, answers, extractor, workers=1)


def test_the_sections_of_an_evaluation(judged, run):
    cases, answers, result = judged
    counts = {
        "pairs": 72,
        "consistent": 54,
        "kept": 18,
        "kept_consistent": 17,
        "grids": 6,
        "grids_consistent": 3,
    }
    measured = Consistency(**counts, panels=24, panels_in_scene=20)
    parts = [
        sections.hero(cases[0], answers["student"][0]),
        sections.tiles([("82 %", EVIL, "a remark")]),
        sections.gallery(cases, answers["student"], result, shown=2),
        sections.methods(result, cases, answers),
        sections.pairs(run, "evil", measured=measured),
        sections.loss_curve(range(1, 301), [1 / step for step in range(1, 301)], "Falling."),
        sections.making(sections.stage_rows(run), {"name": EVIL}),
    ]
    found = check(page.render_page(EVIL, parts, EVIL))
    for word in (
        "75 % consistent",
        "94 % consistent",
        "The other 1 characters",
        "Teacher, text alone",
        "True picture",
    ):
        assert word in found.text.replace("\N{NARROW NO-BREAK SPACE}", " "), word
    scores = [f"{result.methods['text_only'].identity:.2f}", f"{result.methods['student'].scene:.2f}"]
    assert all(score in found.text for score in scores)
    shown = {decode(attrs["src"]).tobytes() for attrs in found.images}
    for case in cases:
        assert {image.tobytes() for image in (case.reference, *case.truths)} <= shown


def test_every_template_is_strict():
    with pytest.raises(Exception, match=r"undefined|no attribute"):
        page.render_page("t", [Section(template="tiles", data={})])


def test_json_has_null_for_what_is_no_number(tmp_path):
    page.write_json(tmp_path / "a.json", {"a": float("nan"), "b": [1.5, float("inf")], "c": {"d": "ü"}})
    text = (tmp_path / "a.json").read_text()
    assert json.loads(text) == {"a": None, "b": [1.5, None], "c": {"d": "ü"}}
    assert "ü" in text


def points(svg, name):
    text = re.search(rf'class="{name}" points="([^"]+)"', str(svg))[1]
    return np.array([[float(x) for x in point.split(",")] for point in text.split()])


def test_a_falling_loss_is_drawn_falling():
    losses = [10 - step / 10 for step in range(1, 101)]
    svg = plots.curve(range(1, 101), losses, EVIL)
    Page(f"<div>{svg}</div>")
    assert "<script" not in svg
    x, y = points(svg, "strong").T
    assert (np.diff(x) > 0).all()
    assert (np.diff(y) > 0).all()
    ticks = {
        float(t): float(at)
        for at, t in re.findall(r'y="([\d.]+)" text-anchor="end">([\d.]+)</text>', str(svg))
    }
    (low, low_y), (high, high_y) = min(ticks.items()), max(ticks.items())
    drawn = low + (points(svg, "faint")[49, 1] - (low_y - 4)) / (high_y - low_y) * (high - low)
    assert drawn == pytest.approx(losses[49], abs=0.05)
    assert "Too few" in plots.curve([1], [1.0])
    assert "Too few" in plots.curve([1, 2], [float("nan")] * 2)
    with pytest.raises(ValueError, match="2 steps for 1 losses"):
        plots.curve([1, 2], [1.0])


def test_a_histogram_counts_every_pair():
    rng = random.Random(0)
    kept, dropped = [rng.uniform(0.6, 1) for _ in range(30)], [rng.uniform(0, 0.5) for _ in range(20)]
    svg = str(plots.histogram(kept, dropped, num_bins=10))
    heights = {
        name: sum(float(h) for h in re.findall(rf'class="{name}"[^>]* height="([\d.]+)"', svg))
        for name in ("kept", "dropped")
    }
    assert heights["kept"] / heights["dropped"] == pytest.approx(30 / 20, rel=0.02)
    assert plots.histogram([0.5, 0.5], []) == ""


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.0, 1.0, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (0.31, 0.64, [0.4, 0.5, 0.6]),
        (0.0, 1800.0, [0, 500, 1000, 1500]),
        (3.0, 3.0, [3]),
    ],
)
def test_ticks_are_round(low, high, expected):
    assert plots.ticks(low, high) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(4.21, "4.2 s"), (75.0, "75 s"), (702.0, "11 min 42 s"), (11_100.0, "3 h 5 min"), (119.7, "120 s")],
)
def test_durations_read_well(seconds, text):
    assert page.duration(seconds) == text


@curators.register("talkative")
class TalkativeCurator(curators.Curator):
    """Says much, in JSON, with costs that are known of some verdicts."""

    def judge(self, pair):
        status = ["accepted", "rejected", "refused", "unparsable", "failed"][pair.target_panel]
        inner = json.dumps({"comparison": f"line one\nline two {EVIL}"})
        raw = json.dumps([{"answers": [inner, "{not JSON", "x" * 20_000]}])
        cost = None if status == "refused" else 0.5
        return Verdict(status=status, score=0.25, reason=f"{status}: ears", raw=raw, cost_usd=cost)


def test_the_judges_whole_words_and_the_cost_stand_in_the_page(run, tmp_path):
    dsd.curate(run, "talkative", progress=False)
    path = report_run(run, tmp_path)
    text = path.read_text()
    found = check(text)
    assert "As it was answered" in found.text
    assert "line one\nline two &lt;script&gt;" in text  # to be read, not escaped as JSON has it
    assert "more characters]" in found.text
    assert text.count("onerror=alert(1)>") == 0
    assert "cost $27.00, known of 54 of 72 verdicts" in found.text
    assert "yield 50" in found.text
    words = found.text.partition("“talkative”")[2]
    assert "accepted 18 rejected 18 refused 18 unparsable 18" in words
    assert "Not judged 36 of 72" in words


def test_a_cost_that_is_unknown_is_said_to_be(tmp_path):
    from dsd.data.rows import Judged
    from dsd.data.writer import TableWriter

    run = dsd.Run(tmp_path / "run")
    dsd.write_prompts(run, count=1, progress=False)
    dsd.draw_grids(run, "scribbler", progress=False)
    dsd.make_pairs(run, progress=False)
    with TableWriter(run.verdicts("paid"), {}) as writer:
        writer.add([Judged(pair_id=pair_id, verdict=Verdict(keep=True)) for pair_id in run.pairs.ids()])
        writer.finish(cost_usd=None)
    assert sections.pairs(run, "paid").data["bill"][-1] == ("cost", "unknown")


SEARCH = """
const found = [];
const shown = () => [...document.querySelectorAll("article")].filter((a) => !a.hidden).length;
const box = document.querySelector("[data-search]");
const input = box.querySelector("input");
const type = (text) => { input.value = text; input.dispatchEvent(new Event("input")); found.push(shown()); };
found.push(shown(), box.hidden);
type("reason-7 "); type("REASON-7 caption-7"); type("reason-7 caption-8"); type(""); type("reason-");
box.querySelector("button[value=rejected]").click(); found.push(shown());
type("reason-7");
box.querySelector("button[value=rejected]").click(); found.push(shown());
document.title = JSON.stringify(found);
"""


@pytest.mark.skipif(not (CHROMIUM := shutil.which("chromium")), reason="needs chromium")
def test_the_search_finds_pairs_by_their_words(tmp_path):
    """Driven in a browser: words, status, and both."""
    from dsd.types import Pair

    def judged(numbers, status):
        image = Image.new("RGB", (8, 8), "red")
        return [
            (
                Pair(reference=image, target=image, caption=f"caption-{i} end"),
                Verdict(status=status, reason=f"reason-{i} end"),
            )
            for i in numbers
        ]

    data = {
        "groups": [
            ("Kept", 6, judged(range(3), "accepted"), judged(range(3, 6), "accepted")),
            ("Dropped", 4, judged(range(6, 10), "rejected"), []),
        ],
        "statuses": {"accepted": 6, "rejected": 4}, "bill": [], "histogram": "", "measured": None,
    }  # fmt: skip
    text = page.render_page("t", [Section(template="pairs", script="search", data=data)])
    digest = base64.b64encode(hashlib.sha256(SEARCH.encode()).digest()).decode()
    text = text.replace("script-src", f"script-src 'sha256-{digest}'")  # for the test's own
    file = tmp_path / "page.html"
    file.write_text(text.replace("</body>", f"<script>{SEARCH}</script></body>"))
    command = [
        CHROMIUM,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--dump-dom",
        f"--user-data-dir={tmp_path / 'u'}",
    ]
    done = subprocess.run([*command, file.as_uri()], capture_output=True, text=True, timeout=120)
    title = re.search(r"<title>(.*?)</title>", done.stdout)[1]
    assert json.loads(title) == [10, False, 1, 1, 0, 10, 10, 4, 1, 1]
