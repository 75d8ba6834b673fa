"""How diverse prompts are, in numbers that are computed here a second time."""

import itertools
import json
import random
import sys

import pytest

from dsd import prompts
from dsd.cli import main
from dsd.prompts.distinct import similarity
from dsd.types import GridPrompt

WORDS = [f"{a}{b}" for a, b in itertools.product("bdfgklm", "aeiouxyz")]


def listed(count, seed=0, words=5):
    rng = random.Random(seed)
    for i in range(count):
        subject = " ".join(rng.sample(WORDS, words))
        panels = tuple(f"{subject} in {rng.choice(WORDS)}, {rng.choice(WORDS)}" for _ in range(4))
        kind = "character" if i % 4 else "object"
        yield GridPrompt(
            text=f"grid of {subject}: {' '.join(panels)}", subject=subject, panels=panels, kind=kind
        )


def test_against_plain_computations():
    given = list(listed(60))
    found = prompts.diversity(given)
    assert found.prompts == 60
    assert found.kinds == {"character": 45, "object": 15}
    assert found.layouts == {"2x2": 60}
    assert found.subjects == len({frozenset(p.subject.split()) for p in given})
    panels = [panel.replace(",", "").split() for p in given for panel in p.panels]
    words = list(itertools.chain.from_iterable(panels))
    pairs = [pair for panel in panels for pair in itertools.pairwise(panel)]
    assert found.vocabulary == len(set(words))
    assert found.distinct_1 == len(set(words)) / len(words)
    assert found.distinct_2 == len(set(pairs)) / len(pairs)
    assert found.panel_words == dict.fromkeys(["least", "10%", "median", "90%", "most"], 8.0)
    assert found.text_words["median"] == 2 + 5 + 4 * 8


def test_self_similarity_is_near_the_exact_one():
    given = list(listed(80, words=12))
    found = prompts.diversity(given)
    subjects = [p.subject for p in given]
    exact = {
        (i, j): similarity(a, b)
        for (i, a), (j, b) in itertools.product(enumerate(subjects), repeat=2)
        if i != j
    }
    mean = sum(exact.values()) / len(exact)
    nearest = sum(max(exact[i, j] for j in range(80) if j != i) for i in range(80)) / 80
    assert found.self_similarity == pytest.approx(mean, abs=0.01)
    assert found.nearest == pytest.approx(nearest, abs=0.08)  # a maximum of estimates errs upwards
    assert found.nearest > found.self_similarity


def test_near_duplicates_are_counted_and_shown():
    given = list(listed(20, words=8))
    again = [GridPrompt(text="x", subject=f"The {p.subject}!", panels=(), kind="object") for p in given[:5]]
    found = prompts.diversity([*given, *again])
    assert found.near_duplicates == 5 / 25
    assert found.subjects == 20
    assert found.examples == [(f"The {p.subject}!", p.subject) for p in given[:5]]


def test_one_prompt_and_none():
    (only,) = listed(1)
    found = prompts.diversity([only])
    assert (found.near_duplicates, found.self_similarity) == (0.0, None)
    bare = prompts.diversity([GridPrompt(text="a grid", subject="", panels=())])
    assert (bare.distinct_1, bare.panel_words) == (None, {})
    assert len(bare.rows()) == len(found.rows())
    with pytest.raises(ValueError, match="There are no prompts to measure"):
        prompts.diversity([])


def test_a_long_list_is_read_once_and_measured_on_a_sample():
    found = prompts.diversity(listed(2300, words=3), similarity=1.0)
    assert found.prompts == 2300
    assert 0 < found.near_duplicates < 1
    assert found.near_duplicates == pytest.approx(1 - found.subjects / 2300)


def test_without_datasketch(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasketch", None)
    found = prompts.diversity(listed(10))
    assert (found.near_duplicates, found.self_similarity, found.nearest) == (None, None, None)
    assert found.subjects == 10
    assert ("near-duplicate subjects", "needs the extra llm") in found.rows()


def test_the_command_tells_and_keeps_it(tmp_path, capsys):
    words = {
        "subjects": ["plush [red]owl[/red]", "a clay robot", "the clay robot"],
        "scenes": [f"in place {i}" for i in range(9)],
    }
    (tmp_path / "words.json").write_text(json.dumps(words))
    run = tmp_path / "run"
    arguments = ["--writer", json.dumps({"name": "template", "vocabulary": str(tmp_path / "words.json")})]
    assert main(["prompts", "--run", str(run), *arguments, "--count", "30", "--no_progress"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("prompts: 30 rows, 30 new")
    assert "near-duplicate subjects" in said
    assert "a clay robot" in said
    kept = json.loads((run / "prompts" / "diversity.json").read_text())
    assert kept["prompts"] == 30
    assert kept["subjects"] == 2
    assert main(["prompts", "--run", str(run), *arguments, "--count", "40", "--no_progress"]) == 0
    assert json.loads((run / "prompts" / "diversity.json").read_text())["prompts"] == 40


def test_the_command_takes_what_the_stage_takes():
    import inspect

    from dsd.cli.prompts import prompts as command
    from dsd.stages import write_prompts

    ours, theirs = (inspect.signature(function).parameters for function in (command, write_prompts))
    assert list(ours) == list(theirs)
    assert [p.default for p in ours.values()] == [p.default for p in theirs.values()]
