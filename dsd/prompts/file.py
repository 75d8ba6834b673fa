"""Prompts that somebody has written already, read from a file."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dsd.grids import Layout
from dsd.parquet import column_names, read_rows
from dsd.prompts.base import PromptWriter, prompt_seed
from dsd.types import GridPrompt


class FileWriter(PromptWriter):
    """Prompts from a file, one a row, in the file's order.

    A row has `text`, and may have `subject`, `panels` (one caption a panel), `layout` and `kind`; other
    columns are left alone. A row of a text file is its `text`; empty lines at the end of the file do not
    count.

    Args:
        path: a `.jsonl`, `.parquet` or `.txt` file.
        layout: of rows that do not say.
        kind: of rows that do not say.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is damaged or of another kind, or a row is: it names the row.
    """

    free = True

    def __init__(self, path: str, layout: str = "2x2", kind: str = "character") -> None:
        self._path = Path(path)
        self._layout = str(Layout.parse(layout))
        self._kind = kind
        if not self._path.is_file():
            raise FileNotFoundError(
                f"There is no file of prompts at {path}. Give a .jsonl, .parquet or .txt file."
            )
        # All rows are read at once, so that a damaged one is found before the teacher has drawn for hours.
        self._prompts = [self._prompt(number, row) for number, row in enumerate(_rows(self._path), start=1)]
        if not self._prompts:
            raise ValueError(f"{path} holds no prompts.")

    def __len__(self) -> int:
        return len(self._prompts)

    def write(self, count: int, seed: int, *, start: int = 0) -> Iterator[GridPrompt]:
        """The file's rows `start` to `count - 1`. The seed changes only the prompts' own seeds.

        Raises:
            ValueError: if the file has fewer than `count` rows.
        """
        if count > len(self._prompts):
            raise ValueError(
                f"{self._path} holds {len(self._prompts)} prompts, but {count} were asked for. "
                f"Ask for at most {len(self._prompts)}."
            )
        for index in range(start, count):
            yield GridPrompt(writer="file", seed=prompt_seed(seed, index), **self._prompts[index])

    def _prompt(self, number: int, row: Any) -> dict[str, Any]:
        where = f"{self._path}, row {number}"
        if not isinstance(row, Mapping) or "text" not in row:
            got = f"the columns {', '.join(map(str, row))}" if isinstance(row, Mapping) else repr(row)
            raise ValueError(f"{where}: a prompt needs a `text`; got {got}.")
        text, panels = row["text"], row.get("panels")
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"{where}: the prompt is empty (text = {text!r}). Write one, or remove the row.")
        panels = [] if panels is None else panels
        if not isinstance(panels, list) or not all(isinstance(panel, str) for panel in panels):
            raise ValueError(f"{where}: `panels` must be a list of captions; got {panels!r}.")
        try:
            layout = Layout.parse(str(row.get("layout") or self._layout))
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
        if panels and len(panels) != layout.num_panels:
            raise ValueError(
                f"{where}: a {layout} grid has {layout.num_panels} panels, but {len(panels)} are described. "
                "Write one caption a panel, or none."
            )
        return {
            "text": text.strip(),
            "subject": str(row.get("subject") or ""),
            "panels": tuple(panels),
            "layout": str(layout),
            "kind": str(row.get("kind") or self._kind),
        }


def _rows(path: Path) -> list[Any]:
    if path.suffix == ".parquet":
        return _parquet_rows(path)
    if path.suffix not in (".jsonl", ".txt"):
        raise ValueError(f"Prompts are read from .jsonl, .parquet and .txt files; got {path}.")
    try:
        content = path.read_text(encoding="utf-8").rstrip()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: {error}. Save it as UTF-8.") from error
    if path.suffix == ".txt":
        return [{"text": line} for line in content.splitlines()]
    lines = content.split("\n") if content else []  # not splitlines: JSON may hold other ends of lines
    return [_json_row(path, number, line) for number, line in enumerate(lines, start=1)]


def _json_row(path: Path, number: int, line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path}, row {number} is not JSON: {error}. Write one JSON object a line."
        ) from error


def _parquet_rows(path: Path) -> list[Any]:
    there = column_names(path)
    known = [name for name in there if name in ("text", "subject", "panels", "layout", "kind")]
    if "text" not in known:
        raise ValueError(f"{path} has no column `text`; it has {', '.join(there) or 'none'}.")
    return list(read_rows(path, known))
