"""The commands, and the function that each calls."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dsd.cli.options import Option, read


@dataclass(frozen=True, kw_only=True)
class Command:
    """One command.

    Attributes:
        target: "module:function", whose arguments are its options.
        nested: arguments of the function that are options of something else: "module:Class" whose constructor
            takes them.
        positional: which of its options are words without `--`.
        say: what to tell the user of the function's result.
        status: the exit status, of the function's result.
    """

    target: str
    nested: Mapping[str, str] = field(default_factory=dict)
    positional: Sequence[str] = ()
    say: Callable[[Any], str] = str
    status: Callable[[Any], int] = lambda result: 0

    def options(self) -> tuple[str, dict[str, list[Option]]]:
        """What it does, and its options by prefix; those of the function itself have the prefix ""."""
        text, own = read(self.target)
        nested = {f"{name}.": read(target)[1] for name, target in self.nested.items()}
        return text, {"": [option for option in own if option.name not in self.nested], **nested}


COMMANDS: dict[str, Command] = {
    "quickstart": Command(target="dsd.quickstart:quickstart", say=lambda facts: ""),  # it has said all
    "prompts": Command(target="dsd.cli.prompts:prompts"),
    "grids": Command(target="dsd.stages:draw_grids"),
    "pairs": Command(target="dsd.stages:make_pairs"),
    "curate": Command(target="dsd.stages:curate"),
    "caption": Command(target="dsd.captioning:caption_pairs"),
    "encode": Command(target="dsd.stages:encode"),
    "merge": Command(target="dsd.data.merge:merge", positional=("run", "sources")),
    "fit": Command(
        target="dsd.cli.fit:fit",
        nested={"student": "dsd.student:Student", "data": "dsd.data.datamodule:PairDataModule"},
    ),
    "plan": Command(target="dsd.cli.plan:plan"),
    "sample": Command(target="dsd.cli.sample:sample"),
    "evaluate": Command(target="dsd.cli.evaluate:evaluate"),
    "export": Command(target="dsd.publish:export", positional=("student", "out")),
    "convert": Command(target="dsd.convert:convert", positional=("src", "dst")),
    "import-pairs": Command(target="dsd.exchange.importing:import_pairs", positional=("source", "run")),
    "export-pairs": Command(target="dsd.exchange.exporting:export_pairs", positional=("run", "out")),
    "card": Command(target="dsd.exchange.card:write_card", positional=("run",)),
    "verify": Command(target="dsd.cli.upkeep:verify", positional=("run",), status=lambda told: told.status),
    "compact": Command(target="dsd.cli.upkeep:compact", positional=("run",)),
    "gc": Command(target="dsd.cli.upkeep:gc", positional=("run",)),
    "migrate": Command(target="dsd.cli.upkeep:migrate", positional=("run",)),
    "label": Command(target="dsd.cli.label:label", positional=("run",)),
    "study": Command(target="dsd.cli.study:study", positional=("question",)),
    "report": Command(target="dsd.evaluation.report:report_run"),
    "list": Command(target="dsd.cli.names:list_names", positional=("family",)),
}
