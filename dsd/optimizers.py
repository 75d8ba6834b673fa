"""Optimisers by name, so that a configuration alone chooses one."""

import importlib
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn

OptimizerFactory = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
OptimizerSpec = str | Mapping[str, Any] | OptimizerFactory

KNOWN: Mapping[str, str] = {
    "adamw": "torch.optim:AdamW",
    "sgd": "torch.optim:SGD",
    "adafactor": "torch.optim:Adafactor",
    "adamw8bit": "bitsandbytes.optim:AdamW8bit",
    "paged_adamw8bit": "bitsandbytes.optim:PagedAdamW8bit",
    "schedulefree": "schedulefree:AdamWScheduleFree",
    "prodigy": "prodigyopt:Prodigy",
}
_EXTRAS = {"bitsandbytes": "bitsandbytes", "schedulefree": "optimizers", "prodigyopt": "optimizers"}
_OWN: Mapping[str, Mapping[str, Any]] = {"prodigy": {"lr": 1.0}}  # its rate is a factor of what it finds


def create(
    spec: OptimizerSpec, parameters: Iterable[nn.Parameter], *, fused: bool = False, **defaults: Any
) -> torch.optim.Optimizer:
    """The optimiser that a spec stands for.

    Args:
        spec: a name of `KNOWN`, "package.module:Class", either as `{"name": ..., **arguments}`, or a function
            from parameters to an optimiser.
        parameters: what it trains.
        fused: let "adamw" step in one pass over the weights.
        defaults: arguments that the spec does not give, such as `lr`; passed on if the class knows them.

    Raises:
        LookupError: if there is no such name or class.
        ModuleNotFoundError: if its package is not installed.
        TypeError: for an argument that it does not have.
    """
    if callable(spec):
        return spec(parameters)
    given: dict[str, Any] = {"name": spec} if isinstance(spec, str) else dict(spec)
    name = str(given.pop("name", ""))
    cls = _find(name)
    takes = inspect.signature(cls).parameters
    loose = any(p.kind is p.VAR_KEYWORD for p in takes.values())
    if unknown := [] if loose else [argument for argument in given if argument not in takes]:
        allowed = [argument for argument in takes if argument != "params"]
        raise TypeError(
            f"The optimizer {name!r} has no argument {unknown[0]!r}. Allowed: {', '.join(allowed)}."
        )
    if name == "adamw" and fused:
        defaults = {"fused": True, **defaults}
    defaults = {**defaults, **_OWN.get(name, {})}
    return cls(parameters, **{key: value for key, value in defaults.items() if key in takes} | given)


def rising(optimizer: torch.optim.Optimizer, warmup_steps: int) -> Any:
    """The optimiser as Lightning takes it, its learning rate rising linearly over the first steps."""
    if warmup_steps == 0:
        return optimizer
    rise = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: min(1.0, (i + 1) / warmup_steps))
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": rise, "interval": "step"}}


def start(optimizer: Any) -> None:
    """Let a schedule-free optimiser train; others know no such mode."""
    if callable(getattr(optimizer, "train", None)):
        optimizer.train()


def _find(name: str) -> Any:
    module, _, cls = KNOWN.get(name, name).partition(":")
    if not cls:
        raise LookupError(
            f"Unknown optimizer {name!r}. Allowed: {', '.join(KNOWN)}, or 'package.module:Class'."
        )
    try:
        found = getattr(importlib.import_module(module), cls, None)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        extra = _EXTRAS.get(package)
        what = f"diffusion-self-distillation[{extra}]" if extra else package
        raise ModuleNotFoundError(
            f"The optimizer {name!r} needs {error.name!r}, which is not installed: pip install '{what}'.",
            name=error.name,
        ) from error
    if found is None:
        raise LookupError(f"{module!r} has no class {cls!r}. Write 'package.module:Class'.")
    return found
