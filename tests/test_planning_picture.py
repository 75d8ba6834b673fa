"""The tracker that a plan's memory comes from, its picture and its command, part by part."""

import dataclasses
import io
import json

import pytest
import torch
from PIL import Image

import dsd
from dsd import planning
from dsd.cli import main
from dsd.cli import plan as command
from dsd.memory import OTHER, PeakMemory
from dsd.planning import drawing
from dsd.planning.records import GIB, Memory, Moment


def numbers(count: int) -> torch.Tensor:
    return torch.zeros(count, dtype=torch.uint8)


# --- the tracker


def test_a_storage_counts_once_and_as_long_as_anybody_holds_it() -> None:
    with PeakMemory() as memory:
        first = numbers(100)
        view = first[10:20].reshape(2, 5)
        first.add_(1)
        assert memory.now[OTHER] == 100
        second = first + 1
        assert memory.now[OTHER] == 200
        del first
        assert memory.now[OTHER] == 200, "the view holds it"
        del view
        assert memory.now[OTHER] == 100
        del second
        assert memory.now[OTHER] == 0
        third = numbers(150)
        assert memory.now[OTHER] == 150
    assert memory.peak == 200, "the most at once, not all that ever was"
    del third


def test_what_was_there_belongs_to_its_part_until_it_is_moved() -> None:
    weights, shared = numbers(40), numbers(8)
    with PeakMemory({"weights": [weights, shared], "tied": [shared]}, ("gradients",)) as memory:
        assert memory.now == {"weights": 48, "tied": 0, "gradients": 0, OTHER: 0}
        memory.phase = "one"
        made = weights + 1
        memory.phase = "two"
        memory.move([made], "gradients")
        assert memory.now == {"weights": 48, "tied": 0, "gradients": 40, OTHER: 0}
        memory.phase = "three"
        new = made * 2
        memory.move([made], "tied")
        assert memory.now == {"weights": 48, "tied": 40, "gradients": 0, OTHER: 40}
        del made
        assert memory.now["tied"] == 0
        del new
    assert memory.parts == ("weights", "tied", "gradients", OTHER)
    assert memory.moments == [
        ("", (48, 0, 0, 0)),
        ("one", (48, 0, 0, 40)),
        ("two", (48, 0, 40, 0)),
        ("three", (48, 0, 40, 40)),
        ("three", (48, 40, 0, 40)),
    ]
    assert memory.peak == 128


def test_operations_that_change_nothing_make_no_moment() -> None:
    with PeakMemory([numbers(4)]) as memory:
        x = numbers(10)
        for _ in range(5):
            x.add_(1)
            x.view(2, 5)
        y = x + x
    assert [parts[1] for _, parts in memory.moments] == [0, 10, 20]
    del y


def test_a_backward_pass_holds_what_it_needs() -> None:
    weight = torch.ones(1000, requires_grad=True)
    with PeakMemory([weight]) as memory:
        hidden = (weight * 2).exp()  # autograd keeps the result of exp, and not the product
        assert memory.now[OTHER] == 4000
        loss = hidden.sum()
        del hidden
        assert memory.now[OTHER] == 4004, "autograd holds it"
        loss.backward()
        del loss
        assert memory.now[OTHER] == 4000, "the gradient"
    assert weight.grad is not None


# --- the picture


@pytest.fixture(scope="module")
def small(tiny_flux) -> planning.Plan:
    return dsd.plan(str(tiny_flux), lora=4, size=32, text_tokens=24, batch=2)


def made(small: planning.Plan, device_gib: float = 80) -> planning.Plan:
    """A plan of three moments whose numbers are easy: 4, 10 and 6 GiB."""
    zero = dict.fromkeys(small.memory.most, 0)
    rows = [
        ("forward", {"weights": 3, OTHER: 1}),
        ("backward", {"weights": 3, "gradients": 2, OTHER: 5}),
        ("optimiser", {"weights": 3, "gradients": 3, OTHER: 0}),  # the most of a part is not that at the peak
    ]
    moments = tuple(
        Moment(phase=phase, parts={**zero, **{name: n * GIB for name, n in parts.items()}})
        for phase, parts in rows
    )
    most = {part: max(moment.parts[part] for moment in moments) for part in zero}
    memory = Memory(peak=10 * GIB, at_peak=moments[1].parts, most=most, phase="backward", timeline=moments)
    return dataclasses.replace(small, memory=memory, device_bytes=round(device_gib * GIB))


def test_the_picture_stacks_the_parts_of_each_moment(small) -> None:
    drawn = drawing.figure(made(small))
    (axes,) = drawn.axes
    stack = {area.get_label(): area.get_paths()[0].vertices for area in axes.collections}
    assert set(stack) == {
        "frozen weights (3.00)",
        "gradients (2.00)",
        "activations, batch, temporaries (5.00)",
    }
    tops = {
        name: [max(y for x, y in points if abs(x - at) < 1e-6) for at in (0, 50, 100)]
        for name, points in stack.items()
    }
    assert tops["frozen weights (3.00)"] == [3, 3, 3]
    assert tops["gradients (2.00)"] == [3, 5, 6]
    assert tops["activations, batch, temporaries (5.00)"] == [4, 10, 6]
    (legend,) = drawn.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        "activations, batch, temporaries (5.00)", "gradients (2.00)", "frozen weights (3.00)"
    ], "as they lie on each other"  # fmt: skip
    assert legend.get_title().get_text() == "GiB at the peak"


