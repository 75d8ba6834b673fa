"""Other packages join by entry points: built and installed by pip, used by name in a process of their own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

PROGRAM = """
from PIL import Image, ImageFilter
from dsd import curators
from dsd.curators import Pair

def message(name):
    try:
        curators.get(name)
    except Exception as error:
        return f"{type(error).__name__}: {error}"

"""


def install(source, target):
    """Install a package into a folder without the network, from a copy: no build files stay behind."""
    copy = target.parent / f"copy of {source.name}"
    copy.mkdir()
    for file in source.iterdir():
        if file.is_file():
            (copy / file.name).write_bytes(file.read_bytes())
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
    ]
    done = subprocess.run([*command, "--target", str(target), str(copy)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def example(tmp_path_factory):
    target = tmp_path_factory.mktemp("example") / "site"
    install(ROOT / "examples" / "own_curator", target)
    return target


@pytest.fixture(scope="module")
def stranger(tmp_path_factory):
    target = tmp_path_factory.mktemp("stranger") / "site"
    install(ROOT / "tests" / "stranger", target)
    return target


def run(program, *folders):
    path = os.pathsep.join(map(str, (*folders, ROOT)))
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM + program],
        capture_output=True, text=True, timeout=120, env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_the_example_package_is_used_by_name(example):
    said = run(
        """
import sys
print("sharpness" in curators.names(), "dsd_sharpness" in sys.modules)
curator = curators.create({"name": "sharpness", "floor": 80})
sharp = Image.effect_noise((64, 64), 99).convert("RGB")
soft = sharp.filter(ImageFilter.GaussianBlur(8))
pairs = [Pair(reference=sharp, target=target) for target in (sharp, soft)]
print([verdict.status for verdict in curator.judge_batch(pairs)])
print(curators.spec(curator), sys.modules["dsd_sharpness"].__file__)
""",
        example,
    )
    assert said[0] == "True False", "listing the names imported the package, or did not find it"
    assert said[1] == "['accepted', 'rejected']"
    assert said[2] == f"{{'name': 'sharpness', 'floor': 80}} {example / 'dsd_sharpness.py'}"


def test_without_the_package_its_name_is_unknown(stranger):
    assert run("print(message('sharpnes'))")[0].startswith(
        "LookupError: No Curator is named 'sharpnes'. Known: "
    )
    assert "first_letter" not in run("print(curators.names())")[0]


def test_two_packages_with_one_name_are_an_error_that_names_both(example, stranger):
    said = run(
        "print(message('sharpness')); print(curators.create('first_letter').letter)", example, stranger
    )
    assert said[0].startswith("ValueError: The name 'sharpness' is claimed by more than one Curator: ")
    assert "dsd-sharpness (dsd_sharpness:SharpnessCurator)" in said[0]
    assert "dsd-stranger (dsd_stranger:FirstLetterCurator)" in said[0]
    assert said[1] == "a", "the other names of both packages still work"


def test_a_broken_package_raises_its_own_error_when_asked_for(stranger):
    said = run("print(curators.names()); print(message('broken')); print(message('no_curator'))", stranger)
    assert "'broken'" in said[0]
    assert said[1] == "ModuleNotFoundError: No module named 'a_package_that_nobody_has'"
    assert said[2].startswith(
        "TypeError: 'no_curator' stands for <class 'collections.OrderedDict'>, which is"
    )


def test_a_strangers_judge_keeps_the_promises_of_all(stranger):
    said = run(
        """
from dsd import judges
from dsd.judges import Case
judge = judges.create("length")
cases = [Case(key=f"k{i}", generated=Image.new("RGB", (4, 4)), prompt=" word" * i) for i in range(3)]
ratings = judge.rate_batch(cases, runs=2)
print([(r.key, r.run, r.status, r.value) for r in ratings])
print(ratings[0].reason, [judge.rate(case).value for case in cases[1:]], judge.estimate(cases[0]).calls)
print(judges.registry.origins("length"))
""",
        stranger,
    )
    fates = [("k0", "failed", None), ("k1", "rated", 1), ("k2", "rated", 2)]
    assert said[0] == str([(key, run, status, value) for key, status, value in fates for run in (0, 1)])
    assert said[1] == "ValueError: there is no prompt [1, 2] 0"
    assert said[2] == "['dsd-stranger (dsd_stranger:LongPromptJudge)']"
