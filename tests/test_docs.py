"""What the docs tell people to write, written and run.

Blocks marked `python` are run, page by page, with a tiny random model in place of the embedded one. Blocks
marked `py` need a GPU, a network or minutes: they are compiled, and every `dsd` name and spec in them is
looked up.
"""

import ast
import importlib
import inspect
import logging
import re
from pathlib import Path

import numpy as np
import pytest

import dsd
from dsd import backbones, captioners, conditioning, curators, judges, llm, metrics, mini, prompts, teachers
from dsd.cli.commands import COMMANDS

ROOT = Path(__file__).parents[1]
PAGES = sorted([*(ROOT / "docs").rglob("*.md"), ROOT / "README.md"])
FAMILIES = {
    "writer": prompts,
    "teacher": teachers,
    "captioner": captioners,
    "curator": curators,
    "judge": judges,
    "conditioning": conditioning,
}


def blocks(path, language):
    return re.findall(rf"^```{language}(?: [^\n]*)?\n(.*?)^```$", path.read_text(), re.MULTILINE | re.DOTALL)


@pytest.fixture
def small(tiny_flux, monkeypatch, tmp_path):
    """A tiny model as "mini", and a folder of its own."""
    monkeypatch.setattr(mini, "path", lambda: tiny_flux)
    monkeypatch.chdir(tmp_path)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    yield
    for family in (prompts, teachers, captioners, curators, judges, backbones, conditioning, metrics):
        own = {k: v for k, v in family.registry._registered.items() if v.__module__ != "docs_page"}
        family.registry._registered.clear()
        family.registry._registered.update(own)


@pytest.mark.parametrize(
    "path", [path for path in PAGES if blocks(path, "python")], ids=lambda path: path.stem
)
def test_the_code_of_a_page_runs(path, small):
    namespace = {"__name__": "docs_page"}
    for block in blocks(path, "python"):
        exec(compile(block, str(path), "exec"), namespace)


@pytest.mark.parametrize(
    "family",
    ["prompts", "teachers", "captioners", "curators", "judges", "backbones", "conditioning", "metrics"],
)
def test_every_family_shows_how_to_write_ones_own(family):
    text = (ROOT / "docs" / f"{family}.md").read_text()
    own = text.partition("## Write your own")[2]
    assert "```python" in own
    assert f"@{family}.register(" in own
    assert f"`dsd.{family}`" in own
    assert all(f"`{name}`" in text for name in builtin(family)), "a name is missing in the page's table"


def builtin(family):
    registry = importlib.import_module(f"dsd.{family}").registry
    return registry._builtin


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_names_in_code_that_is_not_run_exist(path):
    for block in blocks(path, "py"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.module.startswith("dsd"):
                exec(ast.unparse(node), {})  # a name may be a module that nothing has imported yet
            if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("dsd."):
                called = dsd
                for part in ast.unparse(node.func).split(".")[1:]:
                    called = getattr(called, part)
                names = inspect.signature(called).parameters
                takes_any = any(p.kind is p.VAR_KEYWORD for p in names.values())
                unknown = {k.arg for k in node.keywords} - set(names)
                assert takes_any or not unknown, f"{ast.unparse(node.func)}: {unknown}"
                for keyword in node.keywords:
                    check_spec(keyword)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_commands_have_the_options_that_are_written(path):
    for line in "".join(blocks(path, "sh")).splitlines():
        words = line.partition("#")[0].split()
        if words and words[0] == "dsd":
            options = COMMANDS[words[1]].options()[1][""]
            known = {"--config", *(f"--{option.name}" for option in options)}
            assert {word for word in words if word.startswith("--")} <= known, line


def check_spec(keyword):
    """A spec written out names a class and its arguments."""
    try:
        spec = ast.literal_eval(keyword.value)
    except ValueError:
        return
    family = FAMILIES.get(keyword.arg)
    name = spec.get("name") if isinstance(spec, dict) else spec
    if family is None or name == "sharp":
        return
    allowed = inspect.signature(family.get(name).__init__).parameters
    if any(p.kind is p.VAR_KEYWORD for p in allowed.values()):  # those of the door to the model
        allowed = {**allowed, **inspect.signature(llm.LLM.__init__).parameters}
    assert not isinstance(spec, dict) or set(spec) - {"name"} <= set(allowed), spec


def test_readme_begins_with_the_two_commands():
    text = (ROOT / "README.md").read_text()
    first = text[text.index("```") :].partition("```\n\n")[0].splitlines()
    assert [line.split("#")[0].strip() for line in first[1:3]] == ["make quickstart", "make test"]
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", text):
        assert (ROOT / target).exists() or target == "docs/images/student.png", target


def test_the_example_is_short_and_runs(small, tmp_path):
    source = (ROOT / "examples" / "quickstart.py").read_text()
    assert len(source.splitlines()) < 40
    small_numbers = {
        "count=200": "count=4",
        '"batch_size": 8': '"batch_size": 4, "num_inference_steps": 2',
        "batch_size=16": "batch_size=4",
        "max_steps=400": "max_steps=2, accelerator='cpu', logger=False, enable_progress_bar=False",
        "seed=0).im": "seed=0, num_inference_steps=2).im",
        'curator="embedding"': 'curator={"name": "embedding", "extractor": shrunk, "low": -1.0, "high": 1.0}',
    }
    for old, new in small_numbers.items():
        assert source.count(old) == 1, old
        source = source.replace(old, new)

    def shrunk(images):
        return np.stack([np.asarray(x.resize((4, 4)), dtype=np.float32).ravel() + 1 for x in images])

    exec(compile(source, "quickstart.py", "exec"), {"__name__": "__main__", "shrunk": shrunk})
    for name in ("reference.png", "answer.png", "student/dsd.json", "manifest.json"):
        assert (tmp_path / "runs" / "example" / name).is_file()
