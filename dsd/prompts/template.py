"""Prompts from word lists: a subject in as many scenes as the grid has panels."""

import json
import random
import string
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from dsd.grids import Layout
from dsd.prompts.base import PromptWriter, prompt_seed
from dsd.types import GridPrompt

_TEMPLATE = (
    "A grid of {count} images, {rows} rows and {columns} columns, of the same {subject}: "
    "evenly separated panels that all show the identical {subject}. {scenes}."
)
_PANEL = "{subject} {scene}"


class TemplateWriter(PromptWriter):
    """Writes prompts of one subject in different scenes, from the small world's vocabulary or from your own.

    Args:
        vocabulary: a YAML or JSON file with the lists `subjects` and `scenes`, e.g. "plush owl with a scarf"
            and "on a mountain top at dawn". It may also have `template`, the prompt's text with the fields
            {subject}, {scenes}, {count}, {rows}, {columns} and {layout}; `panel`, a panel's caption with
            {subject} and {scene}; and `kind`. By default: the characters and scenes that the embedded teacher
            knows.
        layout: of the grids, rows x columns.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is damaged, has an unknown field, or fewer scenes than the grid has panels.
    """

    free = True

    def __init__(self, vocabulary: str | None = None, layout: str = "2x2") -> None:
        self._layout = Layout.parse(layout)
        self._vocabulary = None if vocabulary is None else _Vocabulary(Path(vocabulary), self._layout)

    def write(self, count: int, seed: int, *, start: int = 0) -> Iterator[GridPrompt]:
        """Prompts `start` to `count - 1`: subject and scenes are drawn at random, scenes differ within a
        grid.

        Raises:
            ValueError: if the small world knows no grids of this layout.
        """
        for index in range(start, count):
            own_seed = prompt_seed(seed, index)
            yield GridPrompt(writer="template", seed=own_seed, **self._fields(random.Random(own_seed)))

    def _fields(self, rng: random.Random) -> dict[str, Any]:
        if self._vocabulary is not None:
            return self._vocabulary.write(rng)
        from dsd.mini.world import write_grid_prompt

        return write_grid_prompt(rng, layout=str(self._layout))


class _Vocabulary:
    """The word lists of one file, checked."""

    def __init__(self, path: Path, layout: Layout) -> None:
        content = _read(path)
        known = ("subjects", "scenes", "template", "panel", "kind")
        if unknown := sorted(set(content) - set(known)):
            raise ValueError(f"{path}: unknown field {unknown[0]!r}. Allowed: {', '.join(known)}.")
        self.layout = layout
        self.subjects = _words(path, content, "subjects", at_least=1)
        self.scenes = _words(path, content, "scenes", at_least=layout.num_panels)
        self.kind = str(content.get("kind", "character"))
        self.template = _text(
            path, content, "template", _TEMPLATE, "subject scenes count rows columns layout".split()
        )
        self.panel = _text(path, content, "panel", _PANEL, ["subject", "scene"])

    def write(self, rng: random.Random) -> dict[str, Any]:
        subject = rng.choice(self.subjects)
        scenes = rng.sample(self.scenes, self.layout.num_panels)
        text = self.template.format(
            subject=subject,
            scenes="; ".join(f"panel {number}: {scene}" for number, scene in enumerate(scenes, start=1)),
            count=self.layout.num_panels,
            rows=self.layout.rows,
            columns=self.layout.columns,
            layout=str(self.layout),
        )
        panels = tuple(self.panel.format(subject=subject, scene=scene) for scene in scenes)
        return {
            "text": text,
            "subject": subject,
            "panels": panels,
            "layout": str(self.layout),
            "kind": self.kind,
        }


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(
            f"There is no vocabulary at {path}. Write one with the lists `subjects` and `scenes`."
        )
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (UnicodeDecodeError, json.JSONDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"The vocabulary {path} is neither readable YAML nor JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(
            f"The vocabulary {path} must hold the lists `subjects` and `scenes`; got {content!r}."
        )
    return content


def _words(path: Path, content: dict[str, Any], field: str, at_least: int) -> list[str]:
    words = content.get(field)
    if not isinstance(words, list) or not all(isinstance(word, str) and word.strip() for word in words):
        raise ValueError(f"{path}: `{field}` must be a list of texts, none of them empty; got {words!r}.")
    words = list(dict.fromkeys(words))
    if len(words) < at_least:
        raise ValueError(f"{path}: at least {at_least} different `{field}` are needed; got {len(words)}.")
    return words


def _text(path: Path, content: dict[str, Any], field: str, default: str, places: list[str]) -> str:
    text = content.get(field, default)
    try:
        named = {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: `{field}` is not a template: {error}; got {text!r}.") from error
    if unknown := sorted(named - set(places)):
        allowed = ", ".join(f"{{{place}}}" for place in places)
        raise ValueError(f"{path}: `{field}` has an unknown place {{{unknown[0]}}}. Allowed: {allowed}.")
    return str(text)
