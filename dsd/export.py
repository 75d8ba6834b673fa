"""A trained student as a folder that stock diffusers loads."""

import importlib.metadata
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import diffusers
import torch
from torch import nn

import dsd
from dsd import backbones
from dsd import conditioning as conditionings
from dsd.backbones.base import Backbone
from dsd.backbones.lora import adapter_state, merged_state
from dsd.backbones.origin import is_local
from dsd.conditioning.base import Conditioning
from dsd.data.atomic import make_folder

CARD = "dsd.json"
ADAPTERS = "adapters"
"""Folder of the adapters as they were trained, beside the weights that they are merged into: in half
precision they could not be told from those any more."""

_NEW = ".saving-"


def save(
    folder: str | Path,
    *,
    backbone: Backbone,
    conditioning: Conditioning,
    base: Any,
    frame_size: tuple[int, int] | None,
    components: str = "all",
) -> None:
    """Write a student; see `Student.save_pretrained`."""
    if components not in ("all", "trained"):
        raise ValueError(f"Unknown components={components!r}. Allowed: 'all', 'trained'.")
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{str(folder)!r} is a file. Give a folder, or a name that is free.")
    make_folder(folder)
    assert backbone.denoiser is not None
    with _replacing(folder) as new:
        denoiser = plain_copy(backbone.denoiser)
        if components == "all":
            parts = {**backbone.components(), **conditioning.components(), "transformer": denoiser}
            pipeline = getattr(diffusers, conditioning.stock_pipeline or "FluxPipeline")
            pipeline(**parts).save_pretrained(new, safe_serialization=True)
        else:
            denoiser.save_pretrained(new / "transformer", safe_serialization=True)
        conditioning.save(new)
        adapters = adapter_state(backbone.denoiser)
        if adapters:
            diffusers.FluxPipeline.save_lora_weights(new / ADAPTERS, transformer_lora_layers=adapters)
        card = {
            "dsd": dsd.__version__,
            "conditioning": conditionings.spec(conditioning),
            "stock_pipeline": conditioning.stock_pipeline,
            "backbone": backbones.spec(backbone)["name"],
            "settings": backbone.settings,
            "base": base,
            "components": components,
            "frame_size": frame_size,
            "versions": {
                name: importlib.metadata.version(name)
                for name in ("torch", "diffusers", "transformers", "peft")
            },
        }
        (new / CARD).write_text(json.dumps(card, indent=2) + "\n")


@contextmanager
def _replacing(folder: Path) -> Iterator[Path]:
    """A folder to fill, whose entries then take the place of those in `folder`: what fails before leaves an
    older student as it was. The card goes first and comes last, so that a mixture of both is no student.
    """
    for left in folder.glob(f"{_NEW}*"):  # by a process that was killed
        shutil.rmtree(left)
    with tempfile.TemporaryDirectory(prefix=_NEW, dir=folder) as work:
        new = Path(work)
        yield new
        (folder / CARD).unlink(missing_ok=True)
        names = sorted(path.name for path in new.iterdir() if path.name != CARD)
        for name in {*names, ADAPTERS}:  # adapters too that the new student has not
            _remove(folder / name)
        for name in [*names, CARD]:
            (new / name).rename(folder / name)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def plain_copy(denoiser: nn.Module) -> Any:
    """The denoiser as a fresh model of its class without adapters, sharing what memory it can."""
    model: Any = denoiser
    # Else diffusers would forget what was registered since loading where the file did not name it: the
    # config.json of FLUX.1-dev has no out_channels.
    config = {**model.config, "_use_default_values": []}
    with torch.device("meta"):
        plain = type(model).from_config(config)
    missing, _ = plain.load_state_dict(merged_state(denoiser), strict=False, assign=True)
    assert not missing, missing
    return plain


def public_card(card: Mapping[str, Any]) -> dict[str, Any]:
    """A card for others: where folders lie on this machine is left out, what they are called stays.

    A base that is a folder becomes `"base": None` and `"base_folder"`, its name; see `base_of`.
    """
    public = {**card, "conditioning": _without_places(card["conditioning"])}
    base = card["base"]
    places = [base] if isinstance(base, str) else [(base or {}).get(key) for key in ("denoiser", "base")]
    for place in places:
        if place and is_local(str(place)):
            return {**public, "base": None, "base_folder": _name(str(place))}
    return public


def base_of(card: Mapping[str, Any], folder: str | Path) -> Any:
    """The base that a card names, as `backbones.load` takes it.

    Raises:
        FileNotFoundError: if it names none that others could have.
    """
    if card.get("base"):
        return card["base"]
    told = card.get("base_folder")
    known = f"was a folder {told!r} of whoever exported it" if told else "is not named"
    raise FileNotFoundError(
        f"{str(folder)!r} needs its base, which {known}. Pass base=, a folder, a Hub id or 'mini': the model "
        "that it was trained from."
    )


def _without_places(value: Any) -> Any:
    """A spec with the names of folders instead of their paths."""
    if isinstance(value, Mapping):
        return {key: _without_places(x) for key, x in value.items()}
    if isinstance(value, list | tuple):
        return [_without_places(x) for x in value]
    if not isinstance(value, str):
        return value
    kind, prefix, place = value.rpartition("local-dir:")
    return f"{kind}{prefix}{_name(place)}" if prefix or is_local(value) else value


def _name(place: str) -> str:
    return Path(place.replace("\\", "/")).expanduser().resolve().name
