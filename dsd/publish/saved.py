"""A saved student's folder, its weights read tensor by tensor, and the base that it was trained from."""

from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dsd import mini
from dsd.convert.adapters import LORA_FILE, Adapter, read_adapters
from dsd.convert.checkpoint import Stored, read_folder, read_json
from dsd.convert.folder import PARTS, find
from dsd.export import ADAPTERS, CARD, base_of, public_card

_STANDARD = frozenset({*PARTS, "transformer", "image_encoder", "feature_extractor", ADAPTERS})


@dataclass(frozen=True, kw_only=True)
class Saved:
    """A student as `Student.save_pretrained` or `dsd convert` wrote it. No values are read yet.

    Attributes:
        folder: where it is.
        card: its `dsd.json`.
        tensors: of the transformer, by diffusers' names.
        adapters: as they were trained, by layer; empty if there were none.
        merged: whether the adapters are in the tensors already.
    """

    folder: Path
    card: Mapping[str, Any]
    tensors: Mapping[str, Stored]
    adapters: Mapping[str, Adapter]
    merged: bool

    def load(self, name: str) -> Tensor:
        """A tensor of the transformer with the adapters added in."""
        value = self.tensors[name].load()
        layer, _, leaf = name.rpartition(".")
        if self.merged or leaf != "weight" or layer not in self.adapters:
            return value
        return self.adapters[layer].merged(value)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that most of the transformer's weights have."""
        sizes: dict[torch.dtype, int] = {}
        for stored in self.tensors.values():
            sizes[stored.dtype] = sizes.get(stored.dtype, 0) + torch.Size(stored.shape).numel()
        return max(sizes, key=lambda dtype: sizes[dtype])

    @property
    def conditioning(self) -> str:
        """The conditioning's name."""
        return str(self.card["conditioning"]["name"])

    def beside(self) -> dict[Path, Path]:
        """What the conditioning keeps outside the denoiser: files by their places in the folder."""
        files = [path for path in self.folder.glob("*.safetensors") if path.name != LORA_FILE]
        for inner in self.folder.iterdir():
            if inner.is_dir() and inner.name not in _STANDARD and (inner / "config.json").is_file():
                files += [path for path in inner.iterdir() if path.suffix in (".json", ".safetensors")]
        return {path.relative_to(self.folder): path for path in sorted(files)}


def open_saved(student: str | PathLike[str]) -> Saved:
    """Read a student's card and the headers of its weights.

    Args:
        student: a folder or a Hub id.

    Raises:
        FileNotFoundError: if there is no such folder, or it is not a student's.
        LookupError: if the Hub does not give it.
        ValueError: if a file is damaged.
    """
    folder = find(student, ["*.json", "*.safetensors", "*/*.json", "*/*.safetensors", "*/*.txt", "*/*.model"])
    if not (folder / CARD).is_file():
        raise FileNotFoundError(
            f"{folder} has no {CARD}. Give the folder of a student, as Student.save_pretrained, `dsd fit` or "
            "`dsd convert` write it."
        )
    card = read_json(folder / CARD)
    tensors = read_folder(folder / "transformer")
    apart, beside = folder / LORA_FILE, folder / ADAPTERS / LORA_FILE
    file = apart if card.get("lora") else beside
    shapes = {name: stored.shape for name, stored in tensors.items()}
    adapters = read_adapters(file, shapes) if file.is_file() else {}
    return Saved(folder=folder, card=card, tensors=tensors, adapters=adapters, merged=not card.get("lora"))


def base_name(card: Mapping[str, Any]) -> str:
    """The base that a card names: a Hub id, a folder or "mini"; empty if it names none."""
    base = card["base"] or ""
    return str(base if isinstance(base, str) else base.get("base", ""))


def public_base(card: Mapping[str, Any]) -> str | None:
    """The base under a name by which others load it: a Hub id or "mini"; None for a folder."""
    return base_name(public_card(card)) or None


def base_tensors(saved: Saved, base: str | PathLike[str] | None = None) -> dict[str, Stored]:
    """The transformer's tensors of the base that a student was trained from.

    Args:
        saved: the student.
        base: where it is now, if it is not where the card says: a folder, a Hub id or "mini".

    Raises:
        FileNotFoundError: if there is no such base.
        LookupError: if the Hub does not give it.
        ValueError: if a file is damaged.
    """
    card = saved.card
    named = None if base is not None else base_of(card, saved.folder)
    if isinstance(named, Mapping) and named.get("denoiser"):
        return read_folder(find(named["denoiser"], ["*.json", "*.safetensors"]))
    given = base_name(card) if base is None else str(base)
    try:
        folder = (
            mini.path()
            if given == "mini"
            else find(given, ["transformer/*.json", "transformer/*.safetensors"])
        )
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"The base {given!r} that the student was trained from is not there. Say by `base` where it is."
        ) from error
    return read_folder(folder / "transformer")
