"""The page on which pairs are labelled, in a real browser, served by the real command.

Needs Chromium (Debian: apt-get install chromium) and playwright, which drives the one that is installed.
"""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import dsd
from dsd.data.writer import TableWriter
from dsd.labels import LABELS, LabelFile
from dsd.labels.choice import shuffled
from tests.cheap_world import picture

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (extra dev)")
expect = sync_api.expect

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = [
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--no-proxy-server",
]  # fmt: skip
EVIL = '<script>document.title = "owned"</script><img src=x onerror="document.title = 1"> & <b>bold</b>'

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium is installed (apt-get install chromium)"
)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """A run of seven pairs, all with markup in what is written of them."""
    run = dsd.Run(tmp_path_factory.mktemp("pairs") / "run")
    with run.lock("test"), TableWriter(run.pairs, {"name": "test"}) as writer:
        writer.add(
            [
                dsd.Pair(
                    reference=picture(f"reference {i}", 48),
                    target=picture(f"target {i}", 64 + 8 * i),
                    caption=f"{EVIL} {i}",
                    subject=f"<i>subject</i> {i}",
                )
                for i in range(7)
            ]
        )
        writer.finish()
    return run


@pytest.fixture
def run(pairs, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "pairs").symlink_to(pairs.path / "pairs")
    return dsd.Run(tmp_path / "run")


class Command:
    """`dsd label` in a process of its own."""

    def __init__(self, run, *words):
        root = str(Path(dsd.__file__).parents[1])
        path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
        program = [sys.executable, "-m", "dsd", "label", str(run.path), *words]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        self.child = subprocess.Popen(program, **pipes, env={**os.environ, "PYTHONPATH": path})
        line = self.child.stderr.readline()
        found = re.search(r"http://127\.0\.0\.1:(\d+)/", line)
        assert found, line + self.child.stderr.read()
        self.url, self.port = found[0], found[1]

    def stop(self, how):
        self.child.send_signal(how)
        out, err = self.child.communicate(timeout=30)
        return out.strip() + err.strip()


@pytest.fixture
def serve(run):
    """Starts the command; all that still work are ended with the test."""
    started = []

    def start(person, *words):
        started.append(Command(run, "--person", person, "--port", "0", *words))
        return started[-1]

    yield start
    for command in started:
        if command.child.poll() is None:
            command.stop(signal.SIGKILL)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with sync_api.sync_playwright() as playwright:
        yield playwright.chromium.launch_persistent_context(
            tmp_path_factory.mktemp("profile"),
            executable_path=CHROMIUM,
            headless=True,
            args=FLAGS,
            viewport={"width": 1280, "height": 800},
        )


@pytest.fixture
def page(browser):
    """A new tab that remembers what it asked for and what went wrong in it."""
    tab = browser.new_page()
    tab.set_default_timeout(20_000)
    tab.asked, tab.faults = [], []
    tab.on("request", lambda request: tab.asked.append(request.url))
    tab.on("pageerror", lambda error: tab.faults.append(str(error)))
    tab.on("console", lambda message: tab.faults.append(message.text) if message.type == "error" else None)
    yield tab
    tab.close()


def lines(run, person="ann"):
    """(pair id, label) line by line, straight from the file."""
    path = run.path / "labels" / f"{person}.jsonl"
    found = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [(line["pair_id"], line["label"]) for line in found]


def shown(page):
    """The id of the pair whose pictures both stand there."""
    page.locator("#skip:enabled").wait_for()
    page.locator("#same:enabled").wait_for()
    ids = {page.locator(f"#{side}").get_attribute("src").split("/")[2] for side in ("reference", "target")}
    assert len(ids) == 1
    return ids.pop()


def press(page, key, done):
    """Press a key, and wait until `done` pairs are labelled and the next one is shown."""
    shown(page)
    page.keyboard.press(key)
    expect(page.locator("#done")).to_have_text(str(done))