def test_the_picture_marks_peak_and_phases(small) -> None:
    (axes,) = drawing.figure(made(small)).axes
    texts = {text.get_text(): text for text in axes.texts}
    assert texts["peak 10.00 GiB"].xy == (50, 10)
    assert any(list(line.get_xdata()) == [50] and list(line.get_ydata()) == [10] for line in axes.lines)
    assert {name: texts[name].xy[0] for name in ("forward", "backward")} == {"forward": 0, "backward": 50}
    assert "optimiser" not in texts, "no room at the right end"
    assert axes.get_ylim() == (0, pytest.approx(11.6))
    assert axes.get_title(loc="left").startswith(
        f"{small.setting['base']}, parallel, LoRA 4, batch 2, 32 x 32 px"
    )


@pytest.mark.parametrize(
    ("gib", "shown", "top"),
    [(80, False, 11.6), (24, True, 26.88), (8, True, 11.6), (25.5, False, 11.6), (11, True, 12.32)],
)
def test_what_a_device_has_is_drawn_where_it_is_near(small, gib, shown, top) -> None:
    (axes,) = drawing.figure(made(small, gib)).axes
    assert any(text.get_text() == f"a device has {gib:g} GiB" for text in axes.texts) == shown
    dashed = [line for line in axes.lines if line.get_linestyle() == "--"]
    assert [line.get_ydata()[0] for line in dashed] == ([gib] if shown else [])
    assert axes.get_ylim()[1] == pytest.approx(top)


def test_the_picture_is_the_figure_and_the_same_each_time(small) -> None:
    one, other = drawing.png(made(small)), drawing.png(made(small))
    assert one == other
    assert Image.open(io.BytesIO(one)).size == (1152, 576)


# --- the command

GIVEN = {
    "base": "mini", "conditioning": "concat", "lora": 3, "train": "added", "batch": 5, "size": 96,
    "width": 64, "text_tokens": 17, "references": 2, "precision": "fp32", "quantize": "fp8",
    "checkpointing": False, "devices": 6, "strategy": "fsdp", "kernels": "cpu", "steps": 11, "device": "l40s",
    "device_tflops": 1.5, "device_gib": 7.5, "device_usd_per_hour": 0.25, "mfu": 0.3, "headroom": 0.2,
    "pairs": 77, "layout": "1x2", "pairs_per_grid": 1, "kept": 0.6, "draw_steps": 9, "draw_mfu": 0.35,
    "judge_usd": 0.02, "png_bytes_per_pixel": 2.5,
}  # fmt: skip


def test_every_option_reaches_the_plan(small, monkeypatch, capsys) -> None:
    asked: list[dict[str, object]] = []
    monkeypatch.setattr(planning, "plan", recording(planning.plan, small, asked))
    words = [f"--{name}={value}" for name, value in GIVEN.items() if name != "checkpointing"]
    assert main(["plan", *words, "--no_checkpointing", "--json"]) == 0
    assert asked == [GIVEN]
    assert json.loads(capsys.readouterr().out)["memory"]["peak"] == small.memory.peak


def recording(plan, answer, asked):
    """`plan` with its signature, that notes what it is called with."""
    import functools

    @functools.wraps(plan)
    def noted(**given):
        asked.append(given)
        return answer

    return noted


def test_options_that_are_not_given_are_the_plans_own(small, monkeypatch) -> None:
    import inspect

    asked: list[dict[str, object]] = []
    defaults = {name: p.default for name, p in inspect.signature(planning.plan).parameters.items()}
    monkeypatch.setattr(planning, "plan", recording(planning.plan, small, asked))
    command.plan()
    assert asked == [defaults]


def test_what_the_command_prints_and_writes(small, monkeypatch, capsys, tmp_path) -> None:
    monkeypatch.setattr(planning, "plan", recording(planning.plan, made(small, 8), []))
    assert main(["plan", "--json", "--out", str(tmp_path / "a")]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out) == json.loads((tmp_path / "a" / "plan.json").read_text())
    assert main(["plan", "--out", str(tmp_path / "b")]) == 0
    text = capsys.readouterr().out
    assert f"plan.json, plan.md and plan.png are in {tmp_path / 'b'}" in text.replace("\n", "")
    assert "10.00" in text
    assert {path.name for path in (tmp_path / "b").iterdir()} == {"plan.json", "plan.md", "plan.png"}
    assert main(["plan"]) == 0
    assert "plan.json" not in capsys.readouterr().out
