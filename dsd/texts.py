"""Prompt texts in files that a user can replace, and words of strangers made fit for one line."""

import hashlib
import re
import string
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

_MAX_BYTES = 2**18
_UNSEEN = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u00ad\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\U000e0000-\U000e007f]"
)
_CONTROLS = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff]"
)  # all but tabs and ends of lines
_FORMULA = re.compile(r"[\s\x00-\x1f\u200b\u00ad\ufeff]*[=+\-@\uff1d\uff0b\uff0d\uff20]|[\t\r\n]")
_MARKED = re.compile(r"^(\d*)([.)+-])(?=\s|$)|^()([-=:](?=[-=: ]*$))")
_NUMBERS = re.compile(r"[-+]?\d+(\.\d+)?(e[-+]?\d+)?( to [-+]?\d+(\.\d+)?(e[-+]?\d+)?)?")
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W_\u3040-\u30ff\u3400-\u9fff]+")


def one_line(text: str, max_chars: int) -> str:
    """The text without control and invisible characters, on one line, cut to a length at a word's end."""
    text = " ".join(_UNSEEN.sub(" ", text[: 4 * max_chars]).split())
    if len(text) <= max_chars:
        return text
    cut = text[:max_chars]
    return (cut if text[max_chars] == " " else cut.rpartition(" ")[0] or cut).rstrip()


def printable(text: str) -> str:
    r"""Text for a terminal: what would move its cursor, colour it, or turn its letters round is written out.

    >>> printable("red \x1b[2Jfox\nnext line")
    'red \\x1b[2Jfox\nnext line'
    """
    return _CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def markdown_text(text: str) -> str:
    """Text that Markdown and HTML take as text: no tags, links, emphasis, columns or new lines."""
    text = " ".join(text.split())
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = re.sub(r"([\\`*_\[\]|~#])", r"\\\1", text)
    return _MARKED.sub(lambda found: f"{found[1] or ''}\\{found[2] or found[4]}", text)  # no lists, no rules


def csv_cell(value: object) -> object:
    """A value for a CSV file: a text that a spreadsheet would run as a formula gets an apostrophe before it.

    >>> [csv_cell(x) for x in ("=1+1", " @SUM(A1)", "-0.5", -0.5, "fox")]
    ["'=1+1", "' @SUM(A1)", '-0.5', -0.5, 'fox']
    """
    if not isinstance(value, str):
        return value
    # The csv module does not quote a lone carriage return, which would begin a row of its own.
    value = value.replace("\r\n", "\n").replace("\r", "\n")
    return f"'{value}" if _FORMULA.match(value) and not _NUMBERS.fullmatch(value) else value


def words_of(text: str) -> list[str]:
    """Its words in small letters; a Chinese or Japanese character counts as a word."""
    return _WORD.findall(text.casefold())


@dataclass(frozen=True, kw_only=True)
class Text:
    """A text with places to fill, written `{name}`; braces that are meant as such are doubled.

    Attributes:
        content: as in the file.
        source: the file, for messages.
    """

    content: str
    source: str

    def fill(self, **values: object) -> str:
        """The text with its places filled."""
        return self.content.format(**values)

    def lines(self) -> list[str]:
        """Its lines without the empty ones and those that begin with `#`."""
        lines = [line.strip() for line in self.content.splitlines()]
        return [line for line in lines if line and not line.startswith("#")]


def read_texts(
    builtin: Path, places: Mapping[str, Iterable[str]], folder: str | PathLike[str] | None = None
) -> dict[str, Text]:
    """Texts by name: those of a user's folder, and the built-in ones for the rest.

    Args:
        builtin: the folder with all of them, as NAME.txt.
        places: the name of each text, and the places that it must have.
        folder: with some of them. Files of other kinds in it are left alone.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if a text has an unknown name, is empty, too long or no UTF-8, or lacks a place or has an
            unknown one.
    """
    found = {name: builtin / f"{name}.txt" for name in places}
    if folder is not None:
        own = Path(folder).expanduser()
        if not own.is_dir():
            raise FileNotFoundError(
                f"There is no folder of texts at {folder}. Make it, with any of {_files(places)} in it."
            )
        for path in sorted(own.glob("*.txt")):
            if path.stem not in places:
                raise ValueError(f"{path} is no text that is used. Known: {_files(places)}.")
            found[path.stem] = path
    return {name: _checked(path, tuple(places[name])) for name, path in found.items()}


def _checked(path: Path, places: tuple[str, ...]) -> Text:
    if (size := path.stat().st_size) > _MAX_BYTES:
        raise ValueError(f"The text {path} has {size} bytes; at most {_MAX_BYTES} are read. Shorten it.")
    try:
        content = path.read_text(encoding="utf-8").strip()
    except UnicodeDecodeError as error:
        raise ValueError(f"The text {path} is not UTF-8: {error}. Save it as UTF-8.") from error
    if not content:
        raise ValueError(f"The text {path} is empty. Write one, or remove the file to use the built-in one.")
    known = ", ".join(f"{{{place}}}" for place in places) or "none"
    try:
        parts = list(string.Formatter().parse(content))
    except ValueError as error:
        raise ValueError(f"The text {path} has a stray brace ({error}). Double it: {{{{ or }}}}.") from error
    named = {name for _, name, _, _ in parts if name is not None}
    if unknown := sorted(named.difference(places)):
        raise ValueError(
            f"The text {path} has an unknown place {{{unknown[0]}}}. Allowed: {known}. Braces that are meant "
            "as such are doubled."
        )
    if missing := [place for place in places if place not in named]:
        raise ValueError(f"The text {path} lacks the place {{{missing[0]}}}. Needed: {known}.")
    if formatted := [name for _, name, how, conversion in parts if name is not None and (how or conversion)]:
        raise ValueError(f"The text {path} formats the place {{{formatted[0]}}}; write the name alone.")
    return Text(content=content, source=str(path))


def fingerprint(*texts: Text) -> str:
    """A hash of texts, to record with what was made by them."""
    return hashlib.sha256("\0".join(text.content for text in texts).encode()).hexdigest()[:12]


def _files(names: Iterable[str]) -> str:
    return ", ".join(f"{name}.txt" for name in names)
