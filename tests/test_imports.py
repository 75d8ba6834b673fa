"""What a user waits for: importing dsd, its help and its lists must not load the heavy packages."""

import subprocess
import sys

import pytest

import dsd

HEAVY = ("torch", "diffusers", "transformers", "lightning", "litellm", "datasets", "peft", "ray")


def run(program):
    """The heavy packages that a program has loaded when it ends, on its last line."""
    program = f"""
import contextlib, sys
with contextlib.suppress(SystemExit):
{chr(10).join("    " + line for line in program.splitlines())}
print(*[name for name in {HEAVY} if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize(
    "program",
    [
        "import dsd; dir(dsd); dsd.Pair; dsd.Verdict; dsd.merge",
        "from dsd import curators; curators.names(); curators.create('heuristic')",
        "from dsd import prompts; list(prompts.create('template').write(2, seed=0))",
        "from dsd import judges; judges.names(); judges.Rubric.load('prompt_following')",
        "from dsd import conditioning, metrics, mini, teachers; conditioning.names() + teachers.names()",
        "from dsd import engines; engines.names(); engines.create('local')",
    ],
)
def test_the_library_imports_quickly(program):
    assert run(program)[-1] == ""  # the last line: what was loaded


@pytest.mark.parametrize("arguments", [["--help"], ["list"]])
def test_the_command_line_starts_quickly(arguments):
    *shown, loaded = run(f"import sys; sys.argv = ['dsd', *{arguments}]\nfrom dsd.cli import main; main()")
    assert loaded == ""
    assert "curate" in "".join(shown) or "heuristic" in "".join(shown)


def test_a_heavy_package_would_be_seen():
    assert run("import torch")[-1] == "torch"


def test_every_public_name_loads():
    assert set(dsd.__all__) <= set(dir(dsd))
    for name in dsd.__all__:
        assert getattr(dsd, name) is not None
    with pytest.raises(AttributeError, match="module 'dsd' has no attribute 'nothing'"):
        _ = dsd.nothing