def test_by_mouse_and_by_keys(run, serve, page):
    page.goto(serve("ann").url)
    order = shuffled(run.pairs.ids(), "ann", 0)
    ways = [
        (lambda: page.locator("#same").click(), "same"),
        (lambda: page.locator("#different").click(), "different"),
        (lambda: page.locator("#unsure").click(), "unsure"),
        (lambda: page.keyboard.press("s"), "same"),
        (lambda: page.keyboard.press("D"), "different"),
        (lambda: page.keyboard.press("u"), "unsure"),
        (lambda: page.keyboard.press("2"), "different"),
    ]
    for done, (act, _) in enumerate(ways):
        assert shown(page) == order[done]
        act()
        expect(page.locator("#done")).to_have_text(str(done + 1))
        assert len(lines(run)) == done + 1, "a label is on the disk before the page counts it"
    assert lines(run) == [(pair_id, label) for pair_id, (_, label) in zip(order, ways, strict=True)]
    expect(page.locator("#finished")).to_be_visible()
    expect(page.locator("#question")).to_be_hidden()
    for label, count in {"same": 2, "different": 3, "unsure": 2}.items():
        expect(page.locator(f"#count-{label}")).to_have_text(str(count))
    expect(page.locator("#left")).to_have_text("0")
    assert all(x.seconds < 60 for x in LabelFile(run, "ann").read().values())
    assert page.faults == []


def test_the_pictures_are_the_pairs_own_and_large(run, serve, page):
    page.goto(serve("ann").url)
    pair = run.pairs[shown(page)]
    boxes = []
    for side in ("reference", "target"):
        image = page.locator(f"#{side}")
        natural = image.evaluate("image => [image.naturalWidth, image.naturalHeight]")
        assert natural == list(getattr(pair, side).size)
        boxes.append(image.bounding_box())
    left, right = boxes
    assert min(left["width"], left["height"], right["width"], right["height"]) > 400, (
        "of a window of 1280 x 800"
    )
    assert left["y"] == right["y"]
    assert left["x"] + left["width"] <= right["x"]


@pytest.mark.parametrize("size", [(1280, 800), (800, 560), (390, 700)])
def test_everything_fits_into_the_window(serve, page, size):
    page.set_viewport_size({"width": size[0], "height": size[1]})
    page.goto(serve("ann").url)
    shown(page)
    for name in ("reference", "target", "back", *LABELS, "skip", "done"):
        box = page.locator(f"#{name}").bounding_box()
        assert box["x"] >= 0
        assert box["y"] >= 0
        assert box["x"] + box["width"] <= size[0]
        assert box["y"] + box["height"] <= size[1], name


def test_undo_and_skip(run, serve, page):
    page.goto(serve("ann").url)
    order = shuffled(run.pairs.ids(), "ann", 0)
    press(page, "s", 1)
    press(page, "s", 2)
    assert shown(page) == order[2]
    page.keyboard.press("z")
    expect(page.locator("#message")).to_contain_text("You said same")
    assert shown(page) == order[1]
    expect(page.locator("#same")).to_have_class(re.compile("chosen"))
    page.keyboard.press("d")
    expect(page.locator("#count-different")).to_have_text("1")
    expect(page.locator("#done")).to_have_text("2")
    assert shown(page) == order[2], "goes on with the first pair that has no label"
    page.locator("#skip").click()
    expect(page.locator("#reference")).to_have_attribute("src", f"/picture/{order[3]}/reference")
    shown(page)
    page.locator("#back").click()
    expect(page.locator("#reference")).to_have_attribute("src", f"/picture/{order[2]}/reference")
    assert lines(run) == [(order[0], "same"), (order[1], "same"), (order[1], "different")]
    assert [x.label for x in LabelFile(run, "ann").read().values()] == ["same", "different"]


def test_the_browsers_own_keys_label_nothing(run, serve, page):
    page.goto(serve("ann").url)
    first = shown(page)
    for keys in ("Control+s", "Control+d", "Alt+s", "Meta+u", "x", "Tab"):
        page.keyboard.press(keys)
    page.keyboard.down("s")
    expect(page.locator("#done")).to_have_text("1")
    shown(page)
    page.keyboard.down("s")  # held down, it comes again
    page.wait_for_timeout(300)
    page.keyboard.up("s")
    assert lines(run) == [(first, "same")]


