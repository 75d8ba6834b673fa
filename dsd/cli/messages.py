"""What the command line says when something is wrong, in one line."""

import copy
import difflib
import logging
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from dsd.cli.options import Option
from dsd.texts import printable

_UNKNOWN_OPTION = r"(?:does not accept option|unrecognized arguments:|^Option) '?-*([^\s='\"]+)"


def fail(command: str, message: str, status: int = 2) -> int:
    """Write one line on stderr; returns the exit status."""
    sys.stderr.write(f"{_called(command)}: {printable(' '.join(message.split()))}\n")
    return status


def explain(
    message: str,
    command: str,
    commands: Sequence[str],
    options: Mapping[str, Option],
    words: Sequence[str] = (),
) -> str:
    """What jsonargparse complains of, in the words of the command line.

    Args:
        message: its complaint.
        command: the command, or "" if none is known.
        commands: all commands.
        options: the command's options by name.
        words: those of them that are given without `--`.
    """

    def flag(name: str) -> str:
        return name.upper() if name in words else f"--{name}"

    see = f"See {_called(command)} --help."
    key = re.match(r'Parser key "([^"]+)":', message)
    value = re.search(r"(?:Given|Got) value: (.*)\Z", message, re.DOTALL)
    if key and value and key[1] in options:
        return f"{flag(key[1])} cannot be {value[1]!r}: it takes {_kind(options[key[1]].type)}. {see}"
    if key:
        return f"--{key[1]}: {message[key.end() :].strip()}"
    if missing := re.search(r"arguments are required: (.+)", message):
        names = [name.rpartition(f"{command}.")[2] for name in missing[1].split(", ")]
        return f"{' and '.join(map(flag, names))} must be given. {see}"
    if unknown := re.search(r"invalid choice: '(\S+)'", message):
        name = unknown[1]
        return f"There is no command {name!r}.{_hint(name, commands)} Known: {', '.join(commands)}."
    if unknown := re.search(_UNKNOWN_OPTION, message):
        name = unknown[1].removeprefix(f"{command}.")
        return f"There is no option {name!r}.{_hint(name, list(options))} {see}"
    if message.startswith('expected "command"'):
        return f"Give a command, one of {', '.join(commands)}."
    return message


def text_of(error: Exception) -> str:
    """What an exception says, without the number that the system's errors begin with."""
    if isinstance(error, OSError) and error.strerror and error.filename is None:
        return str(error.strerror)
    return str(error) or type(error).__name__


@contextmanager
def told(debug: bool) -> Iterator[None]:
    """Show what dsd logs on stderr, exceptions as one line unless `debug`."""
    logger, handler = logging.getLogger("dsd"), logging.StreamHandler()
    handler.setFormatter(_Whole("%(levelname)s: %(message)s") if debug else _Brief("%(message)s"))
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


class _Whole(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


class _Brief(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        brief = copy.copy(record)
        brief.exc_info = brief.exc_text = brief.stack_info = None
        text = super().format(brief)
        return printable(f"{text}: {' '.join(str(record.exc_info[1]).split())}" if record.exc_info else text)


def _called(command: str) -> str:
    return f"dsd {command}".strip()


def _hint(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f" Did you mean {near[0]!r}?" if near else ""


def _kind(kind: Any) -> str:
    """A type in words."""
    if kind is NoneType:
        return "null"
    if get_origin(kind) in (Union, UnionType):
        return " or ".join(_kind(part) for part in get_args(kind))
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(map(str, get_args(kind)))
    if isinstance(kind, type) and not get_args(kind):
        return kind.__name__
    return str(kind).replace("typing.", "")
