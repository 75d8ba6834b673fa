"""Options of a command, read from the signature and docstring of the function that it calls.

They are read from its source, so that help is shown without importing the function's module.
"""

import ast
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args

import docstring_parser
from jsonargparse import ActionYesNo, ArgumentParser

_PLAIN: dict[str, Any] = {
    **{"str": str, "int": int, "float": float, "bool": bool, "Any": Any},
    **{"Path": str, "RunLike": str},
}
_CONTAINERS: dict[str, Any] = {"Mapping": dict, "dict": dict, "Sequence": list, "list": list, "tuple": tuple}


@dataclass(frozen=True, kw_only=True)
class Option:
    """One argument of a function.

    Attributes:
        name: of the argument.
        type: what can be given on a command line or in YAML; other types that the function takes are left
            out.
        required: whether it has no default.
        default: as far as it is a literal.
        help: its part of the docstring.
    """

    name: str
    type: Any
    required: bool
    default: Any = None
    help: str = ""

    @property
    def repeats(self) -> bool:
        """Whether it may be a list, so that it can be given several times."""
        return any(getattr(kind, "__origin__", None) is list for kind in (self.type, *get_args(self.type)))

    def add_to(self, parser: ArgumentParser, prefix: str = "", positional: bool = False) -> None:
        """Add it to a parser as `--prefix.name`, or as a word that may be left out if it has a default."""
        flag, text = f"--{prefix}{self.name}", self.help.replace("%", "%%")
        if positional and self.required:
            parser.add_argument(self.name, type=self.type, help=text)
        elif positional and self.repeats:
            parser.add_argument(self.name, nargs="*", type=str, default=self.default, help=text)
        elif positional:
            parser.add_argument(self.name, nargs="?", type=self.type, default=self.default, help=text)
        elif self.type is bool:
            parser.add_argument(flag, action=ActionYesNo, default=self.default, help=text)
        elif self.required:
            parser.add_argument(flag, type=self.type, required=True, help=text)
        else:
            parser.add_argument(flag, type=self.type, default=self.default, help=text)


def read(target: str) -> tuple[str, list[Option]]:
    """What a function or class does, in a sentence, and its options.

    Args:
        target: "module:function" or "module:Class".
    """
    module, _, name = target.partition(":")
    found = next(node for node in _tree(module).body if getattr(node, "name", None) == name)
    assert isinstance(found, ast.FunctionDef | ast.ClassDef), target
    function = found if isinstance(found, ast.FunctionDef) else _constructor(found)
    described = docstring_parser.parse(ast.get_docstring(found) or "")
    helps = {entry.arg_name: " ".join((entry.description or "").split()) for entry in described.params}
    arguments = function.args
    required: list[None] = [None] * (len(arguments.args) - len(arguments.defaults))
    plain = zip(arguments.args, [*required, *arguments.defaults], strict=True)
    options = []
    for argument, default in [*plain, *zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)]:
        kind = _type(argument.annotation)
        if argument.arg == "self" or kind in (None, NoneType):
            continue
        options.append(
            Option(
                name=argument.arg,
                type=kind,
                required=default is None,
                default=None if default is None else ast.literal_eval(default),
                help=helps.get(argument.arg, ""),
            )
        )
    return " ".join((described.description or "").split("\n\n")[0].split()), options


def _tree(module: str) -> ast.Module:
    spec = importlib.util.find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    return ast.parse(Path(spec.origin).read_text(encoding="utf-8"))


def _constructor(found: ast.ClassDef) -> ast.FunctionDef:
    return next(node for node in found.body if isinstance(node, ast.FunctionDef) and node.name == "__init__")


def _type(node: ast.expr | None) -> Any:
    """The part of an annotation that can be written in YAML; None if there is no such part."""
    match node:
        case ast.Constant(value=str(text)):
            return _type(ast.parse(text, mode="eval").body)
        case ast.Constant(value=None):
            return NoneType
        case ast.Name(id=name):
            return _PLAIN.get(name)
        case ast.BinOp(op=ast.BitOr(), left=left, right=right):
            return _union([_type(left), _type(right)])
        case ast.Subscript(value=ast.Name(id="Literal"), slice=values):
            given = ast.literal_eval(values)
            return Literal[given]
        case ast.Subscript(value=ast.Name(id=name), slice=inner) if name in _CONTAINERS:
            parts = [_type(part) for part in (inner.elts if isinstance(inner, ast.Tuple) else [inner])]
            return None if None in parts else _CONTAINERS[name][tuple(parts) if len(parts) > 1 else parts[0]]
    return None


def _union(kinds: Sequence[Any]) -> Any:
    known = [kind for kind in kinds if kind is not None]
    chosen = [kind for kind in known if kind is not Any] or known  # Any would read the run "007" as a number
    return reduce(or_, chosen) if chosen else None
