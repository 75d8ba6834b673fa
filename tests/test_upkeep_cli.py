"""The commands that look after runs and move pairs, as they are typed."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import dsd
from dsd.cli import main
from dsd.exchange.card import write_card
from tests.exchange_run import write_run

OLD = Path(__file__).parent / "data" / "run-format-1"


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("source") / "run").path


@pytest.fixture
def run(source, tmp_path):
    return dsd.Run(shutil.copytree(source, tmp_path / "run"))


def test_verify_tells_and_its_status_says_so(run, capsys):
    assert main(["verify", str(run.path), "--no_progress"]) == 0
    assert f"{run.path} is whole" in capsys.readouterr().out
    shard = run.path / "verdicts" / "first" / "part-00000.parquet"
    shard.write_bytes(shard.read_bytes()[:-9])
    assert main(["verify", str(run.path), "--no_progress"]) == 1
    out = capsys.readouterr().out
    assert "damaged  verdicts/first  part-00000.parquet  -" in out
    assert "Add --mend" in out
    assert main(["verify", str(run.path), "--json", "--no_progress"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["faults"][0]["kind"] == "damaged"
    assert told["rows"]["pairs"] == 36
    assert main(["verify", str(run.path), "--stage", "pairs", "--no_progress"]) == 0
    assert main(["verify", str(run.path), "--mend", "--no_progress"]) == 1
    assert "mended verdicts/first: 0 rows kept, 36 removed" in capsys.readouterr().out
    assert main(["verify", str(run.path), "--no_progress"]) == 0
    bar = subprocess.run(
        [sys.executable, "-m", "dsd", "verify", str(run.path)],
        capture_output=True, text=True, cwd=Path(__file__).parents[1], check=True,
    )  # fmt: skip
    assert "verify" in bar.stderr


def test_compact_gc_and_migrate(run, tmp_path, capsys):
    old = shutil.copytree(OLD, tmp_path / "old")
    assert main(["migrate", str(old)]) == 0
    assert "pairs: format 1 to 2, 3 shards read" in capsys.readouterr().out
    assert main(["compact", str(old), "--stage", "pairs", "--no_progress"]) == 0
    assert "pairs: 3 shards" in capsys.readouterr().out
    assert len(dsd.Run(old).verdicts("parity").manifest.shards) == 3
    (old / "pairs" / "part-00000.parquet.damaged").write_bytes(bytes(1234))
    assert main(["gc", str(old), "--dry-run"]) == 0
    assert "1 files, 1,234 bytes would be removed" in capsys.readouterr().out
    assert main(["gc", str(old)]) == 0
    assert "1 files, 1,234 bytes removed" in capsys.readouterr().out
    for command in ("compact", "gc", "migrate", "verify"):
        assert main([command, str(tmp_path / "nowhere")]) == 2
        assert "There is no run in" in capsys.readouterr().err


def test_export_and_import(run, tmp_path, capsys):
    out, back = tmp_path / "out", tmp_path / "back"
    words = ["export-pairs", str(run.path), str(out), "--layout", "webdataset", "--policy", "first"]
    assert main([*words, "--license", "cc-by-4.0", "--no_progress"]) == 0
    assert "webdataset: 24 pairs in" in capsys.readouterr().out
    assert main(["import-pairs", str(out), str(back), "--layout=webdataset", "--no_progress"]) == 0
    assert "pairs: 24 rows (24 new" in capsys.readouterr().out
    assert dsd.Run(back).pairs.ids() == run.accepted("first")
    assert main([*words, "--no_progress"]) == 2
    assert "out exists" in capsys.readouterr().err
    assert main(["import-pairs", str(out), str(back), "--layout", "zip"]) == 2
    assert "one of release, subjects200k" in capsys.readouterr().err


def front_matter(card):
    import yaml
    from huggingface_hub import DatasetCard

    text = card.read_text(encoding="utf-8")
    loaded = DatasetCard(text)
    assert loaded.data.to_dict() == yaml.safe_load(text.split("---")[1])
    return loaded.data.to_dict(), text


def test_the_card_says_what_is_in_the_run_and_no_secret(run, capsys):
    manifest = run.path / "verdicts" / "first" / ".manifest.json"
    content = json.loads(manifest.read_text())
    content["spec"] = {
        "curator": {
            "name": "vlm",
            "api_key": "sk-abcdefghijklmnop",
            "prompts": "/home/somebody/words/mine.txt",
        }
    }
    manifest.write_text(json.dumps(content))
    assert main(["card", str(run.path), "--policy", "first", "--license", "cc-by-4.0"]) == 0
    data, text = front_matter(run.path / "README.md")
    assert data["license"] == "cc-by-4.0"
    assert data["size_categories"] == ["n<1K"]
    assert data["configs"][0]["data_files"] == [{"split": "train", "path": "pairs/part-*.parquet"}]
    assert "| pairs in this data set | 24 |" in text
    assert "| pairs before curation | 36 |" in text
    assert "| first | 24 | 12 | 0 | 66.7% |" in text
    assert "| second | 0 | 0 | 10 |" in text
    assert "$5.00" in text
    assert '"name": "vlm"' in text
    assert "mine.txt" in text
    for hidden in ("sk-", "somebody", "api_key", str(run.path.parent)):
        assert hidden not in text
    with Image.open(run.path / "pairs.png") as sheet:
        assert sheet.size == (20 + 3 * (342 + 20), 20 + 22 + 4 * (168 + 6 + 64 + 20))
    import datasets

    datasets.disable_progress_bars()
    found = datasets.load_dataset(str(run.path), split="train", cache_dir=str(run.path.parent / "cache"))
    assert found["id"][:] == run.pairs.ids()
    assert main(["card", str(run.path), "--policy", "first"]) == 0  # its own card is written anew
    assert "license" not in front_matter(run.path / "README.md")[0]
    (run.path / "README.md").write_text("mine")
    assert main(["card", str(run.path), "--policy", "first"]) == 2
    assert "was written by somebody else" in capsys.readouterr().err


def test_the_sheet_shows_the_pairs(run):
    from dsd.exchange.sheet import _fitted

    card = write_card(run, policy="every")
    with Image.open(card.with_name("pairs.png")) as sheet:
        first = next(iter(run.pairs))
        for left, picture in ((20, first.reference), (20 + 168 + 6, first.target)):
            assert sheet.crop((left, 42, left + 168, 42 + 168)).tobytes() == _fitted(picture).tobytes()
    with pytest.raises(ValueError, match=r"No pair of .* is accepted"):
        write_card(run, policy={"curators": "second"})
