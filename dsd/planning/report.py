"""A plan as tables: on a terminal, as Markdown, as JSON, and with its picture as a folder."""

import json
from collections.abc import Sequence
from os import PathLike
from pathlib import Path

from rich import box
from rich.console import Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from dsd.data.atomic import make_folder, replace_file
from dsd.planning.records import GIB, Plan
from dsd.texts import printable

Section = tuple[str, tuple[str, ...], Sequence[tuple[str, ...]]]
"""Title, heads, rows."""
NAMES = {
    "weights": "frozen weights",
    "trained": "trained weights and adapters",
    "gradients": "gradients",
    "optimiser": "optimiser",
    "activations": "activations, batch, temporaries",
    "exchange": "exchange between devices",
}


def sections(plan: Plan) -> list[Section]:
    """The tables of a plan."""
    return [_memory(plan), _training(plan), _data(plan), _disk(plan)]


def verdict(plan: Plan) -> str:
    """Whether it fits, in a sentence."""
    needed = plan.memory.peak * (1 + plan.stated["headroom"]) / GIB
    has = plan.device_bytes / GIB
    word = "fits" if plan.fits else "does not fit"
    return (
        f"It {word}: the peak, in the {plan.memory.phase} pass, and {plan.stated['headroom']:.0%} headroom "
        f"are {needed:.1f} GiB of {has:g} GiB."
    ).replace("optimiser pass", "optimiser's step")


def title(plan: Plan) -> str:
    """What was planned, in a line."""
    given = plan.setting
    how = given["train"] if given["lora"] is None else f"LoRA {_rank(given['lora'])}"
    stored = f", {given['quantize']} base" if given["quantize"] else ""
    devices = f"{given['devices']} x {given['device']}, {given['strategy']}"
    name = given["conditioning"] if isinstance(given["conditioning"], str) else given["conditioning"]["name"]
    return (
        f"{given['base']}, {name}, {how}, batch {given['batch']}, {given['width']} x {given['size']} px, "
        f"{given['precision']}{stored}, {devices}"
    )


def rich(plan: Plan) -> Group:
    """For a terminal."""
    shown: list[Table | Text] = [Text(title(plan), style="bold")]
    for name, heads, rows in sections(plan):
        table = Table(box=box.SIMPLE, title=name, title_justify="left", title_style="bold")
        for number, head in enumerate(heads):
            table.add_column(escape(head), justify="right" if number else "left")
        for row in rows:
            style = "bold" if row[0] == "peak" else None
            table.add_row(*(escape(printable(cell)) for cell in row), style=style)
        shown.append(table)
    return Group(*shown, Text(verdict(plan), style="green" if plan.fits else "red"), Text(_stated(plan)))


def markdown(plan: Plan, picture: str | None = None) -> str:
    """As a page.

    Args:
        plan: to show.
        picture: file name of the drawing, if there is one.
    """
    blocks = [f"# {title(plan)}", verdict(plan)]
    blocks += [f"![Memory over a step]({picture})"] if picture else []
    for name, heads, rows in sections(plan):
        lines = [_line(heads), _line(["---", *["---:"] * (len(heads) - 1)]), *map(_line, rows)]
        blocks += [f"## {name}", "\n".join(lines)]
    return "\n\n".join([*blocks, _stated(plan)]) + "\n"


def as_json(plan: Plan) -> str:
    """All numbers, not rounded."""
    return json.dumps(plan.as_dict(), indent=1, default=str) + "\n"


def write(plan: Plan, folder: str | PathLike[str]) -> Path:
    """Write plan.json, plan.md and plan.png into a folder, which is made if missing; returns it.

    Raises:
        OSError: if it cannot be written.
    """
    from dsd.planning.drawing import png

    path = Path(folder).expanduser()
    make_folder(path)
    replace_file(path / "plan.png", png(plan))
    replace_file(path / "plan.json", as_json(plan).encode())
    replace_file(path / "plan.md", markdown(plan, "plan.png").encode())
    return path


def _memory(plan: Plan) -> Section:
    memory = plan.memory
    rows = [
        (NAMES[part], _gib(memory.at_peak[part]), _gib(memory.most[part]))
        for part in memory.at_peak
        if memory.most[part]
    ]
    rows.append(("peak", _gib(memory.peak), ""))
    return "Memory of one device", ("GiB", "at the peak", "most at any moment"), rows


def _training(plan: Plan) -> Section:
    found, given = plan.training, plan.setting
    rate = plan.stated["device_tflops"] * plan.stated["mfu"]
    rows = [
        ("parameters of the base", f"{found.base_parameters / 1e9:.2f} B"),
        ("trained", _millions(found.trained_parameters)),
        ("tokens of a sequence", f"{found.num_tokens:,}"),
        ("prediction", f"{found.forward_tflop:,.4g} TFLOP"),
        ("step of one device", f"{found.step_tflop:,.4g} TFLOP"),
        (f"at {rate:,.0f} TFLOP/s", f"{found.step_s:.3g} s a step"),
        ("pairs a second", f"{found.pairs_per_s:,.3g}"),
        (f"{given['steps']:,} steps", f"{found.days:.3g} days"),
        (
            "device hours",
            _hours(found.device_hours),
        ),
        ("price", f"${found.usd:,.0f}"),
    ]
    return "Training", ("", ""), rows


def _data(plan: Plan) -> Section:
    data = plan.data
    rows = [
        (
            f"draw {data.grids:,} grids", f"{data.grid_tflop:,.4g} TFLOP each",
            _hours(data.draw_device_hours), f"${data.draw_usd:,.0f}",
        ),
        (
            f"judge {data.candidates:,} pairs", f"${plan.stated['judge_usd']:g} each",
            "", f"${data.judge_usd:,.0f}",
        ),
        (
            f"encode {data.pairs:,} pairs", f"{data.encode_tflop:,.4g} TFLOP each",
            _hours(data.encode_device_hours), f"${data.encode_usd:,.0f}",
        ),
    ]  # fmt: skip
    return "Data", ("", "cost", "device hours", "price"), rows


def _disk(plan: Plan) -> Section:
    disk = plan.disk
    rows = [
        (f"{plan.data.pairs:,} targets", _kib(disk.target), _gib(plan.data.pairs * disk.target)),
        (
            f"at most {disk.references:,} references",
            _kib(disk.reference),
            _gib(disk.references * disk.reference),
        ),
        (f"at most {disk.captions:,} captions", _kib(disk.text), _gib(disk.captions * disk.text)),
        ("cache of encodings", "", _gib(disk.cache)),
        ("grids and pairs as pictures, about", "", _gib(disk.pictures)),
        ("a checkpoint", "", _gib(disk.checkpoint)),
    ]
    return "Disk", ("", "KiB a row", "GiB"), rows


def _stated(plan: Plan) -> str:
    given = ", ".join(f"{name} {value:g}" for name, value in plan.stated.items())
    return f"Stated, not counted: {given}."


def _rank(lora: object) -> object:
    return lora if isinstance(lora, int) else lora.get("rank", 16) if isinstance(lora, dict) else lora


def _gib(size: float) -> str:
    return f"{size / GIB:,.2f}"


def _kib(size: int) -> str:
    return f"{size / 1024:,.1f}"


def _millions(number: int) -> str:
    return f"{number / 1e9:.2f} B" if number >= 1e9 else f"{number / 1e6:.1f} M"


def _hours(number: float) -> str:
    return f"{number:,.1f}" if number < 100 else f"{number:,.0f}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