def test_a_page_loaded_again_goes_on(run, serve, page):
    page.goto(serve("ann").url)
    press(page, "s", 1)
    press(page, "d", 2)
    page.reload()
    expect(page.locator("#done")).to_have_text("2")
    assert shown(page) == shuffled(run.pairs.ids(), "ann", 0)[2]
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#message")).to_contain_text("You said different")


def test_killed_between_two_labels_nothing_is_lost(run, serve, page, ctrl_c_works):
    first = serve("ann")
    page.goto(first.url)
    press(page, "s", 1)
    press(page, "d", 2)
    third = shown(page)
    first.stop(signal.SIGKILL)
    page.keyboard.press("u")
    expect(page.locator("#message")).to_contain_text("Not saved. The server does not answer")
    expect(page.locator("#done")).to_have_text("2")
    assert shown(page) == third, "what was not saved still stands there"
    assert len(lines(run)) == 2
    second = Command(run, "--person", "ann", "--port", first.port)
    try:
        press(page, "u", 3)  # the same page goes on with the new server
        order = shuffled(run.pairs.ids(), "ann", 0)
        assert lines(run) == list(zip(order, ["same", "different", "unsure"], strict=False))
        page.reload()
        expect(page.locator("#done")).to_have_text("3")
        assert shown(page) == order[3]
    finally:
        said = second.stop(signal.SIGINT)
    assert said == "ann: 3 of 7 pairs labelled (same 1, different 1, unsure 1)"
    assert second.child.returncode == 0


def test_killed_just_after_a_press_every_counted_label_is_there(run, serve, page):
    rng, order, counted = random.Random(0), shuffled(run.pairs.ids(), "ann", 0), 0
    command = serve("ann")
    page.goto(command.url)
    for _ in range(3):
        shown(page)
        page.keyboard.press(rng.choice("sdu"))
        page.wait_for_timeout(rng.uniform(0, 30))
        counted = max(counted, int(page.locator("#done").inner_text()))
        command.stop(signal.SIGKILL)
        assert len(lines(run)) >= counted
        command = serve("ann")
        page.goto(command.url)
        counted = len(lines(run))
        expect(page.locator("#done")).to_have_text(str(counted))
    assert [pair_id for pair_id, _ in lines(run)] == order[:counted]


def test_a_caption_is_text_and_never_part_of_the_page(run, serve, page):
    page.goto(serve("ann").url)
    pair = run.pairs[shown(page)]
    expect(page.locator("#caption")).to_have_text(pair.caption)
    expect(page.locator("#subject")).to_have_text(pair.subject)
    assert pair.caption.startswith(EVIL)
    assert page.locator("#caption *, #subject *").count() == 0
    assert page.title() == "dsd label"
    assert page.faults == []


def test_nothing_is_fetched_from_elsewhere(serve, page):
    command = serve("ann")
    page.goto(command.url)
    press(page, "s", 1)
    shown(page)
    assert len(page.asked) > 6
    assert {url for url in page.asked if not url.startswith(command.url)} == set()


def test_two_people_at_once_in_orders_of_their_own(run, serve, browser, page):
    other = browser.new_page()
    page.goto(serve("ann", "--count", "5").url)
    other.goto(serve("bob", "--count", "5").url)
    for done in range(1, 6):
        press(page, "s", done)
        press(other, "d", done)
    expect(other.locator("#finished")).to_be_visible()
    ann, bob = lines(run, "ann"), lines(run, "bob")
    assert {label for _, label in ann} == {"same"}
    assert {label for _, label in bob} == {"different"}
    assert {pair_id for pair_id, _ in ann} == {pair_id for pair_id, _ in bob}
    assert [pair_id for pair_id, _ in ann] != [pair_id for pair_id, _ in bob]
    expect(other.locator("#person")).to_have_text("bob")
    other.close()
