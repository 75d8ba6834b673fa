"""Several processes train what one trains: DDP, FSDP2, killed and resumed."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.processes import STEPS, TIMEOUT_S, abort_once, die, die_alone, run, train

EXACT = {"ddp": 1e-6, "fsdp2": 1e-5}
KINDS = ["ddp", "fsdp2"]


def both(results: list[Any]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The global batch's losses, and the weights, which all processes agree on."""
    for other in results[1:]:
        assert all(torch.equal(other["state"][name], x) for name, x in results[0]["state"].items())
    losses = torch.tensor([result["losses"] for result in results], dtype=torch.float64)
    return losses.mean(0), results[0]["state"]


def assert_same(ours: Any, theirs: Any, tolerance: float) -> None:
    torch.testing.assert_close(ours[0], theirs[0], atol=tolerance, rtol=0)
    assert ours[1].keys() == theirs[1].keys()
    for name, x in theirs[1].items():
        torch.testing.assert_close(ours[1][name], x, atol=tolerance, rtol=0, msg=name)


@pytest.fixture(scope="module")
def one(tiny_flux: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What one process makes of the same global batches."""
    return both(run(1, train, "one", 1, folder=tmp_path_factory.mktemp("one"), base=tiny_flux)[0])


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_train_as_one(kind: str, one: Any, tiny_flux: Path, tmp_path: Path) -> None:
    results, codes, _ = run(2, train, kind, 2, folder=tmp_path, base=tiny_flux)
    assert codes == [0, 0]
    assert results[0]["losses"] != results[1]["losses"]  # each has its own pairs
    assert_same(both(results), one, EXACT[kind])


@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_only_rounding_tells_several_processes_from_one(kind: str, tiny_flux: Path, tmp_path: Path) -> None:
    """At ten times the learning rate their weights are 3e-6 apart in float32, which rounds the sum of two
    halves of a batch unlike that of the whole. In float64 4e-15 is left, so nothing else differs.
    """
    arguments: dict[str, Any] = {"base": tiny_flux, "lr": 1e-2, "double": True}
    one = both(run(1, train, "one", 1, folder=tmp_path / "one", **arguments)[0])
    assert {x.dtype for x in one[1].values() if x.is_floating_point()} == {torch.float64}
    results, codes, _ = run(2, train, kind, 2, folder=tmp_path / kind, **arguments)
    assert codes == [0, 0]
    assert_same(both(results), one, 1e-10)


@pytest.mark.parametrize("after", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_killed_and_resumed_in_mid_epoch(
    kind: str, after: int, one: Any, tiny_flux: Path, tmp_path: Path
) -> None:
    """Killed in the fifth step, two after the last checkpoint; gone on with by two processes, or by one."""
    _, codes, _ = run(2, train, kind, 2, folder=tmp_path, base=tiny_flux, stop=die)
    assert codes == [9, 9]
    goes_on = kind if after == 2 else "one"
    results, codes, _ = run(
        after, train, goes_on, after, folder=tmp_path, base=tiny_flux, resume=tmp_path / "last.ckpt"
    )
    assert codes == [0] * after
    losses, state = both(results)
    assert len(losses) == STEPS - 3
    assert_same((losses, state), (one[0][3:], one[1]), EXACT[kind])


@pytest.mark.parametrize("kind", KINDS)
def test_saving_does_not_wait_for_the_dead(kind: str, tiny_flux: Path, tmp_path: Path) -> None:
    """One process dies just before the others save: they end with an error in time, and the checkpoint before
    is whole."""
    _, codes, seconds = run(
        2, train, kind, 2, folder=tmp_path, base=tiny_flux, stop=die_alone, save_every=1,
        timeout_s=3 * TIMEOUT_S,
    )  # fmt: skip
    assert codes == [1, 9]
    assert seconds < 2 * TIMEOUT_S
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=False)
    assert checkpoint["global_step"] in (4, 5)
    assert not [path for path in tmp_path.iterdir() if path.suffix in (".tmp", ".part")]


def test_sharded_students_are_saved_whole(tiny_flux: Path, tmp_path: Path) -> None:
    """Trained in full, where every weight is spread: the saved denoiser is that of one process."""
    arguments: dict[str, Any] = {"lora": None, "steps": 2, "base": tiny_flux, "ema_decay": None}
    for kind, count in (("one", 1), ("fsdp2", 2)):
        folder = tmp_path / kind
        _, codes, _ = run(count, train, kind, count, folder=folder, export=folder / "student", **arguments)
        assert codes == [0] * count
    from safetensors.torch import load_file

    file = "student/transformer/diffusion_pytorch_model.safetensors"
    ours, theirs = load_file(tmp_path / "fsdp2" / file), load_file(tmp_path / "one" / file)
    assert ours.keys() == theirs.keys()
    for name, x in theirs.items():
        torch.testing.assert_close(ours[name], x, atol=1e-5, rtol=0, msg=name)
    card = json.loads((tmp_path / "fsdp2" / "student" / "dsd.json").read_text())
    assert card["frame_size"] == [32, 32]


def test_a_run_that_torch_aborted_begins_again_from_the_same_files(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "last.ckpt").touch()
    with pytest.warns(UserWarning, match="Once more"):
        results, codes, _ = run(1, abort_once, folder=tmp_path / "run")
    assert codes == [0]
    assert results == [["last.ckpt"]]
