"""The page on large runs says what the plan says: nothing of it is copied by hand."""

import re
import shlex
from pathlib import Path

import pytest

import dsd
from benchmarks import on_paper
from dsd.data.rows import PROMPTS
from dsd.data.writer import TableWriter

DOCS = Path(__file__).parents[1] / "docs"
MEASURES = [
    {"task": task, "rows": rows, "cpu_s": rows / 1e5, "mib": 10.0}
    for task in on_paper.EXTRAPOLATED
    for rows in (1000, 10_000)
]


@pytest.fixture(scope="module")
def plan(tiny_flux):
    return dsd.plan(str(tiny_flux), lora=4, size=32, text_tokens=24, batch=2, devices=2, steps=10)


def test_a_column_is_the_plan(plan):
    told = on_paper.column(400_000, plan, plan.disk, MEASURES)
    data, gib = plan.data, 2**30
    assert told["grids to draw"] == f"{data.grids:,}"
    assert told["drawing: H100 hours, price"] == f"{data.draw_device_hours:,.0f}, ${data.draw_usd:,.0f}"
    assert told["judgements, price"] == f"{data.candidates:,}, ${data.judge_usd:,.0f}"
    assert told["encoding: H100 hours, price"] == f"{data.encode_device_hours:,.1f}, ${data.encode_usd:,.0f}"
    assert told["pictures, GiB"] == f"{plan.disk.pictures / gib:,.0f}"
    assert told["cache of encodings at 128 text tokens, GiB"] == f"{plan.disk.cache / gib:,.0f}"
    assert told["of it captions, GiB"] == f"{plan.disk.captions * plan.disk.text / gib:,.0f}"
    assert told["an epoch on 2 H100s, hours"] == f"{400_000 / plan.training.pairs_per_s / 3600:,.1f}"
    assert told["plan a resume: CPU seconds, MiB"] == "4.0, 10"


def test_many_pairs_are_planned_as_by_a_plan_of_so_many(plan, tiny_flux):
    many = dsd.plan(
        str(tiny_flux), lora=4, size=32, text_tokens=24, batch=2, devices=2, steps=10, pairs=40_000_000
    )
    here, there = (on_paper.column(40_000_000, one, one.disk, MEASURES) for one in (plan, many))
    assert here == there


def test_an_entry_of_a_manifest(tmp_path):
    run = dsd.Run(tmp_path / "run")
    sizes = []
    with run.lock("test"), TableWriter(run.prompts, {}) as output:
        for number in range(2):
            prompt = dsd.types.GridPrompt(text=f"{number}", subject="s", panels=("a",) * 4)
            output.add([prompt])
            output.flush()
            sizes.append((run.prompts.folder / ".manifest.json").stat().st_size)
    assert PROMPTS.stage == "prompts"
    assert sizes[1] - sizes[0] == pytest.approx(on_paper.entry_bytes(), abs=12)  # numbers of fewer digits


def test_the_page_is_of_the_command_that_the_page_on_plans_shows():
    text = (DOCS / "plan.md").read_text()
    words = shlex.split(re.search(r"```sh\n(dsd plan .*?)```", text, re.DOTALL)[1].replace("\\\n", ""))[2:]
    given = {name.removeprefix("--"): value for name, value in zip(words[::2], words[1::2], strict=True)}
    assert (given.pop("out"), given.pop("precision")) == ("plans/nf4", "bf16")
    assert given == {name: str(value) for name, value in on_paper.SHOWN.items()}


def test_the_numbers_of_both_pages_agree():
    shown, table = (DOCS / "plan.md").read_text(), (DOCS / "scale.md").read_text().partition("## On paper")[2]

    def planned(pattern):
        return [float(number.replace(",", "")) for number in re.search(pattern, shown).groups()]

    def told(name):
        cell = re.search(rf"^\| {re.escape(name)} \| ([^|]+) \|", table, re.MULTILINE)[1]
        return [float(number.replace(",", "")) for number in re.findall(r"[\d,]*\d(?:\.\d+)?", cell)]

    grids, hours, price = planned(r"draw ([\d,]+) grids .* TFLOP each +([\d.]+) +\$([\d,]+)")
    assert told("grids to draw") == [grids]
    assert told("drawing: H100 hours, price") == [round(hours), price]
    candidates, price = planned(r"judge ([\d,]+) pairs .* each +\$([\d,]+)")
    assert told("judgements, price") == [candidates, price]
    assert told("encoding: H100 hours, price") == planned(r"encode .* TFLOP each +([\d.]+) +\$(\d+)")
    assert told("pictures, GiB") == [round(planned(r"pictures, about +([\d.]+)")[0])]
    (rate,) = planned(r"pairs a second +([\d.]+)")
    assert told("an epoch on 8 H100s, hours") == [round(400_000 / rate / 3600, 1)]
    captions, cache = planned(r"need (\d+) GiB for captions and (\d+) GiB")
    assert told("of it captions, GiB") == [captions]
    assert told("cache of encodings at 128 text tokens, GiB") == [cache]
