"""Coverage-guided fuzzing of a property of `tests/test_fuzz_*.py`, by atheris (`pip install atheris`).

    python -m tests.fuzz test_ratings -max_total_time=180
    python -m tests.fuzz test_answers_in_fields corpus/ -max_total_time=3600

Hypothesis turns the bytes that atheris makes up into the property's arguments, so that nothing is written
twice. Interesting bytes are kept in the folder, if one is given; those that break it in `crash-*`.
"""

import importlib
import inspect
import sys
from pathlib import Path


def main() -> None:
    """Fuzz the property that is named first; other arguments are libFuzzer's."""
    import atheris

    with atheris.instrument_imports(include=["dsd"]):
        files = sorted(Path(__file__).parent.glob("test_fuzz_*.py"))
        modules = [importlib.import_module(f"tests.{file.stem}") for file in files]

    properties = {
        name: found.hypothesis.fuzz_one_input
        for module in modules
        for name, found in vars(module).items()
        if hasattr(found, "hypothesis") and not inspect.signature(found).parameters
    }
    program, *words = sys.argv
    if not words or words[0] not in properties:
        raise SystemExit(f"Name one of: {', '.join(properties)}.")
    # A program of its own, since libFuzzer would take the name for a folder.
    atheris.Setup([program, *words[1:]], properties[words[0]])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
