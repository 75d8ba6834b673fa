"""The command line: `dsd COMMAND`. Each command calls one function of the library.

Options are the function's arguments, and come from the command line, from YAML files (`--config`), or both;
specs are the same as in Python. Nothing heavy is imported before a command is run.
"""

import importlib
import json
import sys
from collections.abc import Mapping, Sequence

from jsonargparse import ArgumentError, ArgumentParser, set_parsing_settings

from dsd import __version__
from dsd.cli import messages
from dsd.cli.commands import COMMANDS
from dsd.cli.options import Option

__all__ = ["main"]

_FOR_USERS = (ValueError, LookupError, OSError, TypeError, ImportError, RuntimeError)
_FOR_US = (KeyError, IndexError, NotImplementedError, RecursionError)  # of those kinds, but faults of ours
_TERMINATED = 143  # as `dsd.interrupts.TERMINATED`, which imports Lightning
_EPILOG = (
    "Add --debug to any command for the whole traceback of an error. "
    "In YAML, ${name} is the value of another option."
)

Groups = Mapping[str, Sequence[Option]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Returns:
        the exit status: 0, 1 where a command found something wrong, 130 when interrupted, 143 when a training
        was terminated, or 2 for what the user can mend, with one line on stderr that says how.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    given = [argument for argument in given if argument != "--debug"]
    command = next((argument for argument in given if argument in COMMANDS), "")
    options = {name: found.options() for name, found in COMMANDS.items()}
    given = [_underscored(word, options[command][1][""]) for word in given] if command else given
    stays = "Call the command again: what was written stays."
    try:
        with messages.told(debug):
            return _run(given, command, options)
    except KeyboardInterrupt:
        return messages.fail(command, f"Interrupted. {stays}", 130)
    except SystemExit as end:
        if end.code != _TERMINATED:
            raise
        return messages.fail(command, f"Terminated. {stays}", _TERMINATED)
    except ArgumentError as error:
        groups: Groups = options[command][1] if command else {}
        known = {f"{prefix}{option.name}": option for prefix, group in groups.items() for option in group}
        words = COMMANDS[command].positional if command else ()
        return messages.fail(command, messages.explain(str(error), command, list(COMMANDS), known, words))
    except _FOR_USERS as error:
        if debug or isinstance(error, _FOR_US):
            raise
        return messages.fail(command, messages.text_of(error))


def _run(given: list[str], command: str, options: Mapping[str, tuple[str, Groups]]) -> int:
    parser = _parser(options)
    if not given:
        parser.print_help(sys.stderr)
        return 2
    repeating = [option.name for option in options[command][1][""] if option.repeats] if command else []
    parsed = parser.parse_args(_gathered(given, repeating))
    chosen = COMMANDS[parsed.command]
    values = parsed[parsed.command].as_dict()
    values.pop("config", None)
    module, _, name = chosen.target.partition(":")
    result = getattr(importlib.import_module(module), name)(**values)
    if said := chosen.say(result):
        sys.stdout.write(f"{said}\n")
    return chosen.status(result)


def _parser(options: Mapping[str, tuple[str, Groups]]) -> ArgumentParser:
    set_parsing_settings(omegaconf_absolute_to_relative_paths=True)
    how = {"parser_mode": "omegaconf+", "exit_on_error": False, "allow_abbrev": False, "epilog": _EPILOG}
    about = "Diffusion Self-Distillation: a text-to-image model teaches itself to keep an identity."
    parser = ArgumentParser(prog="dsd", version=__version__, description=about, **how)
    parser.add_argument("--config", action="config", help="YAML file with options of commands, by command.")
    commands = parser.add_subcommands(required=True, dest="command", metavar="COMMAND")
    for name, (text, groups) in options.items():
        own = ArgumentParser(description=text, **how)
        own.add_argument("--config", action="config", help="YAML file with any of the options below.")
        for prefix, group in groups.items():
            for option in group:
                option.add_to(own, prefix, positional=option.name in COMMANDS[name].positional)
        commands.add_subcommand(name, own, help=text.partition(". ")[0].rstrip(".") + ".")
    return parser


def _underscored(word: str, known: Sequence[Option]) -> str:
    """`--dry-run` as `--dry_run`, if that is an option."""
    flag, equals, value = word.partition("=")
    name = flag.removeprefix("--").replace("-", "_")
    flags = {found for option in known for found in (option.name, f"no_{option.name}")}
    return f"--{name}{equals}{value}" if flag.startswith("--") and name in flags else word


def _gathered(given: list[str], repeating: Sequence[str]) -> list[str]:
    """Options that were given several times, as one with the list of their values."""
    for flag in (f"--{name}" for name in repeating):
        rest, values, words = [], [], iter(given)
        for word in words:
            if word == flag:
                values.append(next(words, ""))
            elif word.startswith(f"{flag}="):
                values.append(word.partition("=")[2])
            else:
                rest.append(word)
        if len(values) > 1:
            given = [*rest, f"{flag}={json.dumps(values)}"]
    return given
