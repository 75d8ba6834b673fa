"""Training a student from one configuration."""

import difflib
import importlib
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from lightning import Trainer

_CHECKPOINT = "last.ckpt"


def fit(
    out: str,
    student: Mapping[str, Any],
    data: Mapping[str, Any],
    trainer: Mapping[str, Any] | None = None,
    pictures: Mapping[str, Any] | None = None,
    checkpoint_every_n_steps: int = 500,
    components: Literal["all", "trained"] = "all",
    resume: bool = False,
) -> str:
    """Train a student on pairs and save it, ready for `dsd sample`, `DSDPipeline` and stock diffusers.

    Args:
        out: the folder of the student; its checkpoints, logs and pictures go to `training/` in it.
        student: arguments of `dsd.Student`.
        data: arguments of `dsd.PairDataModule`.
        trainer: arguments of `lightning.Trainer`, such as max_steps, precision and devices; an object is
            written as `{class_path: package.Class, init_args: {...}}`.
        pictures: arguments of `dsd.pictures.ValidationPictures`: `references` (files), `prompts`,
            `every_n_steps`, ...
        checkpoint_every_n_steps: optimiser steps between checkpoints, of which the last is kept; there is one
            of the very last step too, by Ctrl-C or SIGTERM as well.
        components: "all" saves a folder that stands alone; "trained" leaves out what the base has.
        resume: go on from the last checkpoint in `out`.

    Raises:
        OSError: if `out` cannot be written.
        ValueError: if nothing says how long to train, or `out` holds a training and `resume` is not set.
        FileNotFoundError: if there is nothing to resume.
        TypeError: if the trainer has no such argument.
        KeyboardInterrupt: if the user stopped it; `resume` goes on from the last checkpoint.
        SystemExit: if SIGTERM stopped it, with the status 143.
    """
    folder = Path(out).expanduser()
    training = folder / "training"
    checkpoint = training / _CHECKPOINT
    settings = dict(trainer or {})
    if not any(settings.get(name) is not None for name in ("max_steps", "max_epochs", "max_time")):
        raise ValueError("Say how long to train, for example --trainer.max_steps 1000.")
    if checkpoint_every_n_steps < 1:
        raise ValueError(f"`checkpoint_every_n_steps` must be at least 1; got {checkpoint_every_n_steps}.")
    if checkpoint.exists() and not resume:
        raise ValueError(
            f"{training} holds a training. Add --resume to go on with it, or give another --out."
        )
    if resume and not checkpoint.exists():
        raise FileNotFoundError(
            f"There is nothing to resume: {checkpoint} does not exist. Leave out --resume."
        )

    from dsd import PairDataModule, Student
    from dsd.data.atomic import make_folder
    from dsd.interrupts import interruptible
    from dsd.sharding import is_sharded

    module = PairDataModule(**data)
    module.setup()  # what is wrong with the data or the trainer shows before the model is loaded
    make_folder(training)
    loop = _trainer(settings, training, checkpoint_every_n_steps, pictures)
    learner = Student(**student)
    with interruptible(loop):
        loop.fit(learner, module, ckpt_path=str(checkpoint) if resume else None)
    if loop.is_global_zero or is_sharded(learner):
        learner.save_pretrained(folder, components=components)
    if not loop.is_global_zero:
        return ""  # of several processes one speaks
    return f"{loop.global_step} steps in all; the student is in {folder}"


def _trainer(
    settings: Mapping[str, Any], training: Path, every_n_steps: int, pictures: Mapping[str, Any] | None
) -> "Trainer":
    import lightning
    from lightning.pytorch.loggers import CSVLogger

    from dsd.checkpoints import LastCheckpoint

    allowed = [name for name in inspect.signature(lightning.Trainer.__init__).parameters if name != "self"]
    for name in settings:
        if name not in allowed:
            near = difflib.get_close_matches(name, allowed, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise TypeError(
                f"lightning.Trainer has no argument {name!r}.{hint} Allowed: {', '.join(allowed)}."
            )
    arguments = {name: _built(value) for name, value in settings.items()}
    callbacks = arguments.pop("callbacks", None) or []
    callbacks = [*(callbacks if isinstance(callbacks, list) else [callbacks]), *_pictures(pictures)]
    callbacks.append(LastCheckpoint(training / _CHECKPOINT, every_n_steps))
    defaults = {"default_root_dir": training, "logger": CSVLogger(training, name="logs")}
    return lightning.Trainer(**{**defaults, **arguments, "callbacks": callbacks})


def _pictures(pictures: Mapping[str, Any] | None) -> list[Any]:
    if not pictures:
        return []
    from dsd.opening import open_image
    from dsd.pictures import ValidationPictures

    references = pictures.get("references") or []
    paths = [references] if isinstance(references, str) else references
    opened = [open_image(Path(path).expanduser()) for path in paths]
    return [ValidationPictures(**{**pictures, "references": opened})]


def _built(value: Any) -> Any:
    """The object that `{class_path: ..., init_args: {...}}` stands for, as in Lightning's configurations."""
    if isinstance(value, list):
        return [_built(item) for item in value]
    if not (isinstance(value, Mapping) and "class_path" in value):
        return value
    module, _, name = str(value["class_path"]).rpartition(".")
    if not module:
        raise ValueError(
            f"A class_path is the whole path, package.module.Class; got {value['class_path']!r}."
        )
    cls = getattr(importlib.import_module(module), name)
    return cls(**{key: _built(item) for key, item in (value.get("init_args") or {}).items()})
