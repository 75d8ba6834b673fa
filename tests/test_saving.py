"""A student that is saved where another one lies: the old one, or the new one, and never half of each."""

import hashlib
from pathlib import Path

import diffusers
import pytest

from dsd import DSDPipeline
from tests.trained import trained


def files(folder: Path) -> dict[str, str]:
    """A digest of each file by its place."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture(scope="module")
def students(tiny_flux):
    return trained(tiny_flux, lora={"rank": 2}), trained(tiny_flux, "concat", {"rank": 2})


@pytest.mark.parametrize("last", ["save_lora_weights", "rename"])
def test_what_fails_leaves_the_old_student(last, students, tmp_path, monkeypatch):
    """On a full disk at the last file; and between the first and the last name, where neither is left."""
    old, new = students
    folder = tmp_path / "s"
    (folder / "training").mkdir(parents=True)
    (folder / "training" / "last.ckpt").touch()
    old.save_pretrained(folder, components="trained")
    before = files(folder)

    def full(*arguments, **named):
        raise OSError(28, "No space left on device")

    target = diffusers.FluxPipeline if last == "save_lora_weights" else Path
    with monkeypatch.context() as patch:
        patch.setattr(target, last, full)
        with pytest.raises(OSError, match="No space left"):
            new.save_pretrained(folder, components="trained")
    if last == "save_lora_weights":
        assert files(folder) == before
    else:
        assert not (folder / "dsd.json").exists()
        assert (folder / "training" / "last.ckpt").exists()
    (folder / ".saving-killed").mkdir()
    new.save_pretrained(folder, components="trained")
    new.save_pretrained(tmp_path / "fresh", components="trained")
    assert files(folder) == {**files(tmp_path / "fresh"), "training/last.ckpt": before["training/last.ckpt"]}
    assert sorted(path.name for path in folder.iterdir()) == [
        "adapters",
        "dsd.json",
        "training",
        "transformer",
    ]
    assert DSDPipeline.from_pretrained(folder).conditioning.frames == ("target",)
