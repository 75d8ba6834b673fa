"""Trainings in several processes of this machine.

They are forked by a server that has done the imports and nothing else: a process that has trained holds
threads and locks, and its children may wait for them forever.
"""

import multiprocessing
import os
import shutil
import signal
import socket
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy

from dsd import Student
from dsd.backbones import Batch
from dsd.data.loader import PairLoader
from dsd.sharding import whole
from tests.test_student import _batch

NUM_PAIRS, GLOBAL_BATCH, STEPS = 22, 4, 8  # five batches an epoch: the end is in the second one
TIMEOUT_S = 90


class Pairs:
    """Pairs that depend on their number alone."""

    ids = tuple(f"{i:03d}" for i in range(NUM_PAIRS))

    def load(self, positions: Any) -> Batch:
        return Batch.joined([_batch(1, seed=i) for i in positions])


class Data(lightning.LightningDataModule):
    def __init__(self, batch_size: int) -> None:
        super().__init__()
        self.batch_size = batch_size

    def train_dataloader(self) -> PairLoader:
        return PairLoader(
            Pairs(), range(NUM_PAIRS), self.batch_size,
            rank=self.trainer.global_rank, world_size=self.trainer.world_size,
        )  # fmt: skip


class Losses(Callback):
    """Each step's loss on this process; `stop(step)` may end it all."""

    def __init__(self, stop: Callable[[int], None]) -> None:
        self.losses: list[float] = []
        self.stop = stop

    def on_train_batch_end(self, trainer: Any, student: Any, outputs: Any, *args: Any) -> None:
        self.losses.append(float(outputs["loss"]))
        self.stop(trainer.global_step)


class TerminatedAt(Callback):
    """SIGTERM to one process within a step, counted from 1."""

    def __init__(self, step: int, rank: int) -> None:
        self.step, self.rank = step, rank

    def on_train_batch_start(self, trainer: Any, *args: Any) -> None:
        if (trainer.global_step + 1, trainer.global_rank) == (self.step, self.rank):
            os.kill(os.getpid(), signal.SIGTERM)


def strategy(kind: str, count: int) -> Any:
    if kind == "one":
        return "auto"
    limit = timedelta(seconds=TIMEOUT_S)
    if kind == "ddp":
        return DDPStrategy(process_group_backend="gloo", timeout=limit)
    return ModelParallelStrategy(
        data_parallel_size=count, tensor_parallel_size=1, save_distributed_checkpoint=False,
        process_group_backend="gloo", timeout=limit,
    )  # fmt: skip


def train(
    kind: str, count: int, folder: Path, base: Path, *, steps: int = STEPS, resume: Path | None = None,
    stop: Callable[[int], None] = lambda step: None, save_every: int = 3, export: Path | None = None,
    double: bool = False, **student: Any,
) -> dict[str, Any]:  # fmt: skip
    """Train on all processes, in float64 if `double`; the losses, and all trained weights whole."""
    arguments = {"lora": {"rank": 2}, "lr": 1e-3, "warmup_steps": 2, "ema_decay": 0.9, "seed": 3, **student}
    learner = Student(base=str(base), **arguments)
    if double:
        learner.double()
    losses = Losses(stop)
    saved = ModelCheckpoint(folder, "last", every_n_train_steps=save_every, enable_version_counter=False)
    trainer = lightning.Trainer(
        accelerator="cpu", devices=count, strategy=strategy(kind, count), max_steps=steps, logger=False,
        callbacks=[losses, saved], enable_progress_bar=False, enable_model_summary=False,
        gradient_clip_val=1.0, default_root_dir=folder,
    )  # fmt: skip
    trainer.fit(learner, Data(GLOBAL_BATCH // count), ckpt_path=resume, weights_only=False)
    if export is not None:
        learner.save_pretrained(export, components="trained")
    state = {name: whole(value).clone() for name, value in learner.state_dict().items()}
    return {"losses": losses.losses, "state": state}


def die(step: int) -> None:
    """End all processes in the fifth step, as if killed."""
    if step == 5:
        os._exit(9)


def die_alone(step: int) -> None:
    """End one of them."""
    if step == 5 and os.environ["RANK"] == "1":
        os._exit(9)


def abort_once(folder: Path) -> list[str]:
    """Leave a file, and be aborted the first time; the names of the files that were there."""
    there = sorted(path.name for path in folder.iterdir())
    (folder / "half").touch()
    if not folder.with_suffix(".aborted").exists():
        folder.with_suffix(".aborted").touch()
        os.abort()
    return there


def _child(rank: int, count: int, port: int, function: Callable[..., Any], args: Any, kwargs: Any) -> None:
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "GROUP_RANK": "0", "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        "TORCHELASTIC_RUN_ID": "test",
    }  # fmt: skip
    torch.set_num_threads(1)
    code = 1
    try:
        torch.save(function(*args, **kwargs), Path(kwargs["folder"]) / f"result-{rank}.pt")
        code = 0
    except BaseException:
        traceback.print_exc()
    os._exit(code)


Ended = tuple[list[Any], list[int | None], float]


def run(count: int, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Ended:
    """Call a function in so many processes; what they returned (None for those that did not), their exit
    codes (None for those that hung), and the seconds it took.

    Once in some fifty runs glibc finds its heap damaged by torch's own FSDP2 on CPUs, and aborts. No test
    ends a process by a signal, so one that such a signal ended is begun again from the same files, once.
    """
    folder = Path(kwargs["folder"])
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as kept:
        shutil.copytree(folder, kept, dirs_exist_ok=True)
        ended = _run(count, function, *args, **kwargs)
        if not {-signal.SIGABRT, -signal.SIGSEGV} & {*ended[1]}:
            return ended
        warnings.warn(f"torch crashed: exit codes {ended[1]}. Once more.", stacklevel=2)
        shutil.rmtree(folder)
        shutil.copytree(kept, folder)
    return _run(count, function, *args, **kwargs)


def _run(
    count: int, function: Callable[..., Any], *args: Any, timeout_s: float = 400, **kwargs: Any
) -> Ended:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    folder = Path(kwargs["folder"])
    children = [
        context.Process(target=_child, args=(rank, count, port, function, args, kwargs))
        for rank in range(count)
    ]
    begun = time.monotonic()
    for process in children:
        process.start()
    codes: list[int | None] = []
    for process in children:
        process.join(max(0.1, timeout_s - (time.monotonic() - begun)))
        codes.append(process.exitcode)
    for process in children:
        if process.is_alive():
            process.kill()
    seconds = time.monotonic() - begun
    results = [
        torch.load(folder / f"result-{rank}.pt", weights_only=False) if code == 0 else None
        for rank, code in enumerate(codes)
    ]
    return results, codes, seconds
